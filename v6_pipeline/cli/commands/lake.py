"""``v6 lake``: the history of a table, its upkeep, and its repair after a power cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
"""What was done to a table: as fields, and as a line."""

app = typer.Typer(help="Look after the Delta tables: history, compaction, clean-up, repair.", no_args_is_help=True)


@app.command("history")
def history(
    table: TableArgument,
    *,
    limit: Annotated[int, typer.Option(help="Show that many commits, the newest ones.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show a table's commits, newest first: what each did, how many rows it holds and who made it."""
    if limit < 1:
        raise UsageError(f"--limit {limit} is not 1 or more")
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
    """Merge the small files of a table, or of all; who writes to it goes on meanwhile."""
    from v6_pipeline.lake.maintenance import compact

    def merge(store: DeltaTableStore) -> Kept:
        made = compact(store)
        said = (
            "nothing to merge"
            if made.version is None
            else f"{output.counted(made.files_removed, 'file')} merged into {made.files_added}, "
            f"Delta version {made.version}"
        )
        fields: dict[str, object] = {
            "version": made.version,
            "files_removed": made.files_removed,
            "files_added": made.files_added,
        }
        return fields, said

    _keep_up(table, "tables merged", merge, {}, as_json=as_json)


@app.command("vacuum")
def vacuum(
    table: TablesArgument = None,
    *,
    retention_hours: Annotated[
        int, typer.Option(help="Keep what versions of that many hours need; 168, a week, at least.")
    ] = 168,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete data files that no version of the last week needs, and what failed commits left."""
    from v6_pipeline.lake.maintenance import RETENTION_HOURS
    from v6_pipeline.lake.maintenance import vacuum as clean

    if retention_hours < RETENTION_HOURS:
        raise UsageError(f"--retention-hours {retention_hours} is below {RETENTION_HOURS}: files in use would go")
    verb = "would be deleted" if dry_run else "deleted"

    def delete(store: DeltaTableStore) -> Kept:
        found = clean(store, retention_hours=retention_hours, dry_run=dry_run)
        size = "" if found.size_bytes is None else f", {found.size_bytes / 2**20:.1f} MiB"
        said = f"{output.counted(len(found.files), 'file')} {verb}{size}"
        return {"files": found.files, "size_bytes": found.size_bytes}, said

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
    """Do a work to each table that exists; one that fails holds up no other. Upkeep creates nothing.

    Args:
        table: the one to keep up; None is all.
        label: of the bar.
        work: gives what it did.
        head: what the document has besides.
        as_json: whether to print a document.

    Raises:
        LakeError: some failed, each with its reason; or the named one does not exist.
    """
    done: list[dict[str, object]] = []
    failed: list[str] = []
    with _told(as_json=as_json) as said:
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
            said.append(f"{store.spec.name}: {text}")
    failure = "; ".join(failed) or None
    if as_json:
        output.document({**head, "tables": done, "error": failure})
    if failure is not None:
        raise LakeError(failure)


@contextmanager
def _told(*, as_json: bool) -> Iterator[list[str]]:
    """Lines of result, which are printed once the bar is gone, and also if the work ends early."""
    said: list[str] = []
    try:
        yield said
    finally:
        for text in () if as_json else said:
            output.line(text)


def _stores(table: str | None) -> list[DeltaTableStore]:
    """Return the named table, or all.

    Raises:
        UsageError: there is no table of that name.
    """
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
    """The partition that the commit belongs to, else the trading days of its rows."""
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is wrong and what would be done.")] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss", help="Also mend damage that costs rows which were reported as written; says how many."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Mend tables after a power cut: unusable newest commits are set aside, never deleted.

    Exit code 0 if nothing is wrong any more, 1 if a table could not be repaired.
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
        note = "in an object store an object is there whole or not: a power cut leaves nothing to repair"
        if as_json:
            output.document({"dry_run": dry_run, "tables": [], "note": note})
        else:
            output.line(note)
        return
    uris = {name: f"{lake.root}/{name}" for name in names}
    looked_at = progress.each(list(uris.items()), "tables looked at", shown=not as_json)
    plans = [plan_repair(name, uri, accept_loss=accept_loss) for name, uri in looked_at]
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
    """Mend a table as planned, unless someone may be writing to it; what was found and done, for ``--json``."""
    from v6_pipeline.lake.recovery.repair import repair as mend
    from v6_pipeline.state.instants import utc_now

    error = plan.refused
    aside: Path | None = None
    if plan.findings and error is None and not dry_run:
        error = _writer_alive(settings, plan.table)
        if error is None:
            try:
                aside = mend(plan, uri, now=utc_now())
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
    """Who may be writing to the table now, and what to do about that; ``None`` if nobody.

    The streamer writes its own table, runs write all others; the marker is written by whoever writes first.
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
                    f"the streamer of epoch {state.epoch} is running or about to: switch ib_streamer_sensor off, stop "
                    "it with 'v6 stream --stop', then repair"
                )
        if table != STREAMED_POSITIONS.name:
            for client_id, owner in ClientIds(database, range(0)).leased().items():
                return f"run {owner} (client id {client_id}) may be writing: repair once it has ended"
    return None


def _show_repair(plan: RepairPlan, result: dict[str, Any]) -> None:
    name = plan.table
    if not plan.findings:
        output.line(f"{name}: nothing wrong")
        return
    for finding in plan.findings:
        reason = f": {finding.why}" if finding.why else ""
        output.line(f"{name}: {finding.damage}, {finding.remedy}{reason}")
    for day, rows in sorted(plan.lost_rows.items()):
        output.line(f"{name}: {output.counted(rows, 'row')} of {day} lost")
    if result["error"] is not None:
        output.line(f"{name}: not repaired: {result['error']}")
    elif result["repaired"]:
        kept = "" if result["quarantine"] is None else f"; what was taken out is in {result['quarantine']}"
        output.line(f"{name}: repaired{kept}")
    else:
        output.line(f"{name}: would be repaired")
