"""Reconciliation: a position is gone only when both feeds say so."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from v6_pipeline.ib.account_feed import PortfolioValue
from v6_pipeline.model import ContractSpec, Holding, SecType
from v6_pipeline.refresh.reconcile import Reconciliation, after_messages, reconcile
from v6_pipeline.state.keys import Key

KEY: Key = ("A", 1)
NOON = datetime(2026, 11, 20, 17, tzinfo=UTC)
CONTRACT = ContractSpec(conid=1, symbol="X", sec_type=SecType.STOCK, currency="USD")
HOLDING = Holding(account="A", contract=CONTRACT, position=5, average_cost=None, observed_at=NOON)


def value(position: float) -> PortfolioValue:
    return PortfolioValue(
        contract=CONTRACT,
        position=position,
        market_price=None,
        market_value=None,
        average_cost=None,
        unrealized_pnl=None,
        realized_pnl=7.0,
        received_at=NOON,
    )


def outcome(found: Reconciliation) -> tuple[bool, bool, bool]:
    return KEY in found.valued, KEY in found.gone, KEY in found.disputed


@pytest.mark.parametrize(
    ("downloaded", "held", "known", "valued", "gone", "disputed"),
    [
        (5.0, True, True, True, False, False),
        (5.0, False, False, True, False, False),  # opened a moment ago: the value is the newer word
        (0.0, True, True, False, False, True),
        (None, True, True, False, False, True),
        (0.0, False, True, True, True, False),  # closed today: the realized profit is kept
        (None, False, True, False, True, False),
        (0.0, False, False, False, False, False),
        (None, False, False, False, False, False),
    ],
)
def test_both_feeds_decide(
    *, downloaded: float | None, held: bool, known: bool, valued: bool, gone: bool, disputed: bool
) -> None:
    found = reconcile(
        [KEY],
        downloaded={} if downloaded is None else {KEY: value(downloaded)},
        messages={KEY: HOLDING} if held else {},
        known={KEY: HOLDING} if known else {},
    )

    assert outcome(found) == (valued, gone, disputed)


def test_a_position_reopened_before_the_commit_is_neither_closed_nor_valued() -> None:
    found = Reconciliation({KEY: value(0)}, {KEY: HOLDING}, ())

    assert outcome(after_messages(found, {KEY: HOLDING})) == (False, False, True)
    assert after_messages(found, {}) is found
    assert after_messages(found, {KEY: replace(HOLDING, position=0)}) is found


@pytest.mark.parametrize("position", [500.0, -5.0, 0.0, 5.001])
def test_a_value_of_another_position_than_the_newest_message_is_contradicted(position: float) -> None:
    """Sold in part, flipped, closed, or a fraction more: the value is the one of before."""
    message = replace(HOLDING, position=position)
    found = reconcile([KEY], downloaded={KEY: value(5)}, messages={KEY: message}, known={KEY: HOLDING})
    assert (outcome(found), found.contradicted) == ((False, False, False), (KEY,))

    later = after_messages(Reconciliation({KEY: value(5)}, {}, ()), {KEY: message})
    assert (later.valued, later.contradicted) == ({}, (KEY,))


def test_fractions_that_differ_by_their_rounding_agree() -> None:
    message = replace(HOLDING, position=0.012345671)
    found = reconcile([KEY], downloaded={KEY: value(0.01234567)}, messages={KEY: message}, known={})
    assert outcome(found) == (True, False, False)
