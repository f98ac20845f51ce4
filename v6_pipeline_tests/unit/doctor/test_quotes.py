"""Findings about a login's market data from the doctor's few quotes."""

from __future__ import annotations

import pytest

from v6_pipeline.doctor.findings import Verdict
from v6_pipeline.doctor.quotes import Tried, judge
from v6_pipeline.ib.codes import reaction_to
from v6_pipeline.ib.market_data import Refusal
from v6_pipeline.model import ContractSpec, Quote, SecType

CONTRACTS = {
    conid: ContractSpec(conid=conid, symbol=f"S{conid}", sec_type=SecType.STOCK, currency="USD") for conid in (1, 2)
}


def refused(conid: int, code: int, text: str = "no") -> Refusal:
    return Refusal(conid, code, text, reaction_to(code, text))


def tried(
    *refusals: Refusal, kinds: dict[int, int] | None = None, advised: dict[int, str] | None = None, elsewhere: str = ""
) -> Tried:
    return Tried(
        CONTRACTS,
        asked=set(CONTRACTS),
        refused={refusal.conid: refusal for refusal in refusals},
        quotes={conid: Quote(last=1.0, market_data_type=kind) for conid, kind in (kinds or {}).items()},
        advised=advised or {},
        elsewhere=elsewhere,
    )


@pytest.mark.parametrize(
    ("kind", "is_open", "verdict", "says"),
    [
        (1, True, Verdict.OK, "live prices of 2 of 2 contracts came"),
        (1, False, Verdict.OK, "live prices of 2 of 2 contracts came"),
        (2, True, Verdict.WARNING, "frozen prices of 2 of 2 contracts came although the market is open"),
        (2, False, Verdict.OK, "frozen prices of 2 of 2 contracts came, those of the close; whether live ones come"),
        (3, True, Verdict.WARNING, "delayed prices of 2 of 2 contracts came"),
        (4, False, Verdict.WARNING, "delayed and frozen prices of 2 of 2 contracts came"),
    ],
)
def test_prices_are_called_what_they_are(kind: int, is_open: bool, verdict: Verdict, says: str) -> None:
    found = judge(tried(kinds={1: kind, 2: kind}), is_open=is_open)

    assert found.verdict is verdict
    assert found.says.startswith(says)
    assert bool(found.remedy) == (verdict is not Verdict.OK)


def test_kinds_that_are_mixed_are_named_separately() -> None:
    found = judge(tried(kinds={1: 1, 2: 3}), is_open=True)

    assert (found.verdict, found.says) == (
        Verdict.WARNING,
        "live prices of 1 of 2 contracts came; delayed prices of 1 of 2 contracts came",
    )


def test_nothing_came_while_the_market_is_closed() -> None:
    found = judge(tried(), is_open=False)

    assert found.verdict is Verdict.SKIPPED
    assert "S1 (STK), S2 (STK) came while the market is closed" in found.says
    assert found.remedy == "look again while the market is open"


def test_some_came_while_the_market_is_closed() -> None:
    found = judge(tried(kinds={1: 1}), is_open=False)

    assert (found.verdict, found.says) == (Verdict.OK, "live prices of 1 of 2 contracts came")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (354, "not subscribed"),
        (10168, "not subscribed"),
        (10186, "not subscribed"),
        (420, "Invalid Real-time Query: No market data permissions"),
    ],
)
def test_only_a_lack_of_permission_calls_for_a_subscription(code: int, text: str) -> None:
    found = judge(tried(refused(1, code, text), refused(2, code, text)), is_open=True)

    assert (found.verdict, found.says) == (Verdict.FAULT, f"refused for S1 (STK), S2 (STK): {code} {text}")
    assert found.remedy.startswith("subscribe to the exchange's data")


@pytest.mark.parametrize(
    ("code", "text", "verdict", "remedy"),
    [
        (200, "No security definition", Verdict.WARNING, "check whether the contract has expired"),
        (321, "Error validating request", Verdict.FAULT, "report IB's message"),
        (322, "Error processing request", Verdict.FAULT, "look again in a minute"),
        (100, "Max rate of messages", Verdict.WARNING, "wait a minute and look again"),
        (420, "pacing violation", Verdict.WARNING, "wait a minute and look again"),
        (420, "Invalid Real-time Query", Verdict.FAULT, "look again in a minute"),
    ],
)
def test_other_refusals_have_remedies_of_their_own(code: int, text: str, verdict: Verdict, remedy: str) -> None:
    found = judge(tried(refused(1, code, text), refused(2, code, text)), is_open=True)

    assert (found.verdict, found.says) == (verdict, f"refused for S1 (STK), S2 (STK): {code} {text}")
    assert found.remedy.startswith(remedy)
    assert "ubscribe" not in found.remedy


def test_a_contract_without_permission_next_to_one_that_is_served_is_no_fault() -> None:
    found = judge(tried(refused(1, 354), kinds={2: 1}), is_open=True)

    assert (found.verdict, found.says) == (
        Verdict.WARNING,
        "refused for S1 (STK): 354 no; live prices of 1 of 2 contracts came",
    )


def test_an_advisory_counts_where_nothing_came() -> None:
    advised = {1: "10089 more is needed", 2: "10089 more is needed"}

    assert judge(tried(kinds={1: 1, 2: 1}, advised=advised), is_open=True).verdict is Verdict.OK
    found = judge(tried(advised=advised), is_open=False)
    assert (found.verdict, found.says) == (Verdict.FAULT, "none came for S1 (STK), S2 (STK): 10089 more is needed")
    assert found.remedy.startswith("subscribe to the exchange's data")


@pytest.mark.parametrize("is_open", [True, False])
def test_another_login_explains_the_silence(is_open: bool) -> None:
    found = judge(tried(elsewhere="10197 No market data"), is_open=is_open)

    assert (found.verdict, found.says) == (Verdict.WARNING, "another login has this user's data: 10197 No market data")
    assert "same user" in found.remedy


def test_no_line_was_had() -> None:
    assert judge(Tried(CONTRACTS), is_open=True).verdict is Verdict.SKIPPED
    exhausted = tried(refused(1, 101), refused(2, 101))
    assert judge(exhausted, is_open=True).verdict is Verdict.SKIPPED
