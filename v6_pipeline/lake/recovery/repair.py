"""Repairing a table on a local disk after a power cut: a plan from the findings, and its execution.

Every acknowledged version was flushed first, with all versions before it. So a power cut damages only the newest
versions, which were not acknowledged: their log files are set aside, and the table is as it was before them. All other
damage has another cause. Repairing it loses acknowledged rows, and requires consent to the loss: a log file in the
middle is replaced by an empty commit, so that later commits stay; a lost data file is removed by a commit that records
the number of lost rows.

Nothing is deleted: removed files are in ``_v6_quarantine`` in the table, which Delta and its vacuum ignore.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from deltalake import CommitProperties, DeltaTable

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.faults import lake_faults, safe_uri
from v6_pipeline.lake.lineage import KIND, CommitKind
from v6_pipeline.lake.recovery.durability import (
    LOG_FOLDER,
    POINTER,
    Fsync,
    checkpoint_file,
    flushed_version,
    fsync_path,
    local_path,
    log_file,
    make_durable,
)
from v6_pipeline.lake.recovery.inspection import LOG_DAMAGE, Damage, DamageKind, Inspection, inspect

QUARANTINE = "_v6_quarantine"
_OPERATION = "V6 REPAIR"


class Remedy(enum.StrEnum):
    """Remedy for a damaged file."""

    SET_ASIDE = "set aside"
    """Moved into the quarantine: its content was never acknowledged, or other files have it too."""
    EMPTY_COMMIT = "replaced by an empty commit"
    """The version keeps its number, so that later versions can be read."""
    REMOVE = "removed from the table"
    """Removed by a commit that names the file and its rows; what is left of the file goes into the quarantine."""
    RESTORE = "to be restored from a backup"
    """Cannot be repaired here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A damaged file and its remedy; ``needs_consent`` if the remedy loses acknowledged rows."""

    damage: Damage
    remedy: Remedy
    needs_consent: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """Findings of a table with their remedies.

    ``lost_rows`` counts, per trading day, the rows of data files that are removed. ``refused`` is the reason to do
    nothing: a repair is all or nothing.
    """

    table: str
    findings: list[Finding] = field(default_factory=list)
    lost_rows: dict[str, int] = field(default_factory=dict)
    flushed: int | None = None
    refused: str | None = None


def plan_repair(table: str, uri: str, *, accept_loss: bool = False) -> RepairPlan:
    """Inspect a table and plan its repair; nothing is changed.

    A missing table has no findings, nor has one in an object store, where an object is either whole or missing.

    Raises:
        LakeError: its folder cannot be read.
    """
    folder = local_path(uri)
    if folder is None or not folder.is_dir():
        return RepairPlan(table=table)
    with lake_faults(table=table, uri=uri, options={}):
        return _plan(table, folder, accept_loss=accept_loss)


def repair(plan: RepairPlan, uri: str, *, now: datetime, fsync: Fsync = fsync_path) -> Path | None:
    """Carry out a plan, durable on return; return the folder of the files set aside, None if there are none.

    No other process may write to the table during the repair. After an interruption, plan and repair again.

    Raises:
        LakeError: the plan is refused, or the disk failed.
    """
    folder = local_path(uri)
    if plan.refused is not None:
        raise LakeError(f"table {plan.table} at {safe_uri(uri)} was not repaired: {plan.refused}")
    if folder is None or not plan.findings:
        return None
    with lake_faults(table=plan.table, uri=uri, options={}):
        quarantine = _Quarantine(folder, now, fsync)
        _repair_log(plan, folder, quarantine, now, fsync)
        removed = [finding.damage for finding in plan.findings if finding.remedy is Remedy.REMOVE]
        if removed:
            _remove_data(folder, removed, plan.lost_rows, quarantine, uri)
        if (folder / LOG_FOLDER).is_dir() and DeltaTable.is_deltatable(uri):
            handle = DeltaTable(uri)
            if any(finding.damage.kind in _OF_CHECKPOINT for finding in plan.findings):
                handle.create_checkpoint()
            make_durable(folder, handle.version(), fsync)
        left = inspect(folder).damage
    if left:
        raise LakeError(f"table {plan.table} at {safe_uri(uri)} is still damaged: {left[0]}; restore it from a backup")
    return quarantine.folder if quarantine.folder.exists() else None


_OF_CHECKPOINT = frozenset({DamageKind.BAD_CHECKPOINT, DamageKind.BAD_POINTER})


def _plan(table: str, folder: Path, *, accept_loss: bool) -> RepairPlan:
    flushed = flushed_version(folder)
    dropped: set[int] = set()
    found = inspect(folder)
    findings: list[Finding] = []
    # Remove the newest version as long as it is damaged and not acknowledged; the next one may be damaged as well.
    while damage := _of_unflushed_newest(found, flushed):
        without = inspect(folder, without={*dropped, found.newest})
        if any(item.version == 0 for item in without.log_damage):
            break  # the newest version's checkpoint is all that is left of the earlier ones
        dropped.add(found.newest)
        why = "it was never flushed to the disk, so it was never acknowledged"
        findings += [Finding(damage=item, remedy=Remedy.SET_ASIDE, why=why) for item in damage]
        found = without
    findings += [_log_finding(damage, found, flushed) for damage in found.log_damage]
    removed = [_data_finding(damage) for damage in found.data_damage]
    lost: dict[str, int] = {}
    for finding in removed:
        day = finding.damage.partition or "unknown"
        lost[day] = lost.get(day, 0) + (finding.damage.rows or 0)
    findings += removed
    return RepairPlan(
        table=table,
        findings=findings,
        lost_rows=lost,
        flushed=flushed,
        refused=_refusal(findings, lost, accept_loss=accept_loss),
    )


def _of_unflushed_newest(found: Inspection, flushed: int | None) -> list[Damage]:
    """Return the damage to the newest version, if a power cut alone can have caused it."""
    newest = found.newest
    if newest < 0 or (flushed is not None and newest <= flushed):
        return []
    unreadable = [item for item in found.log_damage if item.kind in LOG_DAMAGE]
    if any(item.version == newest for item in unreadable):
        return [item for item in unreadable if item.version == newest and newest != found.base]
    if unreadable:
        return []  # the live data files are unknown
    return [item for item in found.data_damage if item.version == newest]


def _log_finding(damage: Damage, found: Inspection, flushed: int | None) -> Finding:
    if damage.kind in _OF_CHECKPOINT:
        return Finding(damage=damage, remedy=Remedy.SET_ASIDE, why="the earlier log has the same content")
    if damage.version == found.base:
        return Finding(
            damage=damage, remedy=Remedy.EMPTY_COMMIT, why="the checkpoint of this version holds its content"
        )
    if damage.version == 0:
        return Finding(damage=damage, remedy=Remedy.RESTORE, why="without it the table cannot be read at all")
    acknowledged = flushed is not None and damage.version is not None and damage.version <= flushed
    why = "it was flushed to the disk" if acknowledged else "later commits are whole"
    return Finding(damage=damage, remedy=Remedy.EMPTY_COMMIT, needs_consent=True, why=f"{why}, so its rows are lost")


def _data_finding(damage: Damage) -> Finding:
    rows = "an unknown number of rows" if damage.rows is None else f"{damage.rows} rows"
    return Finding(
        damage=damage,
        remedy=Remedy.REMOVE,
        needs_consent=True,
        why=f"{rows} of {damage.partition or 'no date'} are lost",
    )


def _refusal(findings: list[Finding], lost: dict[str, int], *, accept_loss: bool) -> str | None:
    for finding in findings:
        if finding.remedy is Remedy.RESTORE:
            return f"{finding.damage}: {finding.why}; restore it from a backup, or move the table away to begin again"
    consent = [finding for finding in findings if finding.needs_consent]
    if not consent or accept_loss:
        return None
    first = consent[0]
    more = f" and {len(consent) - 1} more files" if len(consent) > 1 else ""
    rows = "; ".join(f"{count} rows of {day}" for day, count in sorted(lost.items()))
    total = f" ({rows})" if rows else ""
    return (
        f"{first.damage}{more}: {first.why}{total}; a power cut cannot cause this: restore the table from a backup, "
        "or pass --accept-loss"
    )


class _Quarantine:
    """Folder for the damaged files of a repair, in which each keeps its path."""

    def __init__(self, table: Path, now: datetime, fsync: Fsync) -> None:
        self._table = table
        self._fsync = fsync
        self.folder = table / QUARANTINE / f"{now:%Y%m%dT%H%M%S.%fZ}"

    def take(self, file: Path) -> None:
        if not file.exists():
            return
        place = self.folder / file.relative_to(self._table)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
        for touched in (place.parent, file.parent, self.folder, self.folder.parent, self._table):
            self._fsync(touched)


def _repair_log(plan: RepairPlan, folder: Path, quarantine: _Quarantine, now: datetime, fsync: Fsync) -> None:
    of_log = [finding for finding in plan.findings if finding.damage.kind in LOG_DAMAGE | _OF_CHECKPOINT]
    if any(finding.damage.kind in _OF_CHECKPOINT for finding in of_log):
        quarantine.take(folder / LOG_FOLDER / POINTER)
    withdrawn = {
        finding.damage.version
        for finding in plan.findings
        if finding.remedy is Remedy.SET_ASIDE and finding.damage.kind not in _OF_CHECKPOINT
    }
    # The newest first, so that an interruption leaves no gap in the log.
    for version in sorted((number for number in withdrawn if number is not None), reverse=True):
        if checkpoint_file(folder, version).exists():
            quarantine.take(folder / LOG_FOLDER / POINTER)
            quarantine.take(checkpoint_file(folder, version))
        quarantine.take(log_file(folder, version))
    for finding in of_log:
        if finding.remedy is Remedy.SET_ASIDE:
            quarantine.take(folder / finding.damage.file)  # log files of versions are already moved
        elif finding.remedy is Remedy.EMPTY_COMMIT and finding.damage.version is not None:
            quarantine.take(folder / finding.damage.file)
            _write_empty_commit(folder, finding.damage.version, str(finding.damage), now, fsync)


def _write_empty_commit(folder: Path, version: int, what: str, now: datetime, fsync: Fsync) -> None:
    info = {
        "timestamp": int(now.timestamp() * 1000),
        "operation": _OPERATION,
        KIND: CommitKind.MAINTENANCE.value,
        "v6.repaired": what,
    }
    path = log_file(folder, version)
    half = path.with_suffix(".tmp")
    half.write_text(json.dumps({"commitInfo": info}), encoding="utf-8")
    fsync(half)
    half.rename(path)
    fsync(path.parent)


def _remove_data(folder: Path, lost: list[Damage], rows: dict[str, int], quarantine: _Quarantine, uri: str) -> None:
    """Remove lost files with delta-rs's repair, which removes missing files: move truncated ones away first."""
    for damage in lost:
        quarantine.take(folder / damage.file)
    metadata = {KIND: CommitKind.MAINTENANCE.value, "v6.lost_rows": rows, "v6.lost_files": [d.file for d in lost]}
    DeltaTable(uri).repair(dry_run=False, commit_properties=CommitProperties(custom_metadata=metadata))
