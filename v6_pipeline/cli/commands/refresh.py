"""``v6 refresh``: drain the queue once, without Dagster."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Annotated

import typer

from v6_pipeline.cli import home, output, progress
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import V6Error

if TYPE_CHECKING:
    from v6_pipeline.lake.table import Commit
    from v6_pipeline.refresh.worker import RefreshReport

_COUNTS = ("held", "enqueued", "refreshed", "closed", "retried", "quoted", "batches", "rows")


def refresh(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Refresh every holding that is not streamed, not only those that are due.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Queue the holdings whose values are due, then value everything queued and write it to the lake."""
    settings = home.load()
    from v6_pipeline.calendar import TradingCalendar
    from v6_pipeline.refresh.worker import QueueWorker, RefreshScope
    from v6_pipeline.state.instants import utc_now

    logging.basicConfig(handlers=[progress.Above()], level=logging.WARNING, format="%(levelname)s %(message)s")
    run_id = f"cli-{utc_now():%Y%m%dT%H%M%SZ}-{os.getpid()}"
    lake = home.open_lake(settings)
    with home.open_state(settings) as database:
        worker = QueueWorker(
            settings,
            database,
            lake,
            run_id=run_id,
            trading_day=TradingCalendar(settings.timezone).trading_day,
            clock=database.now,
        )
        try:
            with progress.bar("holdings refreshed", lambda: _done(worker.report), shown=not as_json):
                asyncio.run(worker.run(RefreshScope(everything=everything, interval_seconds=0)))
        except V6Error as error:
            # The batches before the error are done and shown.
            if as_json or worker.report.batches:
                _show(run_id, worker.report, as_json=as_json, failure=str(error))
            raise
    _show(run_id, worker.report, as_json=as_json)


def _done(report: RefreshReport) -> progress.Done:
    """Return how much is done; the total grows with items that were queued before the run."""
    done = report.refreshed + report.closed
    return done, max(done, report.enqueued) or None


def _show(run_id: str, report: RefreshReport, *, as_json: bool, failure: str | None = None) -> None:
    counts = {name: getattr(report, name) for name in _COUNTS}
    versions = {"queued_positions": _versions(report.commits), "account_values": _versions(report.account_commits)}
    if as_json:
        output.document({"run_id": run_id, **counts, "delta_versions": versions, "error": failure})
        return
    output.line(f"run {run_id}")
    output.table(tuple(counts), [tuple(counts.values())], numbers=tuple(counts))
    for table, found in versions.items():
        output.line(f"{table}: {_range(found)}")


def _versions(commits: list[Commit]) -> list[int]:
    return [commit.version for commit in commits if commit.version is not None]


def _range(versions: list[int]) -> str:
    if not versions:
        return "nothing written"
    first, last = versions[0], versions[-1]
    return f"Delta version {first}" if first == last else f"Delta versions {first} to {last}"
