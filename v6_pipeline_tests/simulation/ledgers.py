"""Checks of the Delta tables at the end of a day."""

from __future__ import annotations

import bisect
import itertools
import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.model import PriceSource

if TYPE_CHECKING:
    from v6_pipeline_tests.simulation.oracle import Oracle
    from v6_pipeline_tests.simulation.world import World


_UNDER_WAY = timedelta(seconds=3)
"""Longest delay of a message."""
_LATE = timedelta(seconds=180)
"""Greatest age of an account download relative to its row."""


def check_lake(world: World, oracle: Oracle) -> None:
    """Read every table whole."""
    for spec in (STREAMED_POSITIONS, QUEUED_POSITIONS, ACCOUNT_VALUES):
        store = world.lake.table(spec)
        handle = store.load()
        if handle is None:
            continue
        rows = pl.scan_delta(handle).collect()
        world.figures.commits += handle.version()
        world.figures.rows += rows.height
        twice = rows.group_by(*spec.key).len().filter(pl.col("len") > 1)
        if twice.height:
            oracle.wrong(f"{spec.name}: {twice.height} keys twice, first {twice.row(0)}")
        if spec is not STREAMED_POSITIONS:
            _check_resets(rows, oracle, spec.name)
        if spec is not ACCOUNT_VALUES:
            _check_closings(rows, oracle, spec.name)
            _check_values(rows, world, oracle, spec.name)
        if spec is STREAMED_POSITIONS:
            _check_epochs(rows, oracle)
            _check_blindness(rows, oracle)
            _check_price_times(rows, oracle)


def _check_epochs(rows: pl.DataFrame, oracle: Oracle) -> None:
    """Rows of one owner after the other, by the time at which they were handed to Delta."""
    epochs = rows.sort("ingested_at").get_column("epoch").to_list()
    for before, after in itertools.pairwise(epochs):
        if after < before:
            oracle.wrong(f"rows of epoch {before} lie before rows of epoch {after}")
            return


def _check_blindness(rows: pl.DataFrame, oracle: Oracle) -> None:
    """No row was made up while nothing could be known, but for positions that changed."""
    for begin, end in oracle.blind:
        made = rows.filter(pl.col("timestamp").is_between(begin + _UNDER_WAY, end, closed="none"))
        for row in made.iter_rows(named=True):
            story = oracle.quantities[row["account"], row["conid"]]
            if not any(begin - _UNDER_WAY <= at <= end + _UNDER_WAY for at, _ in story):
                oracle.wrong(f"a row of {row['conid']} at {row['timestamp']}, blind from {begin} to {end}")
                return


def _check_resets(rows: pl.DataFrame, oracle: Oracle, table: str) -> None:
    """No value of an account download is of a time at which the accounts were not ready."""
    if "price_source" in rows.columns:
        rows = rows.filter(pl.col("price_source") == PriceSource.PORTFOLIO.value)
    for begin, end in oracle.resets:
        made = rows.filter(pl.col("timestamp").is_between(begin + _UNDER_WAY, end, closed="none"))
        if made.height:
            oracle.wrong(f"{table}: a row of a reset from {begin} to {end}: {made.row(0, named=True)}")
            return


def _check_values(rows: pl.DataFrame, world: World, oracle: Oracle, table: str) -> None:
    """A value is that of its row's own position and price, by the multiplier that the gateway has."""
    names = ("account", "conid", "timestamp", "position", "market_price", "market_value")
    for account, conid, at, position, price, value in rows.select(names).drop_nulls().iter_rows():
        contract = world.gateway.universe.contracts[conid]
        true = position * price * contract.value_per_point * contract.price_magnifier
        if not math.isclose(value, true, rel_tol=1e-4, abs_tol=0.02):
            oracle.wrong(f"{table}: {conid} of {account} at {at}: {position} at {price} is worth {true}, not {value}")
            return


def _check_closings(rows: pl.DataFrame, oracle: Oracle, table: str) -> None:
    """A row that says closed is of a position that was."""
    for account, conid, at in rows.filter(pl.col("position") == 0).select("account", "conid", "timestamp").iter_rows():
        story = oracle.quantities[account, conid]
        if not story:
            oracle.wrong(f"{table}: {conid} of {account} closed at {at}, though never held")
            return
        until = [*(begin for begin, _ in story[1:]), at + _LATE]
        if not any(
            quantity == 0 and begin <= at + _LATE and end >= at - _LATE
            for (begin, quantity), end in zip(story, until, strict=True)
        ):
            oracle.wrong(f"{table}: {conid} of {account} closed at {at}, though held: {story}")
            return


def _check_price_times(rows: pl.DataFrame, oracle: Oracle) -> None:
    late = rows.filter(pl.col("price_time") > pl.col("timestamp"))
    if late.height:
        oracle.wrong(f"price_time in the future: {late.row(0, named=True)}")
    for conid, timestamp, price_time in rows.select("conid", "timestamp", "price_time").iter_rows():
        if price_time is None:
            continue
        last = _last(oracle.delivered.get(conid, []), timestamp)
        if last is None:
            oracle.wrong(f"{conid} has a price of {price_time}, and no tick was ever delivered before")
            return


def _last(moments: list[datetime], until: datetime) -> datetime | None:
    index = bisect.bisect_right(moments, until + timedelta(seconds=1))
    return moments[index - 1] if index else None
