"""The file of ``v6 strategies import``, CSV or YAML, which is read and checked as a whole before anything is written.

Both formats give entries of texts, which are parsed alike. Scalars of YAML are taken as text, so that no conid becomes
a number of another base and no account a truth value.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from yaml import Node

from v6_pipeline.errors import UsageError
from v6_pipeline.state.registry.changes import check_strategy
from v6_pipeline.state.registry.selector import Selector

CSV_COLUMNS = ("strategy", "conid", "selector", "account", "quantity", "priority")
YAML_KEYS = ("strategy", "conids", "selectors", "account", "quantity", "priority")
YAML_SUFFIXES = {".yaml", ".yml"}
_DIGITS = 19
"""Digits of a 64-bit number; Python raises its own exception on some thousands of digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyEntry:
    """Contracts and selectors of a strategy, in one account or any (``None``), a quantity of each or all (``None``)."""

    strategy: str
    conids: tuple[int, ...] = ()
    selectors: tuple[Selector, ...] = ()
    account: str | None = None
    quantity: float | None = None
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """An entry as texts, and its place in the file."""

    place: str
    strategy: str
    conids: Sequence[str]
    selectors: Sequence[str]
    account: str
    quantity: str
    priority: str


def read_strategies(path: Path, *, default_priority: int) -> list[StrategyEntry]:
    """Return the entries of a YAML file (``.yaml``, ``.yml``), or else of a CSV file, one conid or selector per row.

    Raises:
        UsageError: the file cannot be read or an entry is wrong; it names file, line and field.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}") from None
    found = _yaml_entries(path, text) if path.suffix.lower() in YAML_SUFFIXES else _csv_entries(path, text)
    return [_entry(texts, default_priority) for texts in found]


def _csv_entries(path: Path, text: str) -> list[_Texts]:
    try:
        reader = csv.DictReader(text.splitlines(keepends=True), strict=True, skipinitialspace=True)
        _check_header(path, reader.fieldnames or ())
        rows = [
            _csv_entry(f"{path}, line {reader.line_num}", row) for row in reader if any(value for value in row.values())
        ]
    except csv.Error as error:
        raise UsageError(f"{path} is not a CSV file: {error}") from None
    if not rows:
        raise UsageError(f"{path} has no rows under its header")
    return rows


def _check_header(path: Path, header: object) -> None:
    names = list(header) if isinstance(header, (list, tuple)) else []
    named = set(names)
    is_complete = "strategy" in named and named & {"conid", "selector"}
    if not is_complete or named - set(CSV_COLUMNS) or len(named) != len(names):
        remedy = "separate with commas; " if any(";" in str(name) for name in names) else ""
        raise UsageError(
            f"{path}, line 1: the header is {','.join(names) or 'empty'}; {remedy}it must have strategy and conid or "
            f"selector, may have {','.join(CSV_COLUMNS)}, and each once"
        )


# None is csv's key for cells beyond the header.
def _csv_entry(place: str, row: Mapping[str | None, str | list[str] | None]) -> _Texts:
    if None in row:
        raise UsageError(f"{place}: more fields than the header: put a selector in quotes, because it has commas")
    cells = {name: value.strip() if isinstance(value, str) else "" for name, value in row.items() if name}
    conid, selector = cells.get("conid", ""), cells.get("selector", "")
    if conid and selector:
        raise UsageError(f"{place}: a conid and a selector in one row: give each its own row")
    return _Texts(
        place=place,
        strategy=cells["strategy"],
        conids=[] if selector else [conid],
        selectors=[selector] if selector else [],
        account=cells.get("account", ""),
        quantity=cells.get("quantity", ""),
        priority=cells.get("priority", ""),
    )


def _yaml_entries(path: Path, text: str) -> list[_Texts]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: not YAML: {error.problem or error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UsageError(f"{path}: not YAML: nested too deeply") from None
    if not isinstance(root, yaml.SequenceNode) or not root.value:
        empty = " is empty" if root is None else ""
        raise UsageError(f"{path}{empty}: it must be a list of entries, each with {', '.join(YAML_KEYS)}")
    return [_yaml_entry(path, node) for node in root.value]


def _yaml_entry(path: Path, node: Node) -> _Texts:
    place = _place(path, node)
    fields = dict(_yaml_fields(path, node))
    lists = {name: [] if name not in fields else _texts(path, name, fields[name]) for name in ("conids", "selectors")}
    single = {
        name: "" if name not in fields else _text(path, name, fields[name])
        for name in ("strategy", "account", "quantity", "priority")
    }
    if not lists["conids"] and not lists["selectors"]:
        raise UsageError(f"{place}: no conids and no selectors: give at least one")
    return _Texts(place=place, **lists, **single)  # type: ignore[arg-type]  # each name has its type above


def _yaml_fields(path: Path, node: Node) -> Iterator[tuple[str, Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{_place(path, node)}: an entry has {', '.join(YAML_KEYS)}, this one is {_kind(node)}")
    seen: set[str] = set()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name not in YAML_KEYS or name in seen:
            wrong = "is there twice" if name in seen else "is not among them"
            raise UsageError(f"{_place(path, key)}: an entry has {', '.join(YAML_KEYS)}; {_kind(key)} {wrong}")
        seen.add(name)
        yield name, value


def _texts(path: Path, name: str, node: Node) -> list[str]:
    if not isinstance(node, yaml.SequenceNode):
        text = _text(path, name, node)
        return [text] if text else []
    for item in node.value:
        if name == "selectors" and node.flow_style and isinstance(item, yaml.ScalarNode) and item.style is None:
            # Its comma would split it into two selectors that each match far more.
            raise UsageError(f"{_place(path, item)}, selectors: within [...] put each in quotes, because it has commas")
    found = [_text(path, name, item) for item in node.value]
    if "" in found:
        raise UsageError(f"{_place(path, node)}, {name}: one of them is empty")
    return found


def _text(path: Path, name: str, node: Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise UsageError(f"{_place(path, node)}, {name}: a text or a number was expected")
    return "" if node.tag == "tag:yaml.org,2002:null" else str(node.value).strip()


def _kind(node: Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else f"a {node.tag.rpartition(':')[2]}"


def _place(path: Path, node: Node) -> str:
    return f"{path}, line {node.start_mark.line + 1}"


def _entry(texts: _Texts, default_priority: int) -> StrategyEntry:
    place = texts.place
    account = texts.account.upper() or None
    if texts.selectors and texts.quantity:
        raise UsageError(f"{place}, quantity: it goes with conids, a selector takes the whole holding")
    return StrategyEntry(
        strategy=_strategy(place, texts.strategy),
        conids=tuple(_conid(place, text) for text in texts.conids),
        selectors=tuple(_selector(place, text, account) for text in texts.selectors),
        account=account,
        quantity=_quantity(place, texts.quantity),
        priority=_priority(place, texts.priority, default_priority),
    )


def _strategy(place: str, text: str) -> str:
    try:
        check_strategy(text)
    except UsageError as error:
        raise UsageError(f"{place}, strategy: {error}") from None
    return text


def _selector(place: str, text: str, account: str | None) -> Selector:
    try:
        return Selector.parse(text).within(account)
    except UsageError as error:
        raise UsageError(f"{place}, {error}") from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


def _conid(place: str, text: str) -> int:
    if not _is_number(text) or not 0 < int(text) < 2**63:
        raise UsageError(f"{place}, conid: {text!r} is not a conid, which is a positive number")
    return int(text)


def _quantity(place: str, text: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number == 0:
        raise UsageError(
            f"{place}, quantity: {text!r} is not a quantity: a number other than 0, or empty for the whole holding"
        )
    return number


def _priority(place: str, text: str, default: int) -> int:
    if not text:
        return default
    if not _is_number(text) or int(text) > 1_000_000:
        raise UsageError(f"{place}, priority: {text!r} is not between 0 (most important) and 1000000")
    return int(text)
