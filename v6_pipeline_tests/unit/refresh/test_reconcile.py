"""Reconciliation: a position is gone only when both feeds say so."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from v6_pipeline.ib.account_feed import PortfolioValue
from v6_pipeline.model import ContractSpec, Holding, SecType
from v6_pipeline.refresh.reconcile import Reconciliation, reconcile, with_reopened
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
        held={KEY} if held else set(),
        known={KEY: HOLDING} if known else {},
    )

    assert outcome(found) == (valued, gone, disputed)


def test_a_position_reopened_before_the_commit_is_neither_closed_nor_valued() -> None:
    found = Reconciliation({KEY: value(0)}, {KEY: HOLDING}, ())

    assert outcome(with_reopened(found, {KEY})) == (False, False, True)
    assert with_reopened(found, set()) is found
