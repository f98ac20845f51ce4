"""No value observed after a day's cut-off is in the day's snapshot, in any column, whatever rows there are around it.

Every value says when it was observed: a number is the seconds from the cut-off plus a fraction of its column's, a text
holds them. So each cell of the result shows its origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from v6_pipeline.errors import SnapshotRefusedError
from v6_pipeline.history.inputs import GREEKS, KEY, OBSERVED_SCHEMA, QUOTE, DayInputs, LakeDays, thin
from v6_pipeline.history.positions import holding_of
from v6_pipeline.history.snapshots import assemble
from v6_pipeline.ib.valuation import market_value, unrealized_pnl
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.replace import replace as replace_rows
from v6_pipeline.lake.tables import HISTORICAL_CLOSES, POSITION_SNAPSHOTS, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.state.registry.assignments import RegistryAt, RegistryEntry
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.history.day_builders import CALENDAR, CLOSE, DAY, LATER, WINDOW, day, observations, table
from v6_pipeline_tests.unit.lake.builders import no_fsync

FRIDAY_MORNING, SATURDAY, MONDAY_PRE_MARKET = -40_000, 60_000, 210_000
"""Seconds from Friday's cut-off."""
_NUMBERS = tuple(name for name, dtype in OBSERVED_SCHEMA.items() if dtype == pl.Float64)
_TEXTS = ("local_symbol", "trading_class", "price_source", "base_currency")
_COMPUTED = ("market_value", "unrealized_pnl")
_GROUPS: dict[str, tuple[str, ...]] = {
    "price": ("market_price", "market_value", "unrealized_pnl", "price_source"),
    "quote": QUOTE,
    "greeks": GREEKS,
    "realized": ("realized_pnl",),
    "rate": ("base_currency", "fx_rate_to_base"),
}
_ALWAYS = ("position", "average_cost", "strike", "multiplier", "local_symbol", "trading_class")


def at(second: float) -> datetime:
    return WINDOW.cut_off + timedelta(seconds=second)


def number(name: str, second: float) -> float:
    """The value of a column that was observed at a second: 1/2 to 1/2 + 1/8 above it, by column."""
    return second + 0.5 + _NUMBERS.index(name) / 256


def text(second: float) -> str:
    return f"at {second:.0f}"


def observation(second: int, *, conid: int, source: str, groups: Sequence[str], priced_at: int) -> dict[str, Any]:
    """An own row with some groups of values; the price and what comes with it are of ``priced_at``."""
    row: dict[str, Any] = {"conid": conid, "source": source, "timestamp": at(second), "date": _day_of(second)}
    for group, names in (("", _ALWAYS), *_GROUPS.items()):
        for name in names if not group or group in groups else ():
            # All but position and cost may be from the tick, whose time a row has with its price.
            when = second if name in _ALWAYS or "price" not in groups else max(second, priced_at)
            row[name] = text(when) if name in _TEXTS else number(name, when)
    if "price" in groups:
        row["price_time"] = at(priced_at)
    return row


def _day_of(second: float) -> Any:
    return CALENDAR.trading_day(at(second))


seconds = st.one_of(
    st.integers(-3, 3),
    st.integers(FRIDAY_MORNING, 0),
    st.sampled_from([SATURDAY, MONDAY_PRE_MARKET, -86_400, -200_000]),
)


@st.composite
def own_rows(draw: st.DrawFn) -> dict[str, Any]:
    second = draw(seconds)
    lag = draw(st.sampled_from([0, 0, 30, 3_600, 100_000, -5]))
    return observation(
        second,
        conid=draw(st.integers(1, 3)),
        source=draw(st.sampled_from(["stream", "queue"])),
        groups=draw(st.lists(st.sampled_from(list(_GROUPS)), unique=True)),
        priced_at=second - lag,
    )


