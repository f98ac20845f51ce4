"""Mending a table on a local disk after a power cut: what is found, what is to be done about it, and doing that.

What was acknowledged was flushed first, with every version before it. So a power cut damages the newest versions only,
and those nobody relies on: their log files are set aside, and the table is as it was before them. All other damage came
in another way, mending it loses rows that someone was told are safe, and is done only if the loss is accepted: a log
file in the middle is replaced by an empty commit, so that the commits after it stay; a lost data file is taken out by a
commit that says how many rows went with it.

Nothing is ever deleted: what is taken out lies in ``_v6_quarantine`` in the table, where neither Delta nor its vacuum
looks.
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
    """What is done about a damaged file."""

    SET_ASIDE = "set aside"
    """Moved into the quarantine: nobody relied on it, or others say the same."""
    EMPTY_COMMIT = "replaced by an empty commit"
    """The version keeps its number, so that those after it can be read."""
    REMOVE = "removed from the table"
    """By a commit that names the file and its rows; what is left of it goes into the quarantine."""
    RESTORE = "to be restored from a backup"
    """Not to be mended here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A damaged file and what is to be done; ``needs_consent`` if that loses what was acknowledged."""

    damage: Damage
    remedy: Remedy
    needs_consent: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """What is wrong with a table and what would be done.

    ``lost_rows`` counts, per trading day, the rows of data files that are removed. ``refused`` says why nothing is
    done at all; a table is mended wholly or not.
    """

    table: str
    findings: list[Finding] = field(default_factory=list)
    lost_rows: dict[str, int] = field(default_factory=dict)
    flushed: int | None = None
    refused: str | None = None


def plan_repair(table: str, uri: str, *, accept_loss: bool = False) -> RepairPlan:
    """Look at a table; nothing is changed.

    A table that does not exist has nothing wrong. In an object store nothing can be: an object is there whole or not.

    Raises:
        LakeError: its folder cannot be read.
    """
    folder = local_path(uri)
    if folder is None or not folder.is_dir():
        return RepairPlan(table=table)
    with lake_faults(table=table, uri=uri, options={}):
        return _plan(table, folder, accept_loss=accept_loss)


def repair(plan: RepairPlan, uri: str, *, now: datetime, fsync: Fsync = fsync_path) -> Path | None:
    """Carry a plan out, durable on return; the folder of what was set aside, None if nothing was.

    Nobody else may write to the table meanwhile. Stopped halfway, it is planned and done again.

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
        _mend_log(plan, folder, quarantine, now, fsync)
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
    # The newest version is taken out as long as it is unusable and nobody relies on it; what is then the newest may be
    # no better.
    while damage := _of_unflushed_newest(found, flushed):
        without = inspect(folder, without={*dropped, found.newest})
        if any(item.version == 0 for item in without.log_damage):
            break  # the checkpoint of the newest version is all that is left of those before
        dropped.add(found.newest)
        why = "it was never flushed to the disk, so that nobody relies on it"
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
    """What is wrong with the newest version, if that may be no more than what a power cut leaves."""
    newest = found.newest
    if newest < 0 or (flushed is not None and newest <= flushed):
        return []
    unreadable = [item for item in found.log_damage if item.kind in LOG_DAMAGE]
    if any(item.version == newest for item in unreadable):
        return [item for item in unreadable if item.version == newest and newest != found.base]
    if unreadable:
        return []  # then the data files cannot be judged
    return [item for item in found.data_damage if item.version == newest]


def _log_finding(damage: Damage, found: Inspection, flushed: int | None) -> Finding:
    if damage.kind in _OF_CHECKPOINT:
        return Finding(damage=damage, remedy=Remedy.SET_ASIDE, why="the log before it says the same")
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
            return f"{finding.damage}: {finding.why}; restore it from a backup, or move the table away to begin anew"
    consent = [finding for finding in findings if finding.needs_consent]
    if not consent or accept_loss:
        return None
    first = consent[0]
    more = f" and {len(consent) - 1} more files" if len(consent) > 1 else ""
    rows = "; ".join(f"{count} rows of {day}" for day, count in sorted(lost.items()))
    total = f" ({rows})" if rows else ""
    return (
        f"{first.damage}{more}: {first.why}{total}; a power cut should not do this: restore the table from a backup, "
        "or give --accept-loss"
    )


class _Quarantine:
    """Where damaged files go: a folder per repair, in which each keeps its path."""

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


def _mend_log(plan: RepairPlan, folder: Path, quarantine: _Quarantine, now: datetime, fsync: Fsync) -> None:
    of_log = [finding for finding in plan.findings if finding.damage.kind in LOG_DAMAGE | _OF_CHECKPOINT]
    if any(finding.damage.kind in _OF_CHECKPOINT for finding in of_log):
        quarantine.take(folder / LOG_FOLDER / POINTER)
    withdrawn = {
        finding.damage.version
        for finding in plan.findings
        if finding.remedy is Remedy.SET_ASIDE and finding.damage.kind not in _OF_CHECKPOINT
    }
    # The newest first: stopped halfway, the log has no hole.
    for version in sorted((number for number in withdrawn if number is not None), reverse=True):
        if checkpoint_file(folder, version).exists():
            quarantine.take(folder / LOG_FOLDER / POINTER)
            quarantine.take(checkpoint_file(folder, version))
        quarantine.take(log_file(folder, version))
    for finding in of_log:
        if finding.remedy is Remedy.SET_ASIDE:
            quarantine.take(folder / finding.damage.file)  # the log file of a version is gone by now
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
    """delta-rs's own repair takes out what is missing, so what is truncated is moved away first."""
    for damage in lost:
        quarantine.take(folder / damage.file)
    metadata = {KIND: CommitKind.MAINTENANCE.value, "v6.lost_rows": rows, "v6.lost_files": [d.file for d in lost]}
    DeltaTable(uri).repair(dry_run=False, commit_properties=CommitProperties(custom_metadata=metadata))
