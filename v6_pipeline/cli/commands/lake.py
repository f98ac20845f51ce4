"""``v6 lake``: the history of a table, its upkeep, and its repair after a power cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v6_pipeline.cli import home, output, progress
from v6_pipeline.cli.options import TableArgument, TablesArgument
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import LakeError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from v6_pipeline.lake.lineage import CommitInfo
    from v6_pipeline.lake.recovery.repair import RepairPlan
    from v6_pipeline.lake.table import DeltaTableStore
    from v6_pipeline.settings import Settings

Kept = tuple[dict[str, object], str]
"""The result for a table: as fields, and as a line."""

app = typer.Typer(help="Maintain the Delta tables: history, compaction, clean-up, repair.", no_args_is_help=True)


@app.command("history")
def history(
    table: TableArgument,
    *,
    limit: Annotated[int, typer.Option(help="Number of commits to show.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show a table's commits, newest first: operation, rows and author of each."""
    if limit < 1:
        raise UsageError(f"--limit {limit} is less than 1")
    [store] = _stores(table)
    from v6_pipeline.lake.commits import read_commits

    handle = store.load()
    if handle is None:
        raise _missing(table)
    commits = read_commits(store, handle.version() - limit, limit)[::-1]
    if as_json:
        output.document({"table": table, "commits": commits})
        return
    output.table(
        ("version", "committed at", "operation", "kind", "rows", "asset", "partition", "by"),
        (
            (
                commit.version,
                f"{commit.committed_at:%Y-%m-%d %H:%M:%S}Z",
                commit.operation,
                commit.kind,
                commit.rows,
                commit.asset,
                _partitions(commit),
                _author(commit),
            )
            for commit in commits
        ),
        numbers=("version", "rows"),
    )


@app.command("optimize")
def optimize(table: TablesArgument = None, *, as_json: JsonOption = False) -> None:
    """Merge the small files of a table, or of all; writers are not interrupted."""
    from v6_pipeline.lake.maintenance import compact

    def merge(store: DeltaTableStore) -> Kept:
        made = compact(store)
        said = (
            "nothing to merge"
            if made.version is None
            else f"{output.counted(made.files_removed, 'file')} merged into {made.files_added}, "
            f"Delta version {made.version}"
        )
        return asdict(made), said

    _keep_up(table, "tables merged", merge, {}, as_json=as_json)