@st.composite
def days(draw: st.DrawFn) -> DayInputs:
    """The day's inputs as the lake would give them, but with all that was observed later still in them."""
    rows = draw(
        st.lists(own_rows(), max_size=12, unique_by=lambda row: (row["conid"], row["source"], row["timestamp"]))
    )
    before = observations(*(row for row in rows if row["date"] < DAY))
    earlier = before.sort("timestamp", "source", descending=True).unique(subset=KEY, keep="first", maintain_order=True)
    late = st.sampled_from([-30, 0, 1, SATURDAY])
    closes = [
        {"conid": conid, "close": number("close", second), "bar_time": at(second)}
        for conid, second in draw(st.dictionaries(st.integers(1, 3), late)).items()
    ]
    values = [
        {
            "timestamp": at(second),
            "base_currency": text(second),
            "exchange_rates": [{"currency": "USD", "rate": number("fx_rate_to_base", second)}],
        }
        for second in draw(st.lists(late, unique=True))
    ]
    inputs = day([row for row in rows if row["date"] >= DAY], values=values, closes=closes)
    inputs = replace(inputs, earlier=earlier)
    if draw(st.booleans()):
        return inputs
    second = (CLOSE - WINDOW.cut_off).total_seconds()
    flex = observation(int(second), conid=2, source="flex", groups=["price"], priced_at=int(second))
    booked = [
        {"conid": 2, "ordinal": ordinal, "activity_date": DAY + timedelta(days=days), "realized_pnl": realized}
        for ordinal, (days, realized) in enumerate([(0, number("realized_pnl", second)), (1, 1e6), (3, 1e6)])
    ]
    of_flex = day(statements=[{"positions": 1}], flex=[flex], activity=booked)
    return replace(
        inputs,
        statements=of_flex.statements,
        flex_positions=of_flex.flex_positions,
        activity=of_flex.activity,
    )


REGISTRY = RegistryAt(
    [
        RegistryEntry(strategy=text(second), priority=1, valid_from=at(second), valid_to=None, conid=conid)
        for second in (-5, 0, 1, SATURDAY)
        for conid in (1, 2, 3)
    ],
    WINDOW.cut_off,
    day=DAY,
)


def assembled(inputs: DayInputs, *, now: datetime = LATER, run_id: str = "run-1") -> pl.DataFrame:
    try:
        return assemble(inputs, registry=REGISTRY, contracts={}, now=now, run_id=run_id)
    except SnapshotRefusedError:
        assume(condition=False)
        raise


def late_cells(frame: pl.DataFrame) -> list[tuple[str, Any]]:
    """Cells that say that they were observed after the cut-off; lineage aside."""
    found: list[tuple[str, Any]] = []
    for row in frame.to_dicts():
        for name, value in row.items():
            if name in POSITION_SNAPSHOTS.provenance or value is None or name in {"date", "conid"}:
                continue
            if _seconds(row, name, value) > 0:
                found.append((name, value))
    return found


