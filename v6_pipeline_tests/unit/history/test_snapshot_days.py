"""The figures reported of a day."""

from __future__ import annotations

import pytest

from v6_pipeline.history.context import Made
from v6_pipeline.history.snapshot_days import _exposed
from v6_pipeline.lake.tables import PORTFOLIO_EXPOSURE
from v6_pipeline_tests.unit.history.day_builders import DAY, table


def exposed(*currencies: str | None) -> Made:
    """Report a day with an account for each of these base currencies, all with the same underlying."""
    rows = [
        {
            "account": f"DU{number}",
            "underlying": "SPX",
            "strategy": "condors",
            "base_currency": currency,
            "dollar_delta": 100.0,
            "market_value": 7.0,
            "short_options_expiring": 1,
            "short_options_in_the_money": 0,
        }
        for number, currency in enumerate(currencies)
    ]
    made = Made(spec=PORTFOLIO_EXPOSURE, day=DAY, version=3, rows=len(rows), changed=True)
    return _exposed(made, table(PORTFOLIO_EXPOSURE, *rows))


@pytest.mark.parametrize("second", ["USD", None])
def test_amounts_of_one_currency_are_added_up(second: str | None) -> None:
    made = exposed("USD", second)

    assert (made.currency, made.dollar_delta) == ("USD", {"SPX": 200.0})
    assert (made.numbers["dollar_delta"], made.numbers["market_value"]) == (200.0, 14.0)
    assert "theta" not in made.numbers, "nothing is known of it"


def test_amounts_of_different_currencies_are_not_added_up() -> None:
    made = exposed("USD", "EUR")

    assert (made.currency, made.dollar_delta) == (None, {})
    assert made.numbers == {
        "underlyings": 2,
        "strategies": 1,
        "short_options_expiring": 2,
        "short_options_in_the_money": 0,
    }
