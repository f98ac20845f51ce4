"""Message codes: the reaction to each line of the table."""

from __future__ import annotations

import pytest

from v6_pipeline.ib.codes import (
    RULES,
    Reaction,
    farm_of,
    farms_away,
    is_healthy_notice,
    is_unsubscribed,
    new_port,
    reaction_to,
)

EXPECTED: list[tuple[int, str, Reaction]] = [
    (100, "Max rate of messages per second has been exceeded", Reaction.BACK_OFF),
    (101, "Max number of tickers has been reached", Reaction.LINES_EXHAUSTED),
    (102, "Duplicate ticker id", Reaction.FAIL_REQUEST),
    *((code, "", Reaction.UNWANTED) for code in (*range(103, 111), 201, 202, 203, 399, 404, 434, 10147, 10148)),
    (162, "Historical Market Data Service error message:API historical data query cancelled", Reaction.FAIL_REQUEST),
    (162, "Historical Market Data Service error message:HMDS query returned no data: SPX", Reaction.NO_DATA),
    (162, "Historical Market Data Service error message:Historical data request pacing violation", Reaction.BACK_OFF),
    (162, "Historical Market Data Service error message:No market data permissions for CBOE", Reaction.FAIL_REQUEST),
    (165, "HMDS server is connected", Reaction.INFORM),
    (166, "Expired contract violation", Reaction.FAIL_REQUEST),
    (200, "No security definition has been found for the request", Reaction.FAIL_REQUEST),
    (300, "Can't find EId with tickerId:5", Reaction.INFORM),
    (309, "", Reaction.INFORM),
    (316, "", Reaction.INFORM),
    (317, "", Reaction.INFORM),
    *((code, "", Reaction.FAIL_REQUEST) for code in (320, 321, 322, 323)),
    (326, "Unable to connect as the client id is already in use.", Reaction.ID_IN_USE),
    (354, "Requested market data is not subscribed.", Reaction.FAIL_REQUEST),
    (366, "No historical data query found for ticker id:7", Reaction.INFORM),
    (478, "Parameters in request conflicts with contract parameters received by contract id", Reaction.FAIL_REQUEST),
    (420, "Invalid Real-time Query:Historical request pacing violation", Reaction.BACK_OFF),
    (420, "Invalid Real-time Query:No market data permissions for ISLAND STK", Reaction.FAIL_REQUEST),
    (501, "Already Connected.", Reaction.INFORM),
    (502, "Couldn't connect to TWS.", Reaction.RECONNECT),
    (503, "The TWS is out of date and must be upgraded.", Reaction.TOO_OLD),
    *((code, "", Reaction.RECONNECT) for code in range(504, 510)),
    (1100, "Connectivity between IB and Trader Workstation has been lost.", Reaction.LINK_LOST),
    (1101, "Connectivity has been restored - data lost.", Reaction.RESUBSCRIBE),
    (1102, "Connectivity has been restored - data maintained.", Reaction.VERIFY),
    (1300, "TWS socket port has been reset. Please reconnect on the new port - 4003", Reaction.RECONNECT),
    (2100, "API client has been unsubscribed from account data.", Reaction.FEED_LOST),
    (2101, "Unable to subscribe to account", Reaction.FEED_LOST),
    (2103, "Market data farm connection is broken:usfarm", Reaction.FARM_BROKEN),
    (2104, "Market data farm connection is OK:usfarm", Reaction.FARM_OK),
    (2105, "HMDS data farm connection is broken:ushmds", Reaction.INFORM),
    (2106, "HMDS data farm connection is OK:ushmds", Reaction.INFORM),
    (2107, "", Reaction.INFORM),
    (2108, "", Reaction.INFORM),
    (2110, "Connectivity between TWS and server is broken. It will be restored automatically.", Reaction.LINK_LOST),
    (2119, "Market data farm is connecting:usfarm", Reaction.INFORM),
    (2157, "Sec-def data farm connection is broken:secdefil", Reaction.INFORM),
    (2158, "Sec-def data farm connection is OK:secdefil", Reaction.INFORM),
    # Part of the data is missing or delayed, and ticks still come: taken for an error it kills a good stream.
    *((code, "", Reaction.INFORM) for code in (10089, 10090, 10091, 10167)),
    (10168, "Requested market data is not subscribed. Delayed market data is not enabled.", Reaction.FAIL_REQUEST),
    (10182, "Failed to request live updates (disconnected).", Reaction.RECONNECT),
    (10186, "", Reaction.FAIL_REQUEST),
    *((code, "", Reaction.FAIL_REQUEST) for code in (10187, 10189, 10190)),
    (10197, "No market data during competing live session", Reaction.COMPETING_SESSION),
    (10225, "", Reaction.INFORM),
]


@pytest.mark.parametrize(("code", "text", "reaction"), EXPECTED)
def test_each_line_of_the_table(code: int, text: str, reaction: Reaction) -> None:
    assert reaction_to(code, text) is reaction


def test_every_rule_and_every_reaction_is_covered_here() -> None:
    assert {code for rule in RULES for code in rule.codes} == {code for code, _, _ in EXPECTED}
    assert {reaction for _, _, reaction in EXPECTED} == set(Reaction)


@pytest.mark.parametrize("code", [0, -1, 999, 2168, 10349, 99999])
def test_an_unlisted_code_only_informs(code: int) -> None:
    assert reaction_to(code) is Reaction.INFORM


@pytest.mark.parametrize("code", [2104, 2106, 2107, 2108, 2119, 2158])
def test_the_notices_of_a_healthy_login_are_known(code: int) -> None:
    assert is_healthy_notice(code)


@pytest.mark.parametrize("code", [2103, 2105, 2110, 1100, 354, 101])
def test_a_problem_is_no_healthy_notice(code: int) -> None:
    assert not is_healthy_notice(code)


@pytest.mark.parametrize(
    ("text", "farm"),
    [
        ("Market data farm connection is OK:usfarm", "usfarm"),
        ("Market data farm connection is broken:usopt.nj", "usopt.nj"),
        ("Market data farm is connecting: eufarm", "eufarm"),
        ("Connectivity between TWS and server is broken. It will be restored automatically.", ""),
        ("", ""),
    ],
)
def test_a_farm_notice_names_its_farm_after_the_colon(text: str, farm: str) -> None:
    assert farm_of(text) == farm


@pytest.mark.parametrize(
    ("text", "farms"),
    [
        (
            "Restored. The following farms are connected: usfarm. The following farms are not connected: eu; hk.nj.",
            ("eu", "hk.nj"),
        ),
        ("Connectivity restored - data maintained. All data farms are connected: usfarm; usopt.", ()),
        ("", ()),
    ],
)
def test_1102_names_the_farms_that_are_still_away(text: str, farms: tuple[str, ...]) -> None:
    assert farms_away(text) == farms


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("TWS socket port has been reset and this connection is being dropped. Reconnect on the new port - 4003", 4003),
        ("Please reconnect on the new port - 99999", None),
        ("port", None),
    ],
)
def test_1300_names_the_new_port(text: str, port: int | None) -> None:
    assert new_port(text) == port


def test_codes_of_a_missing_subscription() -> None:
    codes = {code for rule in RULES for code in rule.codes}

    assert {code for code in codes if is_unsubscribed(code)} == {354, 10089, 10090, 10091, 10167, 10168, 10186}
    assert is_unsubscribed(420, "Invalid Real-time Query: No market data permissions")
    assert not is_unsubscribed(420, "Invalid Real-time Query: pacing violation")
