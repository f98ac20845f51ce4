"""Finding damage that a power cut or a person has done to the files of a table on a local disk. Reads only.

``tail_damage`` is the cheap inspection at every start: the newest versions and the checkpoint. ``inspect`` is the full
inspection before a repair, which is in ``recovery.repair``.

A half-written log file may end exactly at the end of a line. delta-rs writes ``commitInfo``, with the number of files,
first: so a file with fewer actions than it announces is recognised as well.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from v6_pipeline.lake.recovery.durability import (
    LOG_FOLDER,
    POINTER,
    checkpoint_file,
    flushed_version,
    log_file,
    read_log,
)

TAIL_VERSIONS = 25
"""Versions to inspect at a start: those since the checkpoint (every 20 commits), with some margin."""
_LOG_NAME = re.compile(r"(\d{20})\.json")
_CHECKPOINT_NAME = re.compile(r"(\d{20})\.checkpoint\.parquet")
_PARQUET = b"PAR1"
_SMALLEST_PARQUET = 12


class DamageKind(enum.StrEnum):
    """Kind of damage to a file."""

    EMPTY_LOG = "empty log file"
    TORN_LOG = "half-written log file"
    MISSING_LOG = "missing log file"
    BAD_CHECKPOINT = "damaged checkpoint"
    BAD_POINTER = "damaged checkpoint pointer"
    LOST_DATA = "missing data file"
    TORN_DATA = "truncated data file"


LOG_DAMAGE = frozenset({DamageKind.EMPTY_LOG, DamageKind.TORN_LOG, DamageKind.MISSING_LOG})


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A damaged file; ``file`` is relative to the table, ``version`` None for a file of no single version.

    ``rows`` and ``partition`` are those of a data file, None if the log does not have them.
    """

    kind: DamageKind
    file: str
    version: int | None = None
    rows: int | None = None
    partition: str | None = None

    @classmethod
    def of(cls, kind: DamageKind, table: Path, path: Path, version: int | None = None) -> Damage:
        """Return the damage of a log file."""
        return cls(kind=kind, file=path.relative_to(table).as_posix(), version=version)

    def __str__(self) -> str:
        return f"{self.kind} {self.file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFile:
    """A data file of the newest version; ``version`` added it, None if that was before the checkpoint."""

    path: str
    size: int
    rows: int | None
    partition: str | None
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """State of a table's files.

    ``base`` is the newest whole checkpoint, None if the log is read from version 0; ``newest`` the highest version with
    any trace, -1 for none. ``log_damage`` and ``data_damage`` are in the order of versions.
    """

    base: int | None
    newest: int
    log_damage: list[Damage]
    data_damage: list[Damage]

    @property
    def damage(self) -> list[Damage]:
        """All damage, that of the log first."""
        return self.log_damage + self.data_damage


def tail_damage(table: Path, newest: int) -> Damage | None:
    """Return the first damage near the newest version of a table that delta-rs opened at version ``newest``.

    Checks the pointer and the checkpoint that it names, the log files since, and the newest version's data files. It
    does not search for gaps in the log: delta-rs does not open such a table, and expired log files may be missing.
    Takes two milliseconds, however long the history.
    """
    pointed, damage = _pointer(table)
    if damage is not None:
        return damage
    marked = _marked(table)
    if marked > newest and not log_file(table, marked).exists():  # otherwise it was committed after the opening
        return _missing_log(table, marked)
    oldest = max(newest - TAIL_VERSIONS, -1 if pointed is None else pointed) + 1
    for version in range(min(oldest, newest), newest + 1):
        found = log_damage(table, version)
        if found is not None and found.kind is not DamageKind.MISSING_LOG:
            return found
    added = _added(table, newest) if log_file(table, newest).exists() else []
    return next(_lost(table, added), None)


def inspect(table: Path, *, without: Collection[int] = ()) -> Inspection:
    """Inspect all log files since the newest whole checkpoint, and every live data file.

    Versions of ``without`` count as missing, to see the state of the table without them.

    Raises:
        OSError: the folder cannot be read.
    """
    versions, checkpoints = _names(table)
    checkpoints -= set(without)
    damage: list[Damage] = []
    base: int | None = None
    adds: list[dict[str, Any]] = []
    for version in sorted(checkpoints, reverse=True):
        path = checkpoint_file(table, version)
        held = _checkpoint_adds(path)
        if held is not None:
            base, adds = version, held
            break
        damage.append(Damage.of(DamageKind.BAD_CHECKPOINT, table, path, version))
    _, bad_pointer = _pointer(table)
    if bad_pointer is not None and all(bad_pointer.file != found.file for found in damage):
        damage.append(bad_pointer)
    left = versions.difference(without)
    # A version that is marked as flushed existed, whatever the log shows now.
    newest = max((*left, -1 if base is None else base, _marked(table)))
    bad_logs = _bad_logs(table, base, left, newest)
    unreadable = {found.version for found in bad_logs}
    readable = sorted(version for version in left - unreadable if base is None or version > base)
    live = _live(table, base, adds, readable)
    return Inspection(
        base=base, newest=newest, log_damage=damage + bad_logs, data_damage=list(_lost(table, live.values()))
    )


def log_damage(table: Path, version: int) -> Damage | None:
    """Return the damage to a version's log file, if any."""
    path = log_file(table, version)
    torn = Damage.of(DamageKind.TORN_LOG, table, path, version)
    try:
        if not path.stat().st_size:
            return Damage.of(DamageKind.EMPTY_LOG, table, path, version)
        return None if _is_whole(read_log(table, version)) else torn
    except FileNotFoundError:
        return _missing_log(table, version)
    except ValueError:  # no JSON, or no UTF-8
        return torn