def _seconds(row: dict[str, Any], name: str, value: Any) -> float:
    """Time from the cut-off to the observation of a cell."""
    if isinstance(value, datetime):
        return (value - WINDOW.cut_off).total_seconds()
    if isinstance(value, list):
        return max((float(item.removeprefix("at ")) for item in value), default=-1)
    if isinstance(value, str):
        return float(value.removeprefix("at ")) if value.startswith("at ") else -1
    if isinstance(value, float):
        if name in _COMPUTED and _is_computed(row):
            return -1  # from cells that are looked at themselves
        return float(value // 1)
    return -1


def _is_computed(row: dict[str, Any]) -> bool:
    holding = holding_of(row, {})
    value = market_value(holding.contract, holding.position, row["market_price"])
    profit = unrealized_pnl(holding.position, value, holding.average_cost)
    return (row["market_value"], row["unrealized_pnl"]) == (value, profit)


def test_a_cell_from_after_the_cut_off_would_be_seen() -> None:
    late = [
        observation(second, conid=1, source="queue", groups=list(_GROUPS), priced_at=second) for second in (5, SATURDAY)
    ]
    widened = replace(day(late), window=replace(WINDOW, cut_off=at(SATURDAY)), until=at(SATURDAY))
    seen = {name for name, _ in late_cells(assembled(widened))}
    assert seen >= {
        *_ALWAYS,
        *QUOTE,
        *GREEKS,
        "market_price",
        "market_value",
        "price_time",
        "timestamp",
        "realized_pnl",
    }
    assert seen >= {"unrealized_pnl", "price_source", "base_currency", "fx_rate_to_base"}


@settings(max_examples=examples(100), deadline=None)
@given(days())
def test_no_cell_is_from_after_the_cut_off(inputs: DayInputs) -> None:
    frame = assembled(inputs)
    assert late_cells(frame) == []
    assert not frame.select(KEY).is_duplicated().any()


@settings(max_examples=examples(40), deadline=None)
@given(days())
def test_later_observations_change_nothing(inputs: DayInputs) -> None:
    """Stronger in another way: with the later rows or without, the day is the same."""
    assert assembled(inputs).equals(assembled(inputs.cut()))


@settings(max_examples=examples(40), deadline=None)
@given(days())
def test_thinning_does_not_change_the_day(inputs: DayInputs) -> None:
    cut = inputs.cut()
    assert assembled(replace(cut, observed=thin(cut.observed.lazy()).collect())).equals(assembled(cut))


@settings(max_examples=examples(40), deadline=None)
@given(days(), st.randoms(use_true_random=False))
def test_a_second_run_gives_the_same_content_in_whatever_order_rows_come(inputs: DayInputs, random: Any) -> None:
    again = replace(
        inputs,
        observed=inputs.observed.sample(fraction=1, shuffle=True, seed=random.randrange(1_000)),
        earlier=inputs.earlier.sample(fraction=1, shuffle=True, seed=random.randrange(1_000)),
    )
    first, second = assembled(inputs), assembled(again, now=LATER + timedelta(days=9), run_id="run-2")
    assert first.drop(*POSITION_SNAPSHOTS.provenance).equals(second.drop(*POSITION_SNAPSHOTS.provenance))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Friday's last rows, Saturday's assignment, Monday's pre-market, and closes that were fetched months later."""
    lake = Lake(str(tmp_path), fsync=no_fsync)
    groups = list(_GROUPS)
    for spec, source in ((STREAMED_POSITIONS, "stream"), (QUEUED_POSITIONS, "queue")):
        rows = [
            observation(second, conid=conid, source=source, groups=groups, priced_at=second)
            for second in (-30, 0, 1, SATURDAY, MONDAY_PRE_MARKET)
            for conid in (1, 2)
        ]
        lineage = CommitLineage(asset=spec.name, source=source, code_version="1")
        lake.table(spec).append(
            table(spec, *({"epoch": 1} | row if spec.has("epoch") else row for row in rows)), lineage
        )
    closes = table(
        HISTORICAL_CLOSES,
        *({"conid": conid, "close": number("close", -2_100), "bar_time": CLOSE, "source": "x"} for conid in (1, 2)),
    )
    lineage = CommitLineage(asset="historical_closes", source="history", code_version="1")
    replace_rows(lake.table(HISTORICAL_CLOSES), closes, [(DAY,)], lineage, accounts=["DU1"])
    return lake


def test_a_weekend_and_a_late_backfill_leave_friday_alone(lake: Lake) -> None:
    inputs = LakeDays(lake, CALENDAR).day(WINDOW)
    frame = assembled(inputs)
    assert frame.get_column("position").to_list() == [number("position", 0)] * 2
    assert late_cells(frame) == []


def test_a_second_backfill_commits_nothing_though_the_logs_went_on(lake: Lake) -> None:
    """The versions that were read are others by then: they are lineage."""
    snapshots = lake.table(POSITION_SNAPSHOTS)
    lineage = CommitLineage(asset="position_snapshots", source="backfill", code_version="1")
    inputs = LakeDays(lake, CALENDAR).day(WINDOW)
    first = replace_rows(snapshots, assembled(inputs), [(DAY,)], lineage)
    after = observation(MONDAY_PRE_MARKET + 60, conid=1, source="queue", groups=["price"], priced_at=5)
    log = CommitLineage(asset="queued_positions", source="queue", code_version="1")
    lake.table(QUEUED_POSITIONS).append(table(QUEUED_POSITIONS, after), log)

    later = LakeDays(lake, CALENDAR).day(WINDOW)
    again = assembled(later, now=LATER + timedelta(days=1), run_id="run-2")
    second = replace_rows(snapshots, again, [(DAY,)], replace(lineage, commit_id="another"))

    assert later.versions != inputs.versions
    assert (second.version, second.changed, second.rows) == (first.version, False, 2)
