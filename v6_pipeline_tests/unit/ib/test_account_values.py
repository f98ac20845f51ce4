"""Account figures by either spelling of IB's tags; a part of one currency never passes for the total."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from v6_pipeline.errors import AccountFeedError
from v6_pipeline.ib.account_values import account_values, is_ready
from v6_pipeline.model import AccountValues

NOW = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)
NET = {("NetLiquidation", "USD"): "4032.00"}

spelled = pytest.mark.parametrize("prefix", ["", "$LEDGER-"])


def read(texts: dict[tuple[str, str], str]) -> AccountValues:
    return account_values("DU1", NET | texts, daily_pnl=None, timestamp=NOW)


@spelled
def test_rates_and_profits_are_read_by_either_spelling(prefix: str) -> None:
    values = read(
        {
            (prefix + "ExchangeRate", "BASE"): "1.00",
            (prefix + "ExchangeRate", "EUR"): "1.08",
            (prefix + "ExchangeRate", "USD"): "1.00",
            (prefix + "UnrealizedPnL", "BASE"): "208",
            (prefix + "UnrealizedPnL", "EUR"): "100",
            (prefix + "RealizedPnL", "BASE"): "0",
        }
    )

    assert values.exchange_rates == {"EUR": 1.08, "USD": 1.0}
    assert (values.unrealized_pnl, values.realized_pnl) == (208.0, 0.0)
    assert values.base_currency == "USD"


@spelled
def test_without_a_total_the_parts_of_all_currencies_are_added_up(prefix: str) -> None:
    parts = {(prefix + "RealizedPnL", "EUR"): "100", (prefix + "RealizedPnL", "USD"): "50"}

    assert read({**parts, (prefix + "ExchangeRate", "EUR"): "1.10"}).realized_pnl == pytest.approx(160)
    assert read(parts).realized_pnl is None, "the euro part has no rate: the sum is unknown"


def test_a_part_of_one_currency_is_no_total_of_the_account() -> None:
    """``$LEDGER-TotalCashValue`` of the base currency is the dollars of an account that has euros too."""
    values = read({("$LEDGER-TotalCashValue", "USD"): "10", ("$LEDGER-NetLiquidation", "USD"): "7"})

    assert (values.total_cash, values.net_liquidation) == (None, 4032.0)


def test_a_total_is_read_in_the_base_currency_or_under_base() -> None:
    assert read({("TotalCashValue", "USD"): "10"}).total_cash == 10
    assert read({("$LEDGER-TotalCashValue", "BASE"): "11"}).total_cash == 11


def test_the_base_currency_is_never_that_of_a_ledger() -> None:
    with pytest.raises(AccountFeedError, match="DU1 has no NetLiquidation"):
        account_values("DU1", {("$LEDGER-NetLiquidation", "EUR"): "7"}, daily_pnl=None, timestamp=NOW)


@pytest.mark.parametrize("text", ["0", "0.00", "-1", "", "1.7976931348623157E308", "n/a", "NaN"])
def test_a_rate_that_is_none_is_unknown(text: str) -> None:
    assert read({("ExchangeRate", "EUR"): text}).exchange_rates == {"USD": 1.0}


@pytest.mark.parametrize(
    ("texts", "ready"),
    [
        ({}, True),
        ({("AccountReady", ""): "true"}, True),
        ({("AccountReady", ""): "false"}, False),
        ({("AccountReady", ""): "False "}, False),
        ({("$LEDGER-AccountReady", "BASE"): "false"}, False),
    ],
)
def test_an_account_is_ready_unless_ib_denies_it(texts: dict[tuple[str, str], str], ready: bool) -> None:
    assert is_ready(texts) is ready