def _missing_log(table: Path, version: int) -> Damage:
    return Damage.of(DamageKind.MISSING_LOG, table, log_file(table, version), version)


def _marked(table: Path) -> int:
    flushed = flushed_version(table)
    return -1 if flushed is None else flushed


def _bad_logs(table: Path, base: int | None, versions: Collection[int], newest: int) -> list[Damage]:
    if newest < 0:
        return []
    if base is None and 0 not in versions:
        # All earlier versions are missing, without a checkpoint: report version 0 alone, which the others need.
        begin, first = [_missing_log(table, 0)], min(versions, default=newest + 1)
    else:
        # Include the checkpoint's own version if its log file exists: only history would be lost with it.
        begin, first = [], 0 if base is None else base if base in versions else base + 1
    found = (log_damage(table, version) for version in range(first, newest + 1))
    return [*begin, *(damage for damage in found if damage is not None)]


def _is_whole(actions: list[Any]) -> bool:
    if not actions or not all(isinstance(action, dict) for action in actions):
        return False
    info: Any = next((action["commitInfo"] for action in actions if "commitInfo" in action), None)
    if not isinstance(info, dict):
        return True  # another program's commit, which need not have one
    if info.get("operation") == "CREATE TABLE":
        return any("metaData" in action for action in actions) and any("protocol" in action for action in actions)
    if info.get("v6.kind") == "fence":
        return any("txn" in action for action in actions)  # its only content
    found = info.get("operationMetrics")
    metrics: dict[str, Any] = found if isinstance(found, dict) else {}
    announced = int(metrics.get("num_added_files", metrics.get("numFilesAdded", 0)))
    return sum("add" in action for action in actions) >= announced


def _pointer(table: Path) -> tuple[int | None, Damage | None]:
    """Return the version that ``_last_checkpoint`` names, and the damage to it or to the checkpoint."""
    path = table / LOG_FOLDER / POINTER
    broken = Damage.of(DamageKind.BAD_POINTER, table, path)
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["version"]
    except FileNotFoundError:
        return None, None
    except (ValueError, KeyError, TypeError):
        return None, broken
    if not isinstance(version, int):
        return None, broken
    checkpoint = checkpoint_file(table, version)
    if not checkpoint.exists():
        return version, broken
    if not _is_parquet(checkpoint):
        return version, Damage.of(DamageKind.BAD_CHECKPOINT, table, checkpoint, version)
    return version, None


def _names(table: Path) -> tuple[set[int], set[int]]:
    versions, checkpoints = set(), set()
    folder = table / LOG_FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _LOG_NAME.fullmatch(path.name):
            versions.add(int(match[1]))
        elif match := _CHECKPOINT_NAME.fullmatch(path.name):
            checkpoints.add(int(match[1]))
    return versions, checkpoints


def _checkpoint_adds(path: Path) -> list[dict[str, Any]] | None:
    """Return the live files of a checkpoint; None if it cannot be read."""
    if not _is_parquet(path):
        return None
    try:
        adds = pl.read_parquet(path, columns=["add"]).get_column("add").to_list()
    except pl.exceptions.PolarsError:  # intact only at both ends
        return None
    return [add for add in adds if add is not None and add["path"] is not None]


def _live(table: Path, base: int | None, adds: list[dict[str, Any]], versions: list[int]) -> dict[str, LiveFile]:
    live = {str(add["path"]): _file(add, None) for add in adds}
    if base is not None and log_damage(table, base) is None:
        live |= {found.path: found for found in _added(table, base) if found.path in live}
    for version in versions:
        for removed in [action["remove"] for action in read_log(table, version) if "remove" in action]:
            live.pop(removed["path"], None)
        live |= {found.path: found for found in _added(table, version)}
    return live


def _added(table: Path, version: int) -> Iterator[LiveFile]:
    return (_file(action["add"], version) for action in read_log(table, version) if "add" in action)


def _file(add: dict[str, Any], version: int | None) -> LiveFile:
    values = add["partitionValues"]
    if isinstance(values, list):  # a checkpoint stores the map as pairs
        values = {pair["key"]: pair["value"] for pair in values}
    rows = json.loads(add["stats"]).get("numRecords") if add.get("stats") else None
    return LiveFile(
        path=add["path"], size=int(add["size"]), rows=rows, partition=(values or {}).get("date"), version=version
    )


def _lost(table: Path, files: Iterable[LiveFile]) -> Iterator[Damage]:
    for file in files:
        path = table / unquote(file.path)
        try:
            whole = path.stat().st_size == file.size and _is_parquet(path)
            kind = DamageKind.TORN_DATA
        except FileNotFoundError:
            whole, kind = False, DamageKind.LOST_DATA
        if not whole:
            yield Damage(
                kind=kind, file=unquote(file.path), version=file.version, rows=file.rows, partition=file.partition
            )


def _is_parquet(path: Path) -> bool:
    """Return whether a file begins and ends like Parquet; after a power cut it is shorter, or has zeros."""
    with path.open("rb") as stream:
        if stream.seek(0, 2) < _SMALLEST_PARQUET:
            return False
        stream.seek(-4, 2)
        tail = stream.read(4)
        stream.seek(0)
        return tail == _PARQUET and stream.read(4) == _PARQUET
