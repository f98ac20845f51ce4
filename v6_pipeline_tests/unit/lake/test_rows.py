"""Rows from observations: exact schema, null for unknown, one row per key."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.rows import account_rows, position_rows
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.model import AccountValues, PriceSource, UpdateSource, known
from v6_pipeline_tests.unit.lake.builders import DAY, NOON, queued, streamed, trading_day, update

UNSET = 1.7976931348623157e308


def test_rows_have_exactly_the_tables_columns_in_order() -> None:
    assert queued([update()]).schema == QUEUED_POSITIONS.schema
    assert streamed([update()]).schema == STREAMED_POSITIONS.schema
    assert queued([]).schema == QUEUED_POSITIONS.schema


def test_a_row_keeps_what_was_observed() -> None:
    seen = update(
        7,
        right="C",
        strike=5000.0,
        expiry=date(2026, 6, 19),
        underlying_conid=416904,
        market_price=10.5,
        price_source=PriceSource.MARK,
        price_time=NOON,
        strategy_ids=("a", "b"),
        market_data_type=1,
    )
    row = streamed([seen], epoch=3).row(0, named=True)
    assert row["date"] == DAY
    assert (row["conid"], row["strike"], row["expiry"]) == (7, 5000.0, date(2026, 6, 19))
    assert (row["price_source"], row["price_time"], row["strategy_ids"]) == ("mark", NOON, ["a", "b"])
    assert (row["source"], row["epoch"], row["ingested_at"]) == ("stream", 3, NOON)
    assert row["bid"] is None


def test_the_partition_is_the_trading_day_that_the_caller_names() -> None:
    friday = date(2026, 2, 27)
    frame = position_rows(
        [update()],
        spec=QUEUED_POSITIONS,
        trading_day=lambda _: friday,
        source=UpdateSource.QUEUE,
        run_id="r",
        ingested_at=NOON,
    )
    assert frame["date"].to_list() == [friday]


@pytest.mark.parametrize("unset", [UNSET, -UNSET, UNSET / 2, math.nan, math.inf, -math.inf, 2147483647.0, 2.0**63])
def test_the_brokers_unset_numbers_become_null(unset: float) -> None:
    """1.797e308 in a sum makes every total of that day meaningless."""
    row = queued([update(market_price=unset, delta=unset, average_cost=unset)]).row(0, named=True)
    assert (row["market_price"], row["delta"], row["average_cost"]) == (None, None, None)


def test_unset_integers_become_null() -> None:
    row = queued([update(underlying_conid=2**31 - 1, market_data_type=2**31 - 1)]).row(0, named=True)
    assert (row["underlying_conid"], row["market_data_type"]) == (None, None)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15))
def test_every_real_number_is_kept(value: float) -> None:
    assert known(value) == (None if value == 2147483647.0 else value)


def test_a_position_that_is_no_number_is_refused_not_dropped() -> None:
    with pytest.raises(LakeError, match=r"position of DU1 in conid 5"):
        queued([update(5, position=math.nan)])


@pytest.mark.parametrize("field", ["timestamp", "price_time"])
def test_an_instant_without_zone_is_refused(field: str) -> None:
    changes: dict[str, Any] = {field: NOON.replace(tzinfo=None)}
    with pytest.raises(LakeError, match=rf"{field} .* no time zone"):
        queued([replace(update(), **changes)])


def test_instants_are_stored_in_utc() -> None:
    eastern = timezone(timedelta(hours=-5))
    row = queued([update(timestamp=datetime(2026, 3, 4, 12, tzinfo=eastern))]).row(0, named=True)
    assert row["timestamp"] == datetime(2026, 3, 4, 17, tzinfo=UTC)


def test_lineage_that_the_table_needs_must_be_given() -> None:
    with pytest.raises(LakeError, match="need run_id"):
        position_rows(
            [update()], spec=QUEUED_POSITIONS, trading_day=trading_day, source=UpdateSource.QUEUE, ingested_at=NOON
        )


OBSERVATIONS = st.lists(
    st.tuples(st.sampled_from(["A", "B"]), st.integers(1, 3), st.integers(0, 4), st.integers(-5, 5)), max_size=25
)


@given(OBSERVATIONS)
def test_a_flush_has_the_newest_update_per_contract(seen: list[tuple[str, int, int, int]]) -> None:
    updates = [update(c, a, timestamp=NOON + timedelta(seconds=s), position=float(p)) for a, c, s, p in seen]
    newest: dict[tuple[str, int], tuple[int, float]] = {}
    for account, conid, second, position in seen:
        if (account, conid) not in newest or second >= newest[account, conid][0]:
            newest[account, conid] = (second, float(position))
    frame = streamed(updates)
    rows = {(r["account"], r["conid"]): r["position"] for r in frame.iter_rows(named=True)}
    assert frame.height == len(rows)
    assert rows == {key: position for key, (_, position) in newest.items()}


@given(OBSERVATIONS)
def test_a_batch_has_one_row_per_key_and_loses_no_key(seen: list[tuple[str, int, int, int]]) -> None:
    updates = [update(c, a, timestamp=NOON + timedelta(seconds=s), position=float(p)) for a, c, s, p in seen]
    keys = queued(updates).select("account", "conid", "timestamp").rows()
    assert len(keys) == len(set(keys))
    assert set(keys) == {(u.account, u.conid, u.timestamp) for u in updates}


def test_account_values_keep_rates_as_typed_pairs() -> None:
    values = AccountValues(
        account="DU1",
        base_currency="USD",
        timestamp=NOON,
        net_liquidation=1e6,
        daily_pnl=UNSET,
        exchange_rates={"EUR": 1.1, "CHF": UNSET, "USD": 1.0},
    )
    frame = account_rows(
        [values], spec=ACCOUNT_VALUES, trading_day=trading_day, source=UpdateSource.QUEUE, run_id="r", ingested_at=NOON
    )
    assert frame.schema == ACCOUNT_VALUES.schema
    row = frame.row(0, named=True)
    assert (row["date"], row["net_liquidation"], row["daily_pnl"]) == (DAY, 1e6, None)
    assert row["exchange_rates"] == [{"currency": "EUR", "rate": 1.1}, {"currency": "USD", "rate": 1.0}]


def test_account_values_are_one_row_per_account_and_instant() -> None:
    first = AccountValues(account="DU1", base_currency="USD", timestamp=NOON, total_cash=1.0)
    again = AccountValues(account="DU1", base_currency="USD", timestamp=NOON, total_cash=2.0)
    frame = account_rows(
        [first, again],
        spec=ACCOUNT_VALUES,
        trading_day=trading_day,
        source=UpdateSource.QUEUE,
        run_id="r",
        ingested_at=NOON,
    )
    assert frame.select(pl.col("total_cash")).rows() == [(2.0,)]
