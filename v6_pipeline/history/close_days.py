"""Historical closes of trading days: fetch those of the contracts held, then write them day by day.

Requests to the gateway belong in ``closes``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

import polars as pl

from v6_pipeline.calendar import Session
from v6_pipeline.errors import NotCoveredError, SnapshotRefusedError
from v6_pipeline.history.closes import CloseFetcher, CloseReport, FetchProgress
from v6_pipeline.history.context import Failed, HistoryContext, Outcome
from v6_pipeline.history.inputs import LakeDays
from v6_pipeline.history.positions import day_positions, holding_of
from v6_pipeline.ib.close_plan import CloseReason
from v6_pipeline.ib.valuation import in_currency
from v6_pipeline.lake.tables import HISTORICAL_CLOSES
from v6_pipeline.model import ContractSpec, SecType
from v6_pipeline.state.account.closes import FetchedClose

REPORT_EVERY = 25
"""Contracts between two lines of progress."""
_SOURCE = "history"
"""Feed of these rows: IB's historical data."""


@dataclass(slots=True)
class _Wanted:
    """Days by conid whose close is wanted, and accounts by day."""

    days: dict[int, list[date]] = field(default_factory=dict)
    contracts: dict[int, ContractSpec] = field(default_factory=dict)
    accounts: dict[date, frozenset[str]] = field(default_factory=dict)

    def add(self, day: date, positions: pl.DataFrame) -> None:
        self.accounts[day] = frozenset(positions.get_column("account"))
        for row in positions.filter(pl.col("position") != 0).iter_rows(named=True):
            of_contract = self.days.setdefault(row["conid"], [])
            if day not in of_contract:  # several accounts may hold it
                of_contract.append(day)
            self.contracts.setdefault(row["conid"], holding_of(row, {}).contract)


def close_days(context: HistoryContext, days: Sequence[date], *, refetch: bool = False) -> Iterator[Outcome]:
    """Fetch and write the closes of the contracts held on trading days; ``refetch`` requests answered ones again.

    Raises:
        GatewayError: the gateway cannot be used; closes that it answered before that are kept, and not requested again.
        LakeError: a table is damaged, not writable or unreachable.
        StateError: the state database cannot be used.
    """
    wanted = _Wanted()
    lake_days = LakeDays(context.lake, context.calendar)
    for day in sorted(days):
        inputs = lake_days.day(context.window(day), until=context.until(day))
        try:
            wanted.add(day, day_positions(inputs, accounts=context.settings.ib_accounts))
        except SnapshotRefusedError as error:
            without = isinstance(error, NotCoveredError)
            yield Failed(spec=HISTORICAL_CLOSES, days=(day,), reason=str(error), not_covered=without)
    report = _fetch(context, wanted, refetch=refetch)
    store = context.lake.table(HISTORICAL_CLOSES)
    for day, accounts in wanted.accounts.items():
        frame = close_rows(
            context.calendar.session(day),
            report.entries.values(),
            report.contracts,
            run_id=context.run_id,
            ingested_at=context.now(),
        )
        made = context.write(store, day, frame, source=_SOURCE, accounts=accounts)
        yield replace(made, numbers=_numbers(frame))
    if silent := sorted({entry.day for entry in report.unanswered}):
        reason = (
            f"{len(report.unanswered)} closes were not answered in time: materialize those days again; "
            "answered closes are not requested again"
        )
        yield Failed(spec=HISTORICAL_CLOSES, days=tuple(silent), reason=reason)


def close_rows(
    session: Session,
    entries: Iterable[FetchedClose],
    contracts: Mapping[int, ContractSpec],
    *,
    run_id: str,
    ingested_at: datetime,
) -> pl.DataFrame:
    """Return the rows of a trading day, sorted by conid; entries of other days are left out.

    ``contracts`` are by conid; a row without one has an empty symbol and an empty currency.
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
        "close": entry.close if entry.close is None or contract is None else in_currency(entry.close, contract),
        "bar_size": entry.bar_size,
        "what_to_show": entry.what_to_show,
        "bar_time": entry.bar_time,
        "reason": entry.reason,
        "timestamp": entry.bar_time or session.closes_at,
        "source": _SOURCE,
        "run_id": run_id,
        "ingested_at": ingested_at,
        "price_magnifier": contract.price_magnifier if contract else None,
    }


def _fetch(context: HistoryContext, wanted: _Wanted, *, refetch: bool) -> CloseReport:
    if not wanted.days:
        return CloseReport()
    fetcher = CloseFetcher(
        context.settings, context.database, run_id=context.run_id, calendar=context.calendar, clock=context.now
    )

    def tell(progress: FetchProgress) -> None:
        if progress.contracts_done % REPORT_EVERY == 0 or progress.contracts_done == progress.contracts:
            context.say(
                f"closes: {progress.contracts_done} of {progress.contracts} contracts, {progress.requests} requests, "
                f"{progress.waiting} waiting for IB's pacing, {progress.closes} closes"
            )

    report = asyncio.run(fetcher.fetch(wanted.days, wanted.contracts, refetch=refetch, progress=tell))
    context.say(
        f"closes: {len(report.entries)} wanted of {len(wanted.days)} contracts, {report.reused} of them known before; "
        f"{report.requests} requests, {report.refusals} refused as too many"
    )
    return report


def _numbers(frame: pl.DataFrame) -> dict[str, int]:
    reasons = Counter(frame.get_column("reason").drop_nulls())
    without = {f"without_close_{reason.value}": reasons[reason.value] for reason in CloseReason}
    return {"closes": frame.get_column("close").count(), **{name: rows for name, rows in without.items() if rows}}
