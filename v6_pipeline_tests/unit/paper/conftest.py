"""One small universe for the pure tests."""

from datetime import date

import pytest

from v6_pipeline.paper.contracts import Contract, Universe
from v6_pipeline.paper.universe import build_universe

AS_OF = date(2026, 11, 20)
ACCOUNTS = ("SIM0000001", "SIM0000002")


@pytest.fixture(scope="session")
def universe() -> Universe:
    return build_universe(seed=7, as_of=AS_OF, accounts=ACCOUNTS, positions=60)


@pytest.fixture(scope="session")
def options(universe: Universe) -> list[Contract]:
    return [contract for contract in universe.contracts.values() if contract.sec_type == "OPT"]


def by_symbol(universe: Universe, symbol: str, sec_type: str) -> Contract:
    """The first contract of a symbol and type."""
    return next(c for c in universe.contracts.values() if (c.symbol, c.sec_type) == (symbol, sec_type))
