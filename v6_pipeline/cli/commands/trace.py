"""``v6 trace``: the sources of a snapshot's numbers, down to commit and run; and the commits of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v6_pipeline.cli import home, output
from v6_pipeline.cli.options import parse_date
from v6_pipeline.cli.output import Branch, JsonOption
from v6_pipeline.errors import UsageError

if TYPE_CHECKING:
    from v6_pipeline.history.trace import RunCommits, Source, Trace
    from v6_pipeline.history.trace_compare import Number
    from v6_pipeline.lake.commits import Writer
    from v6_pipeline.lake.lineage import CommitInfo

_OF_FLEX = ("flex_positions", "flex_activity")


def trace(
    conid: Annotated[int | None, typer.Argument(metavar="CONID", help="IB's contract id.", show_default=False)] = None,
    *,
    date: Annotated[
        str | None, typer.Option(metavar="DATE", help="Trading day. Default: the newest snapshot with the contract.")
    ] = None,
    account: Annotated[str | None, typer.Option(help="Only this account.")] = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN_ID", help="Show the commits of a Dagster run instead; 8 characters of its id suffice."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the sources of a snapshot's numbers: rows, Delta commits, runs. With --run: the commits of a run."""
    if (conid is None) == (run is None):
        raise UsageError("name either a contract or, with --run RUN_ID, a run")
    if run is not None:
        if date is not None or account is not None:
            raise UsageError("--run takes neither --date nor --account")
        _trace_run(run, as_json=as_json)
    elif conid is not None:
        _trace_contract(conid, date, account, as_json=as_json)


def _trace_contract(conid: int, date: str | None, account: str | None, *, as_json: bool) -> None:
    if not 0 < conid < 2**63:
        raise UsageError(f"{conid} is not a contract id")
    day = None if date is None else parse_date("--date", date)
    settings = home.load()
    from v6_pipeline.calendar import TradingCalendar
    from v6_pipeline.history.trace import trace as find
    from v6_pipeline.settings import MarketHours

    always = settings.market_hours is MarketHours.ALWAYS
    lake = home.open_lake(settings)
    traces = find(lake, TradingCalendar(settings.timezone), conid, day=day, account=account, always=always)
    if as_json:
        documents = [_document(item) for item in traces]
        output.document({"conid": conid, "date": traces[0].row["date"], "traces": documents})
        return
    for item in traces:
        output.tree(_branch(item))


def _trace_run(run_id: str, *, as_json: bool) -> None:
    settings = home.load()
    from v6_pipeline.history.trace import commits_of_run

    found = commits_of_run(home.open_lake(settings), run_id)
    run_id = found[0].run_id
    if as_json:
        tables = [
            {"table": item.table, "oldest_version": item.oldest_version, "commits": item.commits} for item in found
        ]
        output.document({"run_id": run_id, "tables": tables})
        return
    output.table(
        ("table", "version", "committed at", "operation", "rows", "partitions"),
        [(item.table, *_cells(commit)) for item in found for commit in item.commits],
        numbers=("version", "rows"),
    )
    output.line(_total(run_id, found))


def _cells(commit: CommitInfo) -> tuple[object, ...]:
    days = {day.isoformat() for day in commit.rows_by_date} | {group["date"] for group in commit.replaced}
    at = f"{commit.committed_at:%Y-%m-%d %H:%M:%S}Z"
    return commit.version, at, commit.operation, commit.rows, ", ".join(sorted(days))


def _total(run_id: str, found: list[RunCommits]) -> str:
    commits = [commit for item in found for commit in item.commits]
    rows = output.counted(sum(commit.rows for commit in commits), "row")
    tables = output.counted(len(found), "table")
    return f"run {run_id}: {output.counted(len(commits), 'commit')}, {rows}, {tables}"


def _document(item: Trace) -> dict[str, Any]:
    return {
        "snapshot": {"row": item.row, "version": item.version, "commit": item.writer},
        "agrees": item.agrees,
        "value": {"computed": item.value, "numbers": item.value_numbers},
        "sources": [_source_document(source, item.row["account"]) for source in item.sources],
    }


