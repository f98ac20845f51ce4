"""Rows from observations: pure functions from the model's dataclasses to frames of a table's exact schema.

What the broker sends for "unset" becomes null here as a last defence, wherever it slipped through before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime

import polars as pl

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.model import AccountValues, PositionUpdate, UpdateSource, known

TradingDay = Callable[[datetime], date]
"""The trading day of an aware instant."""


def position_rows(
    updates: Iterable[PositionUpdate],
    *,
    spec: TableSpec,
    trading_day: TradingDay,
    source: UpdateSource,
    ingested_at: datetime,
    epoch: int | None = None,
    run_id: str | None = None,
) -> pl.DataFrame:
    """Rows of a position table, sorted by account, conid and timestamp.

    One row per (account, conid, timestamp), of which the last given wins; of a stream only the newest per (account,
    conid).

    Raises:
        LakeError: an instant without a zone, a position that is no number, or the lineage that the table needs is
        missing.
    """
    newest: dict[tuple[object, ...], PositionUpdate] = {}
    for update in updates:
        stamp = _utc(update.timestamp, "timestamp", update.account)
        key = update.key if source is UpdateSource.STREAM else (*update.key, stamp)
        held = newest.get(key)
        if held is None or stamp >= _utc(held.timestamp, "timestamp", held.account):
            newest[key] = update
    lineage = _lineage(spec, source=source.value, epoch=epoch, run_id=run_id, ingested_at=ingested_at)
    rows = [
        _position_row(update, trading_day)
        for update in sorted(newest.values(), key=lambda update: (*update.key, update.timestamp))
    ]
    return _frame(spec, rows, lineage)


def account_rows(
    values: Iterable[AccountValues],
    *,
    spec: TableSpec,
    trading_day: TradingDay,
    source: UpdateSource,
    run_id: str,
    ingested_at: datetime,
) -> pl.DataFrame:
    """Rows of ``account_values``, one per (account, timestamp), of which the last given wins.

    Raises:
        LakeError: an instant without a zone.
    """
    newest = {(value.account, _utc(value.timestamp, "timestamp", value.account)): value for value in values}
    lineage = _lineage(spec, source=source.value, epoch=None, run_id=run_id, ingested_at=ingested_at)
    rows: list[dict[str, object]] = []
    for (account, stamp), value in sorted(newest.items(), key=lambda item: item[0]):
        row = {name: _cell(value, name) for name in AccountValues.__dataclass_fields__}
        rates = ((currency, known(rate)) for currency, rate in sorted(value.exchange_rates.items()))
        row["exchange_rates"] = [{"currency": currency, "rate": rate} for currency, rate in rates if rate is not None]
        rows.append(row | {"date": trading_day(stamp), "account": account, "timestamp": stamp})
    return _frame(spec, rows, lineage)


def _position_row(update: PositionUpdate, trading_day: TradingDay) -> dict[str, object]:
    row = {name: _cell(update, name) for name in PositionUpdate.__dataclass_fields__}
    if row["position"] is None:
        raise LakeError(
            f"position of {update.account} in conid {update.conid} is {update.position}, not a number of contracts: "
            "refresh it from the broker"
        )
    stamp = _utc(update.timestamp, "timestamp", update.account)
    row["price_source"] = None if update.price_source is None else update.price_source.value
    row["sec_type"] = str(update.sec_type)
    row["strategy_ids"] = list(update.strategy_ids)
    if update.price_time is not None:
        row["price_time"] = _utc(update.price_time, "price_time", update.account)
    return row | {"date": trading_day(stamp), "timestamp": stamp}


def _cell(item: PositionUpdate | AccountValues, name: str) -> object:
    value: object = getattr(item, name)
    if isinstance(value, float) or (isinstance(value, int) and name != "conid"):
        return known(value)
    return value


def _lineage(
    spec: TableSpec, *, source: str, epoch: int | None, run_id: str | None, ingested_at: datetime
) -> dict[str, object]:
    given: dict[str, object] = {
        "source": source,
        "epoch": epoch,
        "run_id": run_id,
        "ingested_at": _utc(ingested_at, "ingested_at", spec.name),
    }
    for name in ("epoch", "run_id"):
        if spec.has(name) and given[name] is None:
            raise LakeError(f"rows for {spec.name} need {name}: pass it")
    return {name: value for name, value in given.items() if spec.has(name)}


def _frame(spec: TableSpec, rows: Sequence[dict[str, object]], lineage: dict[str, object]) -> pl.DataFrame:
    columns = {
        column.name: pl.Series(
            column.name,
            [lineage[column.name] if column.name in lineage else row.get(column.name) for row in rows],
            dtype=column.dtype,
        )
        for column in spec.columns
    }
    return pl.DataFrame(columns)


def _utc(instant: datetime, name: str, owner: str) -> datetime:
    if instant.tzinfo is None:
        raise LakeError(f"{name} {instant} of {owner} has no time zone: pass an aware datetime")
    return instant.astimezone(UTC)
