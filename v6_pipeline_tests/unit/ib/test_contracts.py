"""Conversion of ib_async's contracts: the facts of a position message or a definition, and the unknown ones."""

from __future__ import annotations

import copy
import pickle
from datetime import date

import pytest
from ib_async import Contract, ContractDetails

from v6_pipeline.errors import GatewayError
from v6_pipeline.ib.close_plan import bar_types
from v6_pipeline.ib.contracts import parse_expiry, request_contract, spec_from_details, spec_from_ib
from v6_pipeline.model import ContractSpec, SecType


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20261218", date(2026, 12, 18)),
        ("20261218 08:30:00 US/Central", date(2026, 12, 18)),
        ("202612", None),
        ("", None),
        ("20261332", None),
        ("2026-12-18", None),
    ],
)
def test_expiry(text: str, expected: date | None) -> None:
    assert parse_expiry(text) == expected


def test_an_option_of_a_position_message_has_no_exchange_yet() -> None:
    spec = spec_from_ib(
        Contract(
            conId=1,
            symbol="SPX",
            secType="OPT",
            currency="USD",
            lastTradeDateOrContractMonth="20261218",
            strike=5000.0,
            right="PUT",
            multiplier="100",
            localSymbol="SPXW  261218P05000000",
            tradingClass="SPXW",
        )
    )

    assert (spec.sec_type, spec.right, spec.strike, spec.expiry) == (SecType.OPTION, "P", 5000.0, date(2026, 12, 18))
    assert (spec.multiplier, spec.trading_class, spec.exchange) == (100.0, "SPXW", "")


def test_a_stock_has_no_strike_right_or_expiry() -> None:
    """IB sends strike 0 and right '0' or '?' with them."""
    spec = spec_from_ib(Contract(conId=1, symbol="AAPL", secType="STK", currency="USD", strike=0.0, right="?"))

    assert (spec.strike, spec.right, spec.expiry, spec.multiplier) == (None, None, None, 1.0)


@pytest.mark.parametrize("text", ["IOPT", "SLB", "EC", "ICU", "ICS", "EVENT", "NEWS"])
def test_an_unusual_security_type_keeps_ibs_text(text: str) -> None:
    sec_type = spec_from_ib(Contract(conId=1, symbol="X", secType=text, currency="USD")).sec_type
    assert (sec_type.value, str(sec_type), sec_type) == (text, text, SecType.parse(text))
    assert {sec_type: 1}[SecType.parse(text)] == 1
    assert copy.deepcopy(sec_type) == pickle.loads(pickle.dumps(sec_type)) == text
    assert bar_types(sec_type)


def test_no_security_type_is_other_and_no_unlisted_one_can_be_selected() -> None:
    assert spec_from_ib(Contract(conId=1, symbol="X")).sec_type is SecType.OTHER
    with pytest.raises(ValueError, match="EVENT"):
        SecType("EVENT")


def test_a_request_names_conid_and_exchange_alone() -> None:
    """Symbol and security type could only contradict the conid."""
    spec = ContractSpec(conid=7, symbol="FB", sec_type=SecType.STRUCTURED, currency="USD", exchange="SWB")
    assert request_contract(spec) == Contract(conId=7, exchange="SWB")
    assert vars(request_contract(spec)) == vars(Contract(conId=7, exchange="SWB"))


@pytest.mark.parametrize("multiplier", ["", "0", "abc"])
def test_a_missing_multiplier_counts_as_one(multiplier: str) -> None:
    assert spec_from_ib(Contract(conId=1, secType="STK", multiplier=multiplier)).multiplier == 1.0


@pytest.mark.parametrize(
    ("exchange", "primary", "valid", "expected"),
    [
        ("CBOE", "", "SMART,CBOE", "SMART"),
        ("CME", "", "CME,QBALGO", "CME"),
        ("", "NYSE", "NYSE,BATS", "NYSE"),
        ("", "", "IDEALPRO", "IDEALPRO"),
    ],
)
def test_market_data_is_requested_at_smart_else_at_the_contracts_exchange(
    exchange: str, primary: str, valid: str, expected: str
) -> None:
    contract = Contract(conId=1, secType="STK", exchange=exchange, primaryExchange=primary)

    spec = spec_from_details(ContractDetails(contract=contract, validExchanges=valid, priceMagnifier=100, underConId=7))

    assert (spec.exchange, spec.price_magnifier, spec.underlying_conid) == (expected, 100, 7)


def test_a_definition_without_magnifier_and_underlying() -> None:
    spec = spec_from_details(ContractDetails(contract=Contract(conId=1, secType="STK"), validExchanges="SMART"))

    assert (spec.price_magnifier, spec.underlying_conid) == (1, None)


def test_a_definition_without_a_contract_is_an_error() -> None:
    with pytest.raises(GatewayError, match="without a contract"):
        spec_from_details(ContractDetails())


def test_a_request_names_nothing_that_could_contradict_the_conid() -> None:
    details = ContractDetails(
        contract=Contract(conId=1, symbol="SPX", secType="OPT", right="P", strike=1.0), validExchanges="SMART"
    )

    assert request_contract(spec_from_details(details)) == Contract(
        conId=1, exchange="SMART", symbol="SPX", secType="OPT"
    )
