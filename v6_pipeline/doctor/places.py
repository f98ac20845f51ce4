"""Examines this machine: home, state database, lake and calendar.

Creates and migrates nothing; the files that it writes as a test are deleted at once.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from v6_pipeline import plugins
from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.doctor.findings import Finding, fault, ok, warning
from v6_pipeline.doctor.openness import open_to_others
from v6_pipeline.doctor.statements import examine_statements
from v6_pipeline.errors import LakeError, SettingsError, StateError
from v6_pipeline.lake.faults import safe_uri
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.recovery.durability import LOG_FOLDER, local_path
from v6_pipeline.lake.tables import TABLES
from v6_pipeline.settings import Settings, StreamerMode
from v6_pipeline.state.database import StateDatabase

DATABASE_CLOCK_WARNING = timedelta(seconds=2)
"""A round trip to a distant server is shorter."""
CALENDAR_AHEAD = timedelta(days=365)
"""A calendar that ends sooner than this calls for an upgrade."""


def examine_places(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Examine everything that needs no gateway; ``now`` is in UTC."""
    yield _home(settings)
    yield from open_to_others(settings)
    yield from _state(settings)
    yield _lake(settings)
    yield from examine_statements(settings)
    yield _calendar(settings, now)


def examine_settings(settings: Settings) -> Iterator[Finding]:
    """Examine what the settings name: handlers and notifiers, which are imported but not built, and the Flex folder."""
    by_streamer = settings.streamer is StreamerMode.SPAWN  # Dagster's processes, also python -m, load the notifiers
    found = [
        *_unloadable("V6_HANDLERS", settings.handlers, from_working_folder=by_streamer),
        *_unloadable("V6_NOTIFIERS", settings.notifiers, from_working_folder=True),
    ]
    if settings.flex_dir is not None and (why := _unusable(settings.flex_dir)):
        found.append(
            warning(
                "settings",
                f"V6_FLEX_DIR: {why}, so no statement is found",
                "create the folder, or set V6_FLEX_DIR to the right one",
            )
        )
    source = str(settings.file) if settings.file.exists() else "defaults and environment; there is no v6.toml"
    yield from found or [ok("settings", source)]


def _unusable(folder: Path) -> str | None:
    try:
        return None if folder.is_dir() else f"there is no folder {folder}"
    except OSError as error:
        return f"{folder}: {error.strerror}"


def _unloadable(variable: str, specs: Iterable[str], *, from_working_folder: bool) -> Iterator[Finding]:
    remedy = f"install the module in this environment or name its folder in PYTHONPATH, or correct {variable}"
    for spec in specs:
        try:
            with _working_folder_on_path() if from_working_folder else contextlib.nullcontext():
                plugins.find(variable, spec)
        except SettingsError as error:
            yield fault("settings", str(error), remedy)


@contextlib.contextmanager
def _working_folder_on_path() -> Iterator[None]:
    """Add the working folder to the path, as ``python -m`` does for the streamer; the program ``v6`` does not."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def _home(settings: Settings) -> Finding:
    if not settings.home.is_dir():
        return fault(
            "home", f"{settings.home} does not exist", "run 'v6 init', or name the right home with --home PATH"
        )
    reason = _unwritable(settings.home)
    if reason is not None:
        return fault(
            "home", f"{settings.home} cannot be written: {reason}", "set V6_HOME to a folder this user can write"
        )
    return ok("home", str(settings.home))


def _unwritable(folder: Path) -> str | None:
    """Return why no file can be created in a folder; None if it can. Permissions do not show a read-only disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"v6")
    except OSError as error:
        return error.strerror or str(error)
    return None


def _state(settings: Settings) -> Iterator[Finding]:
    name = settings.safe_state_url
    try:
        revision = StateDatabase.examine(settings.state_database_url, name_for_messages=name)
    except StateError as error:
        yield fault("state", str(error))
        return
    if revision.stored is None:
        yield fault("state", f"there is no state database at {name}", "run 'v6 init'")
    elif not revision.is_current:
        yield warning(
            "state",
            f"{name} has schema {revision.stored}, this version's is {revision.current}",
            "run 'v6 init', which migrates it and changes nothing else, then run 'v6 doctor' again",
        )
    else:
        yield ok("state", f"{name}, schema {revision.stored}, can be written")
    off = revision.clock_difference.total_seconds()
    if abs(off) > DATABASE_CLOCK_WARNING.total_seconds():
        yield warning(
            "state clock",
            f"this machine's clock is {abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} that of {name}",
            "v6 goes by the database's clock, but other programs on this machine do not: set both machines by NTP",
        )


def _lake(settings: Settings) -> Finding:
    lake, place = Lake.from_settings(settings), safe_uri(settings.lake_root)
    folder = local_path(settings.lake_root)
    if folder is not None and folder.exists() and not folder.is_dir():
        return fault("lake", f"{place} is a file", "set V6_LAKE_URI to a folder, or move the file away")
    try:
        kind = lake.kind()
        tables = sum(lake.table(spec).load() is not None for spec in TABLES)
    except LakeError as error:
        return fault("lake", str(error))
    unwritable = {} if folder is None else {path: why for path in _written(folder) if (why := _unwritable(path))}
    if unwritable:
        first, reason = next(iter(unwritable.items()))
        others = f", nor can {len(unwritable) - 1} more of its folders" if len(unwritable) > 1 else ""
        remedy = (
            "make this user the owner of the lake and all files in it (after a run as root, root owns them), check "
            "that space is left, or set V6_LAKE_URI to another folder"
        )
        return fault("lake", f"{first} cannot be written: {reason}{others}", remedy)
    if folder is None:
        try:
            lake.try_writing()
        except LakeError as error:
            return fault("lake", str(error), "let the credentials in V6_LAKE_OPTIONS put and delete objects there")
    held = "empty so far" if kind is None else f"{tables} of {len(TABLES)} tables, {kind.value} accounts"
    return ok("lake", f"{place}, {held}")


def _written(lake: Path) -> Iterator[Path]:
    """Return the existing folders that commits write into: the lake, tables, their logs and newest partitions."""
    yield next(parent for parent in (lake, *lake.parents) if parent.exists())
    for table in (lake / spec.name for spec in TABLES):
        partitions = sorted(table.glob("*=*"))
        yield from (path for path in (table, table / LOG_FOLDER, *partitions[-1:]) if path.is_dir())


def _calendar(settings: Settings, now: datetime) -> Finding:
    calendar = TradingCalendar(settings.timezone)
    says = f"sessions until {calendar.last}"
    if calendar.last <= now.date():
        return fault("calendar", says, "upgrade v6_pipeline: it knows no further trading day")
    if calendar.last - now.date() < CALENDAR_AHEAD:
        return warning("calendar", says, "upgrade v6_pipeline before that day")
    return ok("calendar", says)
