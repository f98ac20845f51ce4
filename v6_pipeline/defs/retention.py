"""Retention of what Dagster keeps about this code location: logs of ticks, runs and events.

Dagster itself deletes only the rows of old ticks (``retention`` in ``dagster.yaml``). A sensor that ticks every ten
seconds leaves 8,640 log files a day, each run a database of a quarter of a megabyte, each report of the streamer its
events. Belongs here: deleting those that are older than the retention. Does not belong here: the lake and the log files
of ``v6`` itself.

The newest event of each kind, asset and partition stays whatever its age, so that partitions stay materialized, checks
keep their last result, and a materialization keeps its Delta version. What is deleted is the way there: the lake's own
commits keep the lineage. Other code locations of the same instance are not touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.tags import BACKFILL_ID_TAG

TICK_LOG_AGE = timedelta(days=2)
"""The log of a tick is read while its tick is recent."""
_T = TypeVar("_T")
_RUNLESS = ""
_ROWS = 500
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_EVENTS, _TAGS, _CHECKS = SqlEventLogStorageTable.c, AssetEventTagsTable.c, AssetCheckExecutionsTable.c


@dataclass(frozen=True, slots=True)
class Pruned:
    """Number of deleted tick logs, runs and events."""

    tick_logs: int
    runs: int
    events: int

    def __str__(self) -> str:
        return f"Dagster: {self.tick_logs} logs of ticks, {self.runs} runs and {self.events} events deleted"


def prune(
    instance: dg.DagsterInstance, *, location: str, assets: Collection[dg.AssetKey], days: int, now: datetime
) -> Pruned:
    """Delete what is older than ``days``, and the logs of ticks older than ``TICK_LOG_AGE``.

    ``location`` is the code location whose ticks and runs are deleted, ``assets`` those whose events are. Each step is
    a short transaction, and safe to repeat. Storages without SQL, and logs in an object store, are left as they are.
    """
    before = now - timedelta(days=days)
    tick_logs = _delete_tick_logs(instance, location, now - min(TICK_LOG_AGE, timedelta(days=days)))
    runs = _old_runs(instance, location, before)
    events = _delete_events(instance, [run.run_id for run in runs], assets, before)
    for run in runs:
        instance.compute_log_manager.delete_logs(prefix=[run.run_id])
        instance.run_storage.delete_run(run.run_id)
    return Pruned(tick_logs, len(runs), events)


def _delete_tick_logs(instance: dg.DagsterInstance, location: str, before: datetime) -> int:
    manager = instance.compute_log_manager
    if not isinstance(manager, LocalComputeLogManager):
        return 0
    deleted = 0
    for state in instance.all_instigator_state():
        repository = state.origin.repository_origin
        if repository.code_location_origin.location_name != location:
            continue
        any_tick = manager.get_captured_local_path([repository.repository_name, state.instigator_name, "0"], "err")
        for file in _files_in(Path(any_tick).parent):
            if file.stat().st_mtime < before.timestamp():
                file.unlink(missing_ok=True)
                deleted += 1
    return deleted


def _files_in(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.is_file())


def _old_runs(instance: dg.DagsterInstance, location: str, before: datetime) -> list[dg.DagsterRun]:
    """Return the finished runs of a location, except the newest of each job and those of a backfill under way."""
    found: list[dg.DagsterRun] = []
    cursor: str | None = None
    wanted = dg.RunsFilter(statuses=_FINISHED, updated_before=before)
    while records := instance.get_run_records(wanted, cursor=cursor, limit=_ROWS):
        runs = [record.dagster_run for record in records]
        found += [run for run in runs if location_of(run) == location]
        cursor = runs[-1].run_id
    kept = {_newest_run(instance, name, location, found) for name in {run.job_name for run in found}}
    kept |= _of_backfills_under_way(instance, found)
    return [run for run in found if run.run_id not in kept]


def _newest_run(instance: dg.DagsterInstance, job: str, location: str, old: Sequence[dg.DagsterRun]) -> str:
    """Return the newest run of a location's job; other locations may have a job of its name."""
    newest = instance.get_runs(dg.RunsFilter(job_name=job), limit=_ROWS)
    own = [run.run_id for run in newest if location_of(run) == location]
    return own[0] if own else next(run.run_id for run in old if run.job_name == job)


def _of_backfills_under_way(instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun]) -> set[str]:
    """Return the runs by which the daemon judges what a backfill has still to do."""
    by_backfill = {run.run_id: run.tags[BACKFILL_ID_TAG] for run in runs if BACKFILL_ID_TAG in run.tags}
    found = {backfill_id: instance.get_backfill(backfill_id) for backfill_id in set(by_backfill.values())}
    under_way = {
        name for name, backfill in found.items() if backfill and backfill.status not in BULK_ACTION_TERMINAL_STATUSES
    }
    return {run_id for run_id, backfill_id in by_backfill.items() if backfill_id in under_way}


def location_of(run: dg.DagsterRun) -> str | None:
    """Return the code location that launched a run; None if it was executed in process."""
    origin = run.remote_job_origin
    return origin.repository_origin.code_location_origin.location_name if origin else None


