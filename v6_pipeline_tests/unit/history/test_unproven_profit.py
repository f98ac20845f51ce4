"""What once looked like a profit of the day, as the exposure shows it: unknown, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from v6_pipeline_tests.unit.history.day_builders import BEFORE, NOON, YESTERDAY
from v6_pipeline_tests.unit.history.test_exposure import exposed

OTHER: dict[str, Any] = {"conid": 99, "symbol": "OTHER"}


def held(position: float, price: float, cost: float, *, unit: float = 1.0, **values: Any) -> dict[str, Any]:
    return {
        "position": position,
        "market_price": price,
        "market_value": position * price * unit,
        "unrealized_pnl": position * (price - cost) * unit,
        "realized_pnl": 0.0,
        "average_cost": cost * unit,
        "fx_rate_to_base": 1.0,
        "base_currency": "USD",
        "timestamp": NOON,
    } | values


def was(position: float, price: float, cost: float, *, unit: float = 1.0, **values: Any) -> dict[str, Any]:
    return held(position, price, cost, unit=unit) | {"date": BEFORE, "timestamp": YESTERDAY} | values


ES: dict[str, Any] = {"symbol": "ES", "sec_type": "FUT", "multiplier": 50.0}
PUT: dict[str, Any] = {"conid": 2, "sec_type": "OPT", "right": "P", "multiplier": 100.0, "underlying_conid": 1}


@pytest.mark.parametrize(
    ("now", "before"),
    [
        pytest.param([held(1, 6000, 5000, unit=50, **ES)], [was(2, 6000, 5000, unit=50, **ES)], id="-50,000"),
        pytest.param([held(500, 250, 100)], [was(1000, 250, 100)], id="-75,000"),
        pytest.param([held(1000, 300, 0)], [], id="+300,000"),
        pytest.param([held(100, 415, 420)], [was(-1, 5, 3, unit=100, **PUT)], id="-500"),
    ],
)
def test_no_profit_is_shown_that_no_trade_explains(now: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
    rows = exposed([*now, held(1, 5, 5, **OTHER)], [*before, was(1, 5, 5, **OTHER)])
    found = [row for row in rows if not row["underlying"].startswith("OTHER")]
    assert [row["daily_pnl"] for row in found] == [None]
    assert [row["daily_pnl_coverage"] for row in found] == [0.0]
    assert all(row["daily_pnl_unknown"] for row in found)
