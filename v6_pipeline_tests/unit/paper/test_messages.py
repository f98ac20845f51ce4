"""The encoders against frames recorded from a real gateway (see the fixture's README), field by field."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from v6_pipeline.paper import messages
from v6_pipeline.paper.contracts import Contract
from v6_pipeline.paper.messages import AccountValue
from v6_pipeline.paper.requests import parse_account_summary, parse_market_data, parse_versioned_id
from v6_pipeline.paper.wire import Fields, Message, encode_payload

RECORDED = Path(__file__).parents[2] / "fixtures" / "tws" / "recorded_interactions.yaml"

AAPL = Contract(265598, "AAPL", "STK", "USD", "AAPL", "NMS", ("SMART", "NASDAQ"), 0.01, "APPLE INC", "NASDAQ")
ES = Contract(
    637533641, "ES", "FUT", "USD", "ESU5", "ES", ("CME",), 0.25, "E-mini S&P 500", expiry="20250919", multiplier="50"
)


def recorded(name: str) -> dict[str, Any]:
    interactions = yaml.safe_load(RECORDED.read_text(encoding="utf-8"))["interactions"]
    return next(item for item in interactions if item["name"] == name)


def wire_fields(response: dict[str, Any]) -> list[str]:
    """The recorded fields in order, without those that the recorder derived from others."""
    return [str(item["value"]) for item in response["fields"] if not item["name"].endswith("_parsed")]


@pytest.mark.parametrize(
    ("interaction", "index", "message"),
    [
        ("server_time", 0, messages.current_time(datetime.fromtimestamp(1752606307, UTC))),
        ("managed_accounts", 0, messages.managed_accounts(("ACCOUNT_ID",))),
        ("positions", 0, messages.position("ACCOUNT_ID", AAPL, -110.0, 201.8829709)),
        ("positions", 1, messages.position("ACCOUNT_ID", ES, 1.0, 315114.75)),
        ("positions", 2, messages.POSITION_END),
        (
            "account_summary",
            0,
            messages.account_summary(9000, "ACCOUNT_ID", AccountValue("GrossPositionValue", "23172.60", "USD")),
        ),
        (
            "account_summary",
            1,
            messages.account_summary(9000, "ACCOUNT_ID", AccountValue("NetLiquidation", "246447.83", "USD")),
        ),
        (
            "account_summary",
            2,
            messages.account_summary(9000, "ACCOUNT_ID", AccountValue("TotalCashValue", "269339.33", "USD")),
        ),
        ("account_summary", 3, messages.account_summary_end(9000)),
    ],
)
def test_the_encoder_reproduces_the_recorded_frame(interaction: str, index: int, message: Message) -> None:
    response = recorded(interaction)["responses"][index]
    encoded = encode_payload(message).decode()
    assert encoded.split("\0")[:-1] == wire_fields(response)
    assert encoded == response["raw"]


def test_every_recorded_response_is_covered() -> None:
    counts = {item["name"]: len(item["responses"]) for item in yaml.safe_load(RECORDED.read_text())["interactions"]}
    assert counts == {"server_time": 1, "managed_accounts": 1, "positions": 3, "account_summary": 4, "pnl": 0}


def test_the_parser_reads_the_recorded_requests() -> None:
    summary = Fields(recorded("account_summary")["request"]["raw"].encode())
    assert summary.integer() == 62
    request = parse_account_summary(summary)
    assert (request.request_id, request.group) == (9000, "All")
    assert request.tags == ("NetLiquidation", "TotalCashValue", "GrossPositionValue")
    cancel = Fields(b"2\x002\x0017\0")
    assert cancel.integer() == 2
    assert parse_versioned_id(cancel) == 17


def test_fractional_quantities_keep_their_fraction() -> None:
    assert messages.position("SIM1", AAPL, 0.5, 100.0)[-2] == 0.5


@pytest.mark.parametrize("sec_type", ["OPT", "FUT", "CASH"])
def test_only_stocks_carry_an_exchange_in_a_position(sec_type: str) -> None:
    other = Contract(1, "X", sec_type, "USD", "X", "X", ("SMART",), 0.01, "X", primary_exchange="NYSE")
    assert messages.position("SIM1", AAPL, 1, 1)[10] == "NASDAQ"
    assert messages.position("SIM1", other, 1, 1)[10] == ""


def test_an_absent_greek_is_ibs_sentinel() -> None:
    message = messages.tick_option_computation(
        5,
        10,
        implied_vol=None,
        delta=None,
        option_price=None,
        gamma=None,
        vega=None,
        theta=None,
        underlying_price=None,
    )
    assert message == (21, 5, 10, 1, -1.0, -2.0, -1.0, 0.0, -2.0, -2.0, -2.0, -1.0)


@pytest.mark.parametrize(
    ("sec_type", "legs", "hedge"),
    [
        ("OPT", "", "0\0"),
        ("BAG", "2\x00101\x001\0BUY\0SMART\x00102\x001\0SELL\0SMART\0", "0\0"),
        ("OPT", "", "1\x00103\x000.5\x0012.0\0"),
    ],
)
def test_legs_and_a_delta_neutral_contract_do_not_shift_the_fields_after_them(
    sec_type: str, legs: str, hedge: str
) -> None:
    contract = f"0\0SPX\0{sec_type}\0\x000.0\0\0\0SMART\0\0USD\0\0\0"
    request = parse_market_data(Fields(f"11\x0042\0{contract}{legs}{hedge}221,233\x001\x000\0\0".encode()))
    assert request.generic_ticks == {"221", "233"}
    assert (request.ticker_id, request.snapshot, request.regulatory_snapshot) == (42, True, False)
