"""Rows from observations: pure functions from the model's dataclasses to frames of a table's exact schema.

The broker's numbers for "unset" become null here as a last defence, if an earlier check has missed them.
"""

from __future__ import annotations

import enum
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
    """Return rows of a position table, sorted by account, conid and timestamp.

    One row per (account, conid, timestamp), the last one given; of a stream only the newest per (account, conid).

    Raises:
        LakeError: an instant without a zone, a position that is not a number, or a missing ``epoch`` or ``run_id``.
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
    """Return rows of ``account_values``, one per (account, timestamp), the last one given.

    Raises:
        LakeError: an instant without a zone.
    """
    newest = {(value.account, _utc(value.timestamp, "timestamp", value.account)): value for value in values}
    lineage = _lineage(spec, source=source.value, epoch=None, run_id=run_id, ingested_at=ingested_at)
    rows: list[dict[str, object]] = []
    for (_, stamp), value in sorted(newest.items(), key=lambda item: item[0]):
        row = {name: _cell(value, name) for name in AccountValues.__dataclass_fields__}
        rates = ((currency, known(rate)) for currency, rate in sorted(value.exchange_rates.items()))
        row["exchange_rates"] = [{"currency": currency, "rate": rate} for currency, rate in rates if rate is not None]
        rows.append(row | {"date": trading_day(stamp)})
    return _frame(spec, rows, lineage)


def _position_row(update: PositionUpdate, trading_day: TradingDay) -> dict[str, object]:
    row = {name: _cell(update, name) for name in PositionUpdate.__dataclass_fields__}
    if row["position"] is None:
        raise LakeError(
            f"position of {update.account} in conid {update.conid} is {update.position}, not a number of contracts: "
            "refresh it from the broker"
        )
    return row | {"date": trading_day(_utc(update.timestamp, "timestamp", update.account))}


def _cell(item: PositionUpdate | AccountValues, name: str) -> object:
    value: object = getattr(item, name)
    if isinstance(value, datetime):
        return _utc(value, name, item.account)
    if isinstance(value, float) or (isinstance(value, int) and name != "conid"):
        return known(value)
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


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
    whole = [row | lineage for row in rows]
    return pl.DataFrame(
        [pl.Series(name, [row.get(name) for row in whole], dtype=dtype) for name, dtype in spec.schema.items()]
    )


def _utc(instant: datetime, name: str, owner: str) -> datetime:
    if instant.tzinfo is None:
        raise LakeError(f"{name} {instant} of {owner} has no time zone: pass an aware datetime")
    return instant.astimezone(UTC)
