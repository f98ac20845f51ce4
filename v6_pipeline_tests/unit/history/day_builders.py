"""A trading day's inputs for tests, built row by row; Friday 2026-03-06, whose cut-off is 21:35 UTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.inputs import OBSERVED_SCHEMA, VERSION_COLUMNS, DayInputs, DayWindow
from v6_pipeline.history.snapshots import assemble
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.tables import (
    ACCOUNT_VALUES,
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    HISTORICAL_CLOSES,
    POSITION_SNAPSHOTS,
)
from v6_pipeline.model import ContractSpec
from v6_pipeline.state.registry.assignments import RegistryAt, RegistryEntry

CALENDAR = TradingCalendar()
DAY, BEFORE, AFTER = date(2026, 3, 6), date(2026, 3, 5), date(2026, 3, 9)
WINDOW = DayWindow.of(CALENDAR, DAY)
CLOSE = datetime(2026, 3, 6, 21, 0, tzinfo=UTC)
NOON = datetime(2026, 3, 6, 17, 0, tzinfo=UTC)
LATER = datetime(2026, 3, 20, tzinfo=UTC)
YESTERDAY = NOON - timedelta(days=1)
INSTANT = timedelta(microseconds=1)
NO_REGISTRY = RegistryAt((), WINDOW.cut_off, day=DAY)

_REQUIRED: Mapping[str, Any] = {
    "account": "DU1",
    "conid": 1,
    "symbol": "AAPL",
    "sec_type": "STK",
    "currency": "USD",
    "position": 10.0,
    "base_currency": None,
    "position_source": "stream",
    "carried_forward": False,
    "final": True,
    "ordinal": 0,
    "kind": "trade",
    "activity_date": DAY,
    "quantity": 1.0,
    "positions": 1,
    "activities": 0,
    "from_date": DAY,
    "to_date": DAY,
    "sections": ["OpenPositions"],
    "sha256": "x",
    "origin": "x.xml",
    "run_id": "run-0",
    "ingested_at": LATER,
}


def own(at: datetime = NOON, **values: Any) -> dict[str, Any]:
    """An own row; ``source`` is the stream unless it is given."""
    return {"timestamp": at, "source": "stream"} | values


def table(spec: TableSpec, *rows: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of a table, of the day if nothing else is said."""
    filled = [
        {name: _REQUIRED.get(name) for name in spec.column_names if name in _REQUIRED}
        | {"date": DAY, "timestamp": CLOSE}
        | dict(row)
        for row in rows
    ]
    return pl.DataFrame(filled, schema=spec.schema)


def observations(*rows: Mapping[str, Any]) -> pl.DataFrame:
    filled = [{name: _REQUIRED.get(name) for name in OBSERVED_SCHEMA} | {"date": DAY} | dict(row) for row in rows]
    return pl.DataFrame(filled, schema=OBSERVED_SCHEMA)


def day(
    observed: Sequence[Mapping[str, Any]] = (),
    *,
    earlier: Sequence[Mapping[str, Any]] = (),
    values: Sequence[Mapping[str, Any]] = (),
    statements: Sequence[Mapping[str, Any]] = (),
    flex: Sequence[Mapping[str, Any]] = (),
    activity: Sequence[Mapping[str, Any]] = (),
    closes: Sequence[Mapping[str, Any]] = (),
    accounts: Sequence[str] = ("DU1",),
    window: DayWindow = WINDOW,
    until: datetime | None = None,
    versions: Mapping[str, int] | None = None,
) -> DayInputs:
    """The day's inputs; ``accounts`` are those that are known."""
    return DayInputs(
        window=window,
        until=window.cut_off if until is None else until,
        observed=observations(*observed),
        earlier=observations(*earlier),
        account_values=table(
            ACCOUNT_VALUES, *({"base_currency": "USD", "source": "queue"} | dict(row) for row in values)
        ),
        statements=table(FLEX_STATEMENTS, *statements),
        flex_positions=table(FLEX_POSITIONS, *({"source": "flex"} | dict(row) for row in flex)),
        activity=table(FLEX_ACTIVITY, *activity),
        closes=table(HISTORICAL_CLOSES, *({"source": "history"} | dict(row) for row in closes)),
        accounts=frozenset(accounts),
        versions={**dict.fromkeys(VERSION_COLUMNS.values()), **(versions or {})},
    )


def by_flex(*positions: Mapping[str, Any], account: str = "DU1", **more: Any) -> DayInputs:
    """A day of one account with a Flex statement of these positions."""
    rows = [{"account": account, "price_source": "flex", "price_time": CLOSE} | dict(row) for row in positions]
    statement = {"account": account, "positions": len(rows), "base_currency": "USD"}
    return day(statements=[statement], flex=rows, accounts=[account], **more)


def snapshot(
    inputs: DayInputs,
    *,
    entries: Sequence[RegistryEntry] = (),
    contracts: Mapping[int, ContractSpec] | None = None,
    now: datetime = LATER,
    accounts: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The rows of the assembled day."""
    frame = assemble(
        inputs,
        registry=RegistryAt(entries, inputs.window.cut_off, day=inputs.day),
        contracts=contracts or {},
        now=now,
        run_id="run-1",
        accounts=accounts,
    )
    assert frame.schema == POSITION_SNAPSHOTS.schema
    return frame.to_dicts()
