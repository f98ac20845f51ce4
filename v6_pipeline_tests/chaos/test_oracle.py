"""The oracle itself: each promise, broken on purpose, is found; kept, it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from v6_pipeline_tests.chaos.oracle import Oracle, gateway_faults, row_faults
from v6_pipeline_tests.chaos.scale import Scale
from v6_pipeline_tests.chaos.truth import PositionTruth
from v6_pipeline_tests.chaos.violations import Violations

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = ("SIM1", 7)
SCALE = Scale(market_data_lines=20, reserved_lines=4, batch_lines=4)
CALM: dict[str, Any] = {
    "peak_lines": 16,
    "peak_rate": 50,
    "order_messages": 0,
    "unknown_messages": {},
    "peak_subscriptions": {"7": 2},
    "errors": {"2104": 3, "326": 1},
}


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def row(**changes: Any) -> dict[str, Any]:
    values = dict.fromkeys(("market_price", "bid", "ask", "last", "market_value", "delta"), 1.0)
    return {
        "account": KEY[0],
        "conid": KEY[1],
        "source": "stream",
        "position": 5.0,
        "timestamp": at(0),
        **values,
        **changes,
    }


@pytest.fixture
def truth() -> PositionTruth:
    """5 held, 8 from second 100 on, none from second 200 on, 3 again from second 600 on."""
    known = PositionTruth([(KEY, 5.0)])
    for seconds, quantity in ((100, 8.0), (200, 0.0), (600, 3.0)):
        known.changed(KEY, quantity, earliest=at(seconds), latest=at(seconds + 1))
    return known


@pytest.mark.parametrize(
    ("seconds", "quantity"),
    [(0, 5.0), (100.5, 5.0), (100.5, 8.0), (150, 5.0), (250, 8.0), (250, 0.0), (700, 3.0), (700, 0.0)],
)
def test_what_the_gateway_said_then_or_shortly_before_is_true(
    truth: PositionTruth, seconds: float, quantity: float
) -> None:
    assert row_faults(row(position=quantity, timestamp=at(seconds), market_value=0.0), truth) == []


@pytest.mark.parametrize(
    ("seconds", "quantity", "why"),
    [
        (0, 0.0, "closed while it was held"),
        (0, 8.0, "a position of the future"),
        (300, 5.0, "a position of long ago"),
        (500, 8.0, "still held, long after it was closed"),
        (800, 0.0, "closed, long after it was opened again"),
    ],
)
def test_a_position_that_was_never_so_is_found(truth: PositionTruth, seconds: float, quantity: float, why: str) -> None:
    found = row_faults(row(position=quantity, timestamp=at(seconds), market_value=0.0), truth)
    assert [rule for rule, _ in found] == ["rows say what the gateway said"], why


def test_a_position_that_never_was_is_found(truth: PositionTruth) -> None:
    assert row_faults(row(conid=8), truth)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.797e308])
def test_a_sentinel_in_a_price_is_found(truth: PositionTruth, value: float) -> None:
    assert [rule for rule, _ in row_faults(row(bid=value), truth)] == ["unknown is null"]
    assert row_faults(row(bid=None), truth) == []


def test_a_closed_position_with_a_value_is_found(truth: PositionTruth) -> None:
    found = row_faults(row(position=0.0, timestamp=at(250), market_value=9.0), truth)
    assert [rule for rule, _ in found] == ["closed is worth nothing"]


def test_calm_statistics_are_no_fault() -> None:
    assert gateway_faults(CALM, SCALE, set(), enforce_rate=True) == []


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"peak_lines": 17}, "never over the limit"),
        ({"peak_rate": 51}, "paced"),
        ({"order_messages": 1}, "never an order"),
        ({"unknown_messages": {"99": 1}}, "only known messages"),
        ({"peak_subscriptions": {"7": 2 + SCALE.workers}}, "a contract takes one line"),
        ({"errors": {"321": 1}}, "no avoidable error"),
        ({"errors": {"101": 1}}, "no avoidable error"),
        ({"errors": {"100": 1}}, "no avoidable error"),
    ],
)
def test_each_broken_rule_of_the_gateway_is_found(changed: dict[str, Any], rule: str) -> None:
    assert [name for name, _ in gateway_faults(CALM | changed, SCALE, set(), enforce_rate=True)] == [rule]


def test_a_stream_and_a_quote_of_each_worker_may_overlap() -> None:
    seen = CALM | {"peak_subscriptions": {"7": 1 + SCALE.workers}}
    assert gateway_faults(seen, SCALE, set(), enforce_rate=True) == []


def test_a_code_that_a_fault_explains_is_none() -> None:
    seen = CALM | {"errors": {"101": 4}}
    assert gateway_faults(seen, SCALE, {101}, enforce_rate=True) == []
    assert gateway_faults(CALM | {"errors": {"321": 1}}, SCALE, {321}, enforce_rate=True), "nothing explains this one"


def test_a_lasting_violation_is_one() -> None:
    violations = Violations()
    for _ in range(3):
        violations.add("a rule", "broken")
    violations.add("a rule", "broken otherwise")
    assert len(violations) == 2


def fresh(wanted: set[int], unsold: set[int], prices: dict[int, float], *, lines: int) -> bool:
    """Return True if all that must stream do, at noon; prices by their seconds from noon."""
    world: Any = SimpleNamespace(
        wanted=lambda: wanted,
        excuses=SimpleNamespace(unsold=unsold),
        all_stream=lambda: len(wanted) <= lines,
        stream_count=lambda: min(len(wanted - unsold), lines),
    )
    oracle = Oracle(world, price_times={conid: at(seconds) for conid, seconds in prices.items()})
    return oracle.streams_fresh_since(NOON)


def test_each_contract_must_stream_where_there_are_lines_for_all() -> None:
    assert fresh({1, 2, 3}, {3}, {1: 1, 2: 1}, lines=3)
    assert not fresh({1, 2, 3}, {3}, {1: 1, 2: -1, 3: 1}, lines=3), "another one is no substitute"
    assert not fresh({1, 2, 3}, set(), {1: 1, 2: 1}, lines=3)


def test_where_there_are_fewer_lines_as_many_must_stream_as_there_are() -> None:
    assert fresh({1, 2, 3}, set(), {1: 1, 3: 1}, lines=2)
    assert not fresh({1, 2, 3}, set(), {1: 1, 3: 0}, lines=2)
    assert fresh({1, 2, 3}, {3}, {2: 1, 3: 1}, lines=2), "what is unsold may be sold again, and have a line"