def _delete_events(
    instance: dg.DagsterInstance, run_ids: Sequence[str], assets: Collection[dg.AssetKey], before: datetime
) -> int:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    keys = [key.to_string() for key in assets]
    checks = _superseded_checks(storage, keys, before)
    events = [event for event in checks.values() if event is not None]
    events += _superseded_events(storage, run_ids, keys, before)
    for rows in _chunks(list(checks)):
        with storage.index_connection() as connection:
            connection.execute(AssetCheckExecutionsTable.delete().where(_CHECKS.id.in_(rows)))
    for ids in _chunks(events):
        with storage.index_connection() as connection:
            connection.execute(AssetEventTagsTable.delete().where(_TAGS.event_id.in_(ids)))
            connection.execute(SqlEventLogStorageTable.delete().where(_EVENTS.id.in_(ids)))
    if isinstance(storage, SqliteEventLogStorage):
        _delete_shards(storage, run_ids, keys, before)
    return len(events)


def _chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Split a sequence into parts that a statement can name and a short transaction can change."""
    for begin in range(0, len(items), _ROWS):
        yield items[begin : begin + _ROWS]


def _superseded_checks(storage: SqlEventLogStorage, keys: Sequence[str], before: datetime) -> dict[int, int | None]:
    """Return the old evaluations of checks that have a newer one, by row: the event of each."""
    columns = (_CHECKS.id, _CHECKS.asset_key, _CHECKS.check_name, _CHECKS.partition)
    of_ours = AssetCheckExecutionsTable.select().where(_CHECKS.asset_key.in_(keys))
    old = of_ours.where(_CHECKS.create_timestamp < before.replace(tzinfo=None))
    with storage.index_connection() as connection:
        newest = _newest(connection.execute(of_ours.with_only_columns(*columns)))
        rows = connection.execute(old.with_only_columns(_CHECKS.id, _CHECKS.evaluation_event_storage_id))
        return {row: event for row, event in rows if row not in newest}


def _superseded_events(
    storage: SqlEventLogStorage, run_ids: Sequence[str], keys: Sequence[str], before: datetime
) -> list[int]:
    """Return the events of old runs, and old ones of no run, except the newest of each kind, asset and partition."""
    columns = (_EVENTS.id, _EVENTS.asset_key, _EVENTS.dagster_event_type, _EVENTS.partition)
    old = SqlEventLogStorageTable.select().where(
        _EVENTS.asset_key.in_(keys), _EVENTS.run_id == _RUNLESS, _EVENTS.timestamp < before.replace(tzinfo=None)
    )
    with storage.index_connection() as connection:
        # The runs may have made assets that ``keys`` does not name, and theirs stay likewise.
        made: set[str] = set(keys)
        for ids in _chunks(run_ids):
            of_assets = SqlEventLogStorageTable.select().where(_EVENTS.run_id.in_(ids), _EVENTS.asset_key.is_not(None))
            made.update(connection.scalars(of_assets.with_only_columns(_EVENTS.asset_key)))
        of_ours = SqlEventLogStorageTable.select().where(_EVENTS.asset_key.in_(made))
        results = AssetCheckExecutionsTable.select().where(_CHECKS.asset_key.in_(made))
        # A plan says nothing without its run: the partition would wait for it for ever.
        lasting = of_ours.where(_EVENTS.dagster_event_type != dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value)
        kept = _newest(connection.execute(lasting.with_only_columns(*columns)))
        # An evaluation is deleted with its row; the last one of a check may belong to an old run.
        kept |= set(connection.scalars(results.with_only_columns(_CHECKS.evaluation_event_storage_id)))
        found = list(connection.scalars(old.with_only_columns(_EVENTS.id)))
        for ids in _chunks(run_ids):
            of_runs = SqlEventLogStorageTable.select().where(_EVENTS.run_id.in_(ids))
            found += connection.scalars(of_runs.with_only_columns(_EVENTS.id))
    return [event for event in found if event not in kept]


def _newest(rows: Iterable[Sequence[Any]]) -> set[int]:
    """Return the highest id, the first column, of each combination of the other columns."""
    newest: dict[tuple[object, ...], int] = {}
    for row, *group in rows:
        newest[tuple(group)] = max(row, newest.get(tuple(group), row))
    return set(newest.values())


def _delete_shards(
    storage: SqliteEventLogStorage, run_ids: Sequence[str], keys: Sequence[str], before: datetime
) -> None:
    """Delete the databases of old runs, and old copies in that of events without a run, which nothing reads.

    Its evaluations of checks name no asset, and are deleted of whatever location: the index has them.
    """
    for run_id in run_ids:
        shard = Path(storage.path_for_shard(run_id))
        for suffix in ("", "-wal", "-shm", "-journal"):
            shard.with_name(shard.name + suffix).unlink(missing_ok=True)
    if Path(storage.path_for_shard(_RUNLESS)).exists():
        with storage.run_connection(_RUNLESS) as connection:
            old = SqlEventLogStorageTable.delete().where(_EVENTS.timestamp < before.replace(tzinfo=None))
            connection.execute(old.where(_EVENTS.asset_key.in_(keys)))
            connection.execute(old.where(_EVENTS.asset_key.is_(None)))
