"""``v6 lake repair``: says what a power cut left of the tables, and mends it while nobody writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from v6_pipeline.cli import home, output, progress
from v6_pipeline.cli.options import TablesArgument
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import LakeError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from v6_pipeline.lake.recovery.repair import RepairPlan
    from v6_pipeline.settings import Settings


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
    names = _names(table)
    settings = home.load()
    from v6_pipeline.lake.lake import Lake
    from v6_pipeline.lake.recovery.durability import local_path
    from v6_pipeline.lake.recovery.repair import plan_repair

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
            _show(plan, result)
    failed = [result for result in done if result["error"] is not None]
    if failed:
        raise LakeError(
            f"{output.counted(len(failed), 'table')} not repaired: {', '.join(result['table'] for result in failed)}"
        )


def _names(table: str | None) -> list[str]:
    from v6_pipeline.lake.lake import MARKER_TABLE
    from v6_pipeline.lake.schemas import TABLES

    # The marker first: without it nothing else can be opened.
    names = [MARKER_TABLE, *(spec.name for spec in TABLES)]
    if table is not None and table not in names:
        raise UsageError(f"{table} is no table of the lake: {', '.join(names)}")
    return names if table is None else [table]


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
    from v6_pipeline.cli.streamer_control import live_lease, process_of
    from v6_pipeline.lake.lake import MARKER_TABLE
    from v6_pipeline.lake.schemas import STREAMED_POSITIONS
    from v6_pipeline.state.leases.leases import ClientIds

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


def _show(plan: RepairPlan, result: dict[str, Any]) -> None:
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
