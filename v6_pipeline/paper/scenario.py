"""Scenario files: timed actions on a gateway.

Belongs here: reading and checking such a file, and playing it. An entry names one of `actions`.

A scenario is TOML, one table for each entry::

    [[action]]
    at = 5.0          # seconds after the start
    every = 60.0      # optional: repeat at this interval
    until = 600.0     # optional, with every: the last moment
    do = "drop"       # an action, followed by its fields
    client_id = 60

Time is the running loop's, so that a virtual clock moves a scenario too.
"""

import asyncio
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.actions import Actions
from v6_pipeline.paper.timers import Timers

_SHIPPED = "scenarios"
_OWN_FIELDS = frozenset({"at", "every", "until", "do"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One action at one moment, or repeated; `place` is its place in the file, for messages."""

    place: str
    at: float
    do: str
    fields: Mapping[str, object]
    every: float | None = None
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class Scenario:
    """Entries in the order of the file."""

    name: str
    entries: tuple[Entry, ...]


def load_scenario(path: Path, actions: Actions) -> Scenario:
    """Read a scenario file and check all of it against the gateway's actions, contracts and accounts.

    Raises:
        GatewayError: the file cannot be read or is not a scenario; names the file, the entry and the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        shipped = ", ".join(shipped_scenarios())
        raise GatewayError(f"no scenario file {path}: name a TOML file, or one that is shipped: {shipped}") from None
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        raise GatewayError(f"cannot read scenario {path}: {reason}") from problem
    return parse_scenario(str(path), text, actions)


def shipped_scenarios() -> list[str]:
    """Return the names of the scenarios that come with the package."""
    folder = resources.files("v6_pipeline.paper").joinpath(_SHIPPED)
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def shipped_scenario(name: str, actions: Actions) -> Scenario:
    """Return a scenario that comes with the package.

    Raises:
        GatewayError: there is none of this name.
    """
    if name not in shipped_scenarios():
        raise GatewayError(f"no scenario {name!r} comes with the package: one of {', '.join(shipped_scenarios())}")
    text = resources.files("v6_pipeline.paper").joinpath(_SHIPPED, f"{name}.toml").read_text(encoding="utf-8")
    return parse_scenario(name, text, actions)


def parse_scenario(name: str, text: str, actions: Actions) -> Scenario:
    """Parse a scenario; see `load_scenario`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise GatewayError(f"scenario {name} is not TOML: {problem}") from problem
    unknown = sorted(document.keys() - {"action"})
    tables = document.get("action")
    if unknown or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        wrong = f"unknown table or key {', '.join(unknown)}" if unknown else "no [[action]] tables"
        raise GatewayError(f"scenario {name}: {wrong}; it is a list of [[action]] tables")
    return Scenario(name, tuple(_entry(f"{name}: action {n}", table, actions) for n, table in enumerate(tables, 1)))


def _entry(place: str, table: Mapping[str, object], actions: Actions) -> Entry:
    do = table.get("do")
    if not isinstance(do, str):
        raise GatewayError(f"scenario {place}: do is missing or not text")
    place = f"{place} ({do})"
    fields = {key: value for key, value in table.items() if key not in _OWN_FIELDS}
    try:
        at, every, until = _moments(table)
        actions.read(do, fields)
    except GatewayError as problem:
        raise GatewayError(f"scenario {place}: {problem}") from problem
    return Entry(place, at, do, fields, every, math.inf if until is None else until)


def _moments(table: Mapping[str, object]) -> tuple[float, float | None, float | None]:
    at = _moment(table, "at", least=0.0)
    if at is None:
        raise GatewayError("at is missing")
    every, until = _moment(table, "every", least=0.01), _moment(table, "until", least=at)
    if until is not None and every is None:
        raise GatewayError("until needs every")
    return at, every, until


def _moment(table: Mapping[str, object], name: str, *, least: float) -> float | None:
    value = table.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise GatewayError(f"{name} must be a number of seconds, at least {least:g}")
    return float(value)


class Player:
    """Plays scenarios on one gateway."""

    def __init__(self, actions: Actions, timers: Timers) -> None:
        self._actions = actions
        self._timers = timers
        self._played = 0

    def play(self, scenario: Scenario) -> None:
        """Begin a scenario now, in addition to those that are running."""
        self._played += 1
        begin = asyncio.get_running_loop().time()
        for number, entry in enumerate(scenario.entries):
            self._schedule((self._played, number), entry, begin, entry.at)

    def _schedule(self, key: tuple[int, int], entry: Entry, begin: float, at: float) -> None:
        def act() -> None:
            try:
                self._actions.perform(entry.do, entry.fields)
            except GatewayError as problem:
                raise GatewayError(f"scenario {entry.place}: {problem}") from problem
            if entry.every is not None and at + entry.every <= entry.until:
                self._schedule(key, entry, begin, at + entry.every)

        self._timers.after(key, max(0.0, begin + at - asyncio.get_running_loop().time()), act)
