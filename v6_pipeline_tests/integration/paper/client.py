"""A real ib_async client of the paper gateway, and what the tests of the gateway share.

ib_async is imported inside the running loop, because eventkit looks for one while it is imported.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from v6_pipeline.paper import PaperGateway

if TYPE_CHECKING:
    from ib_async import IB, Contract, Ticker

FIRST, SECOND = "SIM0000001", "SIM0000002"
AAPL, SPX, IBM = 265598, 416904, 8314
NOW = datetime(2026, 11, 20, 15, 30, 12, tzinfo=UTC)

Connect = Callable[..., Any]


class Clock:
    """Monotonic seconds that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Client:
    """A connected ib_async client and the errors it was sent: (request id, code, text)."""

    ib: "IB"
    errors: list[tuple[int, int, str]] = field(default_factory=list)

    def codes(self) -> list[int]:
        """Codes without the farm notices of the login."""
        return [code for _, code, _ in self.errors if code not in {2104, 2106, 2158}]

    def text(self, code: int) -> str:
        return next(text for _, each, text in self.errors if each == code)


async def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds; the deadline is generous because it is only ever reached in failure."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"not within {seconds:g} s")
        await asyncio.sleep(0.005)


async def settled(client: Client) -> None:
    """Everything the gateway sent before now has arrived: messages keep their order."""
    await asyncio.wait_for(client.ib.reqCurrentTimeAsync(), 20)


def contract_of(conid: int, exchange: str = "SMART") -> "Contract":
    from ib_async import Contract

    return Contract(conId=conid, exchange=exchange)


def an_option(gateway: PaperGateway, symbol: str = "SPX") -> int:
    return next(c.conid for c in gateway.universe.contracts.values() if (c.symbol, c.sec_type) == (symbol, "OPT"))


def all_fetch_fields() -> Any:
    from ib_async.ib import StartupFetchALL

    return StartupFetchALL


def seen(ticker: "Ticker", *, greeks: bool) -> dict[str, float]:
    """Values in ib_async, under the names of the statistics."""
    values = {
        "bid": ticker.bid,
        "bid_size": ticker.bidSize,
        "ask": ticker.ask,
        "ask_size": ticker.askSize,
        "last": ticker.last,
        "last_size": ticker.lastSize,
        "volume": ticker.volume,
        "close": ticker.close,
        "mark": ticker.markPrice,
    }
    model = ticker.modelGreeks
    if greeks and model is not None:
        values |= {
            "implied_vol": model.impliedVol or 0.0,
            "delta": model.delta or 0.0,
            "gamma": model.gamma or 0.0,
            "vega": model.vega or 0.0,
            "theta": model.theta or 0.0,
            "option_price": model.optPrice or 0.0,
            "underlying_price": model.undPrice or 0.0,
        }
    return values