def _source_document(source: Source, account: str) -> dict[str, Any]:
    document = asdict(source)
    commit = document.pop("writer")
    return document | {"commit": commit, "account": account, "gateway": _gateway(source)}


def _branch(item: Trace) -> Branch:
    row = item.row
    state = "final" if row["final"] else "provisional"
    title = f"{row['local_symbol'] or row['symbol']} ({row['conid']}) of {row['account']}, {row['date']}, {state}"
    children: list[Branch] = [
        (_numbers_of(row), ()),
        (_written(item.writer, "position_snapshots"), ()),
        *(_source_branch(source, row) for source in item.sources),
    ]
    if item.value is not None:
        children.append((f"value: {item.value}", tuple((_number(number), ()) for number in item.value_numbers)))
    children.append(("all numbers agree" if item.agrees else "NOT all numbers agree: see above", ()))
    return title, tuple(children)


def _numbers_of(row: Mapping[str, Any]) -> str:
    price = "no price" if row["market_price"] is None else f"price {output.quantity(row['market_price'])}"
    value = "no value" if row["market_value"] is None else f"value {output.amount(row['market_value'])}"
    carried = ", carried forward" if row["carried_forward"] else ""
    return (
        f"position {output.quantity(row['position'])}, {price}, {value} {row['currency']}; position from "
        f"{row['position_source']}{carried}, price from {row['price_source'] or 'nowhere'}; observed {row['timestamp']}"
    )


def _source_branch(source: Source, snapshot: Mapping[str, Any]) -> Branch:
    parts = ", ".join(source.parts)
    at = "no version" if source.recorded_version is None else f"version {source.recorded_version}"
    stamp = "" if source.row is None else f", row of {source.row['timestamp']}"
    shown = [number for number in source.numbers if not number.agrees or number.source is not None]
    children: list[Branch] = [(_number(number), ()) for number in shown]
    children += [(_activity(row), ()) for row in source.summed]
    children += [(note, ()) for note in source.notes]
    if source.writer is not None:
        children.append((_written(source.writer, source.table), ()))
    children.append((f"account {snapshot['account']}, {_channel(source)}", ()))
    return f"{parts}: {source.table} at {at}{stamp}", tuple(children)


def _activity(row: Mapping[str, Any]) -> str:
    price = "" if row["price"] is None else f" at {output.quantity(row['price'])}"
    return (
        f"{row['kind']} of {row['activity_date']}: {output.quantity(row['quantity'])}{price}, "
        f"realized {output.amount(row['realized_pnl'])} {row['currency'] or ''}".rstrip()
    )


def _channel(source: Source) -> str:
    if source.table in _OF_FLEX:
        return f"Flex statement {source.origin or 'replaced since'}"
    gateway = _gateway(source)
    return "gateway unknown: the commit names none" if gateway is None else f"gateway {gateway}"


def _gateway(source: Source) -> str | None:
    commit = None if source.writer is None else source.writer.commit
    return None if commit is None else commit.gateway


def _number(number: Number) -> str:
    if number.agrees:
        return f"{number.name} {_shown(number.source)}: agrees"
    return f"{number.name} {_shown(number.source)}: DIFFERS from {_shown(number.snapshot)} in the snapshot"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return output.quantity(value)
    return "unknown" if value is None else str(value)


def _written(writer: Writer, table: str) -> str:
    commit = writer.commit
    if commit is None:
        return str(writer.note)
    author = f"Dagster run {commit.run_id}" if commit.run_id is not None else f"streamer epoch {commit.epoch}"
    sure = "" if writer.confirmed else "; by its metadata only: its files are gone or were not read"
    return (
        f"{table} version {commit.version}, {commit.committed_at:%Y-%m-%d %H:%M:%S}Z, {commit.operation}, "
        f"{output.counted(commit.rows, 'row')}, by {author}, v6_pipeline {commit.code_version}{sure}"
    )
