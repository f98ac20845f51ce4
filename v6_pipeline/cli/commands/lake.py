"""``v6 lake``: the history of a table and its upkeep. Mending one is in ``lake_repair``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from v6_pipeline.cli import home, output, progress
from v6_pipeline.cli.commands import lake_repair
from v6_pipeline.cli.options import TableArgument, TablesArgument
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import LakeError, UsageError

if TYPE_CHECKING:
    from v6_pipeline.lake.lineage import CommitInfo
    from v6_pipeline.lake.table import DeltaTableStore

Kept = tuple[dict[str, object], str]
"""What was done to a table: as fields, and as a line."""

app = typer.Typer(help="Look after the Delta tables: history, compaction, clean-up, repair.", no_args_is_help=True)
app.command("repair")(lake_repair.repair)


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
    from v6_pipeline.lake.lineage import read_commits

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
    """The named table, or all.

    Raises:
        UsageError: there is no table of that name.
    """
    from v6_pipeline.lake.schemas import TABLES

    names = [spec.name for spec in TABLES]
    if table is not None and table not in names:
        raise UsageError(f"{table} is no table of the lake: {', '.join(names)}")
    lake = home.open_lake(home.load())
    return [lake.table(spec) for spec in TABLES if table in {None, spec.name}]


def _missing(table: str) -> LakeError:
    return LakeError(f"there is no table {table} yet: nothing has been written to it")


def _partitions(commit: CommitInfo) -> str:
    """The partition that the commit belongs to, else the trading days of its rows."""
    return commit.partition or ", ".join(day.isoformat() for day in commit.rows_by_date)


def _author(commit: CommitInfo) -> str | None:
    if commit.run_id is not None:
        return f"run {commit.run_id}"
    return None if commit.epoch is None else f"epoch {commit.epoch}"
