"""Rows of ``historical_closes`` from what was fetched: a pure function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

import polars as pl

from v6_pipeline.calendar import Session
from v6_pipeline.lake.tables import HISTORICAL_CLOSES
from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.state.account.closes import FetchedClose

SOURCE = "history"
"""The feed of these rows: IB's historical data."""


def close_rows(
    session: Session,
    entries: Iterable[FetchedClose],
    contracts: Mapping[int, ContractSpec],
    *,
    run_id: str,
    ingested_at: datetime,
) -> pl.DataFrame:
    """The rows of one trading day, sorted by conid; entries of other days are left out.

    Args:
        session: of the day.
        entries: what was fetched, the days of a whole range for all we care.
        contracts: by conid. Of one that IB does not know and no position told of, symbol and currency are empty.
        run_id: names the run.
        ingested_at: when the rows are handed to Delta.
    """
    of_day = sorted((entry for entry in entries if entry.day == session.day), key=lambda entry: entry.conid)
    rows = [_row(entry, session, contracts.get(entry.conid), run_id, ingested_at.astimezone(UTC)) for entry in of_day]
    return pl.DataFrame(rows, schema=HISTORICAL_CLOSES.schema)


def _row(
    entry: FetchedClose, session: Session, contract: ContractSpec | None, run_id: str, ingested_at: datetime
) -> dict[str, date | datetime | int | float | str | None]:
    return {
        "date": session.day,
        "conid": entry.conid,
        "symbol": contract.symbol if contract else "",
        "sec_type": (contract.sec_type if contract else SecType.OTHER).value,
        "currency": contract.currency if contract else "",
        "close": entry.close,
        "bar_size": entry.bar_size,
        "what_to_show": entry.what_to_show,
        "bar_time": entry.bar_time,
        "reason": entry.reason,
        "timestamp": entry.bar_time or session.closes_at,
        "source": SOURCE,
        "run_id": run_id,
        "ingested_at": ingested_at,
    }
