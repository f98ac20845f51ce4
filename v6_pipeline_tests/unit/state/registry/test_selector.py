"""Selectors: read strictly, kept in one spelling, and each key decides."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.errors import UsageError
from v6_pipeline.model import SecType
from v6_pipeline.state.registry.selector import Selector
from v6_pipeline_tests.unit.state.samples import holding, option, stock

HELD = holding(option(7), account="SIM1")

MATCHING = {
    "account": "SIM1",
    "symbol": "SPX",
    "sec_type": "OPT",
    "currency": "USD",
    "trading_class": "SPXW",
    "right": "P",
    "strike": "5000",
    "expiry": "2026-12-18",
    "underlying_conid": "416904",
}
OTHER = MATCHING | {
    "account": "SIM2",
    "symbol": "NDX",
    "sec_type": "STK",
    "currency": "EUR",
    "trading_class": "SPX",
    "right": "C",
    "strike": "5005",
    "expiry": "2026-12-19",
    "underlying_conid": "1",
}


def test_all_keys_together_match_the_holding_they_describe() -> None:
    assert Selector.parse(",".join(f"{key}={value}" for key, value in MATCHING.items())).matches(HELD)


@pytest.mark.parametrize("key", MATCHING)
def test_each_key_alone_decides(key: str) -> None:
    assert Selector.parse(f"{key}={MATCHING[key]}").matches(HELD)
    assert not Selector.parse(f"{key}={OTHER[key]}").matches(HELD)


def test_an_option_selector_matches_no_stock() -> None:
    assert not Selector.parse("right=P").matches(holding(stock(1)))
    assert not Selector.parse("expiry=2026-12-18").matches(holding(stock(1)))


def test_case_and_spaces_do_not_matter() -> None:
    assert Selector.parse(" symbol = spx , right=put ").matches(HELD)
    assert (
        Selector.parse("right=put,symbol=spx").text == Selector.parse("symbol=SPX,right=P").text == "symbol=SPX,right=P"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not key=value"),
        ("symbol", "is not key=value"),
        ("symbol=", "is not key=value"),
        ("symbol=SPX,", "is not key=value"),
        ("colour=red", "'colour' is not a key; the keys are account, symbol"),
        ("symbol=SPX,symbol=NDX", "symbol is given twice"),
        ("sec_type=OPTION", "which is one of STK OPT"),
        ("right=X", "which is C or P"),
        ("strike=high", "which is a number"),
        ("strike=nan", "which is a number"),
        ("strike=inf", "which is a number"),
        ("expiry=18.12.2026", "which is a date such as 2026-12-18"),
        ("underlying_conid=-1", "which is a positive number"),
        ("underlying_conid=99999999999999999999", "which is a positive number"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_names_the_keys(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Selector.parse(text)

    message = str(caught.value)
    assert says in message
    assert "account, symbol, sec_type, currency, trading_class, right, strike, expiry, underlying_conid" in message
    assert "\n" not in message


@given(
    st.builds(
        Selector,
        symbol=st.none() | st.text("ABC .", min_size=1, max_size=4).map(str.strip).filter(bool),
        sec_type=st.none() | st.sampled_from(SecType),
        right=st.none() | st.sampled_from("CP"),
        strike=st.none() | st.floats(0.01, 1e6).map(lambda value: round(value, 4)),
        expiry=st.none() | st.dates(),
        underlying_conid=st.none() | st.integers(1, 2**40),
        currency=st.just("USD"),
    )
)
def test_the_text_reads_back_as_the_same_selector(selector: Selector) -> None:
    assert Selector.parse(selector.text) == selector


def test_an_expiry_is_a_date() -> None:
    assert Selector.parse("expiry=2026-12-18").expiry == date(2026, 12, 18)