@app.command("vacuum")
def vacuum(
    table: TablesArgument = None,
    *,
    retention_hours: Annotated[
        int, typer.Option(help="Keep the files of versions of this many hours; at least 168, a week.")
    ] = 168,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete data files that no version of the last week needs, and files of failed commits."""
    from v6_pipeline.lake.maintenance import RETENTION_HOURS
    from v6_pipeline.lake.maintenance import vacuum as clean

    if retention_hours < RETENTION_HOURS:
        raise UsageError(
            f"--retention-hours {retention_hours} is below {RETENTION_HOURS}: files in use would be deleted"
        )
    verb = "would be deleted" if dry_run else "deleted"

    def delete(store: DeltaTableStore) -> Kept:
        found = clean(store, retention_hours=retention_hours, dry_run=dry_run)
        size = "" if found.size_bytes is None else f", {found.size_bytes / 2**20:.1f} MiB"
        said = f"{output.counted(len(found.files), 'file')} {verb}{size}"
        return asdict(found), said

    head = {"dry_run": dry_run, "retention_hours": retention_hours}
    _keep_up(table, "tables cleaned", delete, head, as_json=as_json)


def _keep_up(
    table: str | None,
    label: str,
    work: Callable[[DeltaTableStore], Kept],
    head: Mapping[str, object],
    *,
    as_json: bool,
) -> None:
    """Do ``work`` on the named table, or on each table that exists; a failure does not stop the others.

    ``label`` is that of the progress bar, ``head`` has further fields of the document.

    Raises:
        LakeError: some tables failed, each with its reason; or the named table does not exist.
    """
    done: list[dict[str, object]] = []
    failed: list[str] = []
    with _printed_at_end(as_json=as_json) as lines:
        for store in progress.each(_stores(table), label, shown=not as_json):
            try:
                if store.load() is None:
                    if table is not None:
                        raise _missing(table)
                    continue
                fields, text = work(store)
            except LakeError as error:
                failed.append(str(error))  # it names its table
                continue
            done.append({"table": store.spec.name} | fields)
            lines.append(f"{store.spec.name}: {text}")
    failure = "; ".join(failed) or None
    if as_json:
        output.document({**head, "tables": done, "error": failure})
    if failure is not None:
        raise LakeError(failure)


@contextmanager
def _printed_at_end(*, as_json: bool) -> Iterator[list[str]]:
    """Yield the list of result lines; print them when the progress bar is gone, even after an early end."""
    lines: list[str] = []
    try:
        yield lines
    finally:
        for text in () if as_json else lines:
            output.line(text)


def _stores(table: str | None) -> list[DeltaTableStore]:
    """Return the named table, or all."""
    from v6_pipeline.lake.tables import TABLES

    chosen = _chosen(table, [spec.name for spec in TABLES])
    lake = home.open_lake(home.load())
    return [lake.table(spec) for spec in TABLES if spec.name in chosen]


def _chosen(table: str | None, names: list[str]) -> list[str]:
    if table is not None and table not in names:
        raise UsageError(f"the lake has no table {table}: its tables are {', '.join(names)}")
    return names if table is None else [table]


def _missing(table: str) -> LakeError:
    return LakeError(f"there is no table {table} yet: nothing has been written to it")


def _partitions(commit: CommitInfo) -> str:
    """Return the partition that the commit belongs to, else the trading days of its rows."""
    return commit.partition or ", ".join(day.isoformat() for day in commit.rows_by_date)


def _author(commit: CommitInfo) -> str | None:
    if commit.run_id is not None:
        return f"run {commit.run_id}"
    return None if commit.epoch is None else f"epoch {commit.epoch}"


# Repair


@app.command("repair")
def repair(
    table: TablesArgument = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the damage and what would be done.")] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss", help="Also repair damage that loses rows reported as written; the number is shown."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Repair tables after a power cut: unusable newest commits are moved aside, never deleted.

    Exit code 0 if no damage is left, 1 if a table could not be repaired.
    """
    from v6_pipeline.lake.lake import MARKER_TABLE, Lake
    from v6_pipeline.lake.recovery.durability import local_path
    from v6_pipeline.lake.recovery.repair import plan_repair
    from v6_pipeline.lake.tables import TABLES

    # The marker first: without it no other table can be opened.
    names = _chosen(table, [MARKER_TABLE, *(spec.name for spec in TABLES)])
    settings = home.load()
    lake = Lake.from_settings(settings)
    if local_path(lake.root) is None:
        note = "in an object store each object exists whole or not at all: a power cut leaves nothing to repair"
        output.result({"dry_run": dry_run, "tables": [], "note": note}, note, as_json=as_json)
        return
    uris = {name: f"{lake.root}/{name}" for name in names}
    examined = progress.each(list(uris.items()), "tables examined", shown=not as_json)
    plans = [plan_repair(name, uri, accept_loss=accept_loss) for name, uri in examined]
    done = [_carry_out(settings, plan, uris[plan.table], dry_run=dry_run) for plan in plans]
    if as_json:
        output.document({"dry_run": dry_run, "tables": done})
    else:
        for plan, result in zip(plans, done, strict=True):
            _show_repair(plan, result)
    failed = [result for result in done if result["error"] is not None]
    if failed:
        raise LakeError(
            f"{output.counted(len(failed), 'table')} not repaired: {', '.join(result['table'] for result in failed)}"
        )


def _carry_out(settings: Settings, plan: RepairPlan, uri: str, *, dry_run: bool) -> dict[str, Any]:
    """Repair a table as planned, unless a process may be writing to it; return the result for ``--json``."""
    from v6_pipeline.lake.recovery.repair import repair as repair_table
    from v6_pipeline.state.instants import utc_now

    error = plan.refused
    aside: Path | None = None
    if plan.findings and error is None and not dry_run:
        error = _writer_alive(settings, plan.table)
        if error is None:
            try:
                aside = repair_table(plan, uri, now=utc_now())
            except LakeError as failure:
                error = str(failure)
    return {
        "table": plan.table,
        "findings": [
            {
                "what": finding.damage.kind,
                "file": finding.damage.file,
                "version": finding.damage.version,
                "remedy": finding.remedy,
                "needs_consent": finding.needs_consent,
                "why": finding.why,
            }
            for finding in plan.findings
        ],
        "lost_rows": plan.lost_rows,
        "repaired": bool(plan.findings) and error is None and not dry_run,
        "quarantine": None if aside is None else str(aside),
        "error": error,
    }


def _writer_alive(settings: Settings, table: str) -> str | None:
    """Return which process may be writing to the table now, and what to do about it; ``None`` if there is none.

    The streamer writes its own table, runs write all others; the first writer of either kind writes the marker.
    """
    from v6_pipeline.lake.lake import MARKER_TABLE
    from v6_pipeline.lake.tables import STREAMED_POSITIONS
    from v6_pipeline.state.leases.client_ids import ClientIds
    from v6_pipeline.streaming.control import live_lease, process_of

    with home.open_state(settings) as database:
        if table in {STREAMED_POSITIONS.name, MARKER_TABLE}:
            state = live_lease(database)
            process = None if state is None else process_of(state)
            if state is not None and (process is None or process.is_alive() is not False):
                return (
                    f"the streamer of epoch {state.epoch} runs or is about to: switch ib_streamer_sensor off, stop the "
                    "streamer with 'v6 stream --stop', then repair"
                )
        if table != STREAMED_POSITIONS.name:
            for client_id, owner in ClientIds(database, range(0)).leased().items():
                return f"run {owner} (client id {client_id}) may be writing: repair after it has ended"
    return None


def _show_repair(plan: RepairPlan, result: dict[str, Any]) -> None:
    name = plan.table
    if not plan.findings:
        output.line(f"{name}: no damage")
        return
    for finding in plan.findings:
        reason = f": {finding.why}" if finding.why else ""
        output.line(f"{name}: {finding.damage}, {finding.remedy}{reason}")
    for day, rows in sorted(plan.lost_rows.items()):
        output.line(f"{name}: {output.counted(rows, 'row')} of {day} lost")
    if result["error"] is not None:
        output.line(f"{name}: not repaired: {result['error']}")
    elif result["repaired"]:
        kept = "" if result["quarantine"] is None else f"; the removed files are in {result['quarantine']}"
        output.line(f"{name}: repaired{kept}")
    else:
        output.line(f"{name}: would be repaired")
