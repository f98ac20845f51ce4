"""``v6 positions``: the newest known position of each contract in the lake."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v6_pipeline.cli import home, output
from v6_pipeline.cli.options import parse_date
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import LakeError, UsageError

if TYPE_CHECKING:
    from v6_pipeline.lake.lake import Lake

Row = Mapping[str, Any]
"""Any: a row of the lake, by column."""


def positions(
    *,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Positions as known at the end of this day's session. Default: now."),
    ] = None,
    account: Annotated[str | None, typer.Option(help="Only this account.")] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number to show.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the newest known position per account and contract, with its source and age.

    Exit code 1 if nothing is known as of that day, or of that account.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} is less than 1")
    day = None if as_of is None else parse_date("--as-of", as_of)
    settings = home.load()
    now = datetime.now(UTC)
    if day is not None:
        _check_day(day, now)
    from v6_pipeline.lake.reader import latest_positions
    from v6_pipeline.lake.tables import QUEUED_POSITIONS, STREAMED_POSITIONS

    lake = home.open_lake(settings)
    tables = [lake.table(STREAMED_POSITIONS), lake.table(QUEUED_POSITIONS)]
    known: list[Row] = list(latest_positions(tables, as_of_day=day, include_closed=True).iter_rows(named=True))
    rows = [row for row in known if row["position"] and account in {None, row["account"]}]
    note = None if rows else _why_empty(lake, day, account, known)
    shown = rows[:limit]
    if as_json:
        documents = [{**row, "age_seconds": _age(row["timestamp"], now)} for row in shown]
        output.document({"as_of": day, "total": len(rows), "positions": documents, "note": note})
        return
    if note is not None:
        output.notice(note)
        return
    _show(shown, now)
    of_all = f"{len(shown)} of " if len(shown) < len(rows) else ""
    output.line(f"{of_all}{output.counted(len(rows), 'position')}{'' if day is None else f' as of {day}'}")


def _check_day(day: date, now: datetime) -> None:
    # A day without a session has the positions of the session before. Tomorrow has begun in some time zones.
    if day > (now + timedelta(days=1)).date():
        raise UsageError(f"--as-of {day} is in the future")


def _why_empty(lake: Lake, day: date | None, account: str | None, known: list[Row]) -> str:
    """Return why nothing is shown; raise ``LakeError`` if nothing is known of that day or account."""
    at_that_time = "" if day is None else f" as of {day}"
    if not known and day is not None:
        raise LakeError(f"no positions are known{at_that_time}: {_of_snapshots(lake, day)}")
    if not known:
        return f"the lake {lake.root} has no positions yet: run 'v6 refresh --all', 'v6 stream' or 'v6 up'"
    if account is not None and all(row["account"] != account for row in known):
        accounts = ", ".join(sorted({row["account"] for row in known}))
        raise LakeError(f"no positions of account {account} are known{at_that_time}: the lake has {accounts}")
    return f"no open positions{at_that_time}: the newest row of every contract is a close"


def _of_snapshots(lake: Lake, day: date) -> str:
    from v6_pipeline.lake.reader import row_count
    from v6_pipeline.lake.tables import POSITION_SNAPSHOTS

    own = "--as-of reads streamed_positions and queued_positions, which begin later or are empty"
    rows = row_count(lake.table(POSITION_SNAPSHOTS), day)
    if not rows:
        return f"{own}; position_snapshots has no row of that day either"
    return (
        f"{own}; position_snapshots has {output.counted(rows, 'row')} of {day}: "
        f"'v6 lake history position_snapshots', 'v6 trace CONID --date {day}'"
    )


def _age(timestamp: datetime, now: datetime) -> float:
    return round((now - timestamp).total_seconds(), 1)


def _show(rows: list[Row], now: datetime) -> None:
    cells = [
        {
            "account": row["account"],
            "conid": row["conid"],
            "contract": row["local_symbol"] or row["symbol"],
            "type": row["sec_type"],
            "position": output.quantity(row["position"]),
            "price": output.quantity(row["market_price"]),
            "value": output.amount(row["market_value"]),
            "": row["currency"],
            "P&L": output.amount(row["unrealized_pnl"]),
            "strategies": ", ".join(row["strategy_ids"] or ()),
            "source": f"{row['source']}, {row['price_source'] or 'no price'}",
            "age": output.duration(_age(row["timestamp"], now)),
        }
        for row in rows
    ]
    numbers = ("conid", "position", "price", "value", "P&L", "age")
    output.table(list(cells[0]), (list(row.values()) for row in cells), numbers=numbers)
