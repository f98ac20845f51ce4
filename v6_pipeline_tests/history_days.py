"""Trading days as history finds them: Flex statements in a folder, and what refreshes would have written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.rows import account_rows, position_rows
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS
from v6_pipeline.model import AccountValues, PositionUpdate, PriceSource, UpdateSource

CALENDAR = TradingCalendar()
ACCOUNTS = ("SIM0000001", "SIM0000002")
POSITIONS = 3
"""Number of positions of each account on each day."""


TRADES = "<Trades />"
ALL_ACTIVITY = "<Trades /><OptionEAE /><Transfers /><CorporateActions />"
"""Sections of what may change a quantity, each of them there and empty."""


def drop(
    path: Path,
    days: Sequence[date],
    *,
    quantity: int,
    made: str,
    activity: str = TRADES,
    accounts: Sequence[str] = ACCOUNTS,
) -> None:
    """A file of statements, complete as soon as it is seen; with quantity 0 the accounts are flat.

    ``activity`` may have ``{day:%Y%m%d}`` in it, the day of the statement.
    """
    statements = [_statement(account, day, quantity, made, activity) for day in days for account in accounts]
    text = (
        f'<FlexQueryResponse queryName="Daily" type="AF"><FlexStatements count="{len(statements)}">'
        f"{''.join(statements)}</FlexStatements></FlexQueryResponse>"
    )
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(text)
    hidden.replace(path)


def _statement(account: str, day: date, quantity: int, made: str, activity: str) -> str:
    positions = "".join(
        f'<OpenPosition accountId="{account}" currency="USD" fxRateToBase="1" assetCategory="STK" symbol="S{conid}" '
        f'conid="{conid}" multiplier="1" reportDate="{day:%Y%m%d}" position="{quantity * conid}" '
        f'markPrice="{day.day}" positionValue="{quantity * conid * day.day}" costBasisMoney="{conid * 50}" '
        f'fifoPnlUnrealized="{quantity * conid * day.day - conid * 50}" />'
        for conid in range(1, POSITIONS + 1)
        if quantity
    )
    return (
        f'<FlexStatement accountId="{account}" fromDate="{day:%Y%m%d}" toDate="{day:%Y%m%d}" '
        f'whenGenerated="{day:%Y%m%d};{made}"><AccountInformation accountId="{account}" currency="USD" />'
        f"<OpenPositions>{positions}</OpenPositions>{activity.format(day=day)}</FlexStatement>"
    )


def observe(
    lake: Lake,
    days: Sequence[date],
    conids: Sequence[int] = range(1, POSITIONS + 1),
    *,
    accounts: Sequence[str] = ACCOUNTS,
    flat: Sequence[str] = (),
) -> None:
    """Write refreshes at noon of those days: 7 of the first contract in each account, 14 of the second, ...

    Accounts in ``flat`` were downloaded and hold nothing.
    """
    for day in days:
        noon = datetime(day.year, day.month, day.day, 17, tzinfo=UTC)
        common: dict[str, Any] = {"trading_day": CALENDAR.trading_day, "source": UpdateSource.QUEUE, "run_id": "seed"}
        updates = [
            PositionUpdate(
                account=account,
                conid=conid,
                symbol=f"S{conid}",
                sec_type="STK",
                currency="USD",
                position=7.0 * number,
                timestamp=noon,
                market_price=float(day.day),
                market_value=7.0 * number * day.day,
                unrealized_pnl=7.0 * number,
                realized_pnl=0.0,
                price_source=PriceSource.PORTFOLIO,
                price_time=noon,
                base_currency="USD",
                fx_rate_to_base=1.0,
            )
            for account in accounts
            for number, conid in enumerate(conids, start=1)
        ]
        values = [AccountValues(account=account, base_currency="USD", timestamp=noon) for account in (*accounts, *flat)]
        frames = {
            QUEUED_POSITIONS: position_rows(updates, spec=QUEUED_POSITIONS, ingested_at=noon, **common),
            ACCOUNT_VALUES: account_rows(values, spec=ACCOUNT_VALUES, ingested_at=noon, **common),
        }
        for spec, frame in frames.items():
            lake.table(spec).append(
                frame, CommitLineage(asset=spec.name, source="queue", code_version="0", run_id="seed")
            )
