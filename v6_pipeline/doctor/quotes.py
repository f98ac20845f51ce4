"""Examines market data: whether lines are available, and what data a few quotes on them deliver.

The trial takes lines of the ledger's batch share and gives them back; ``judge``, which is pure, rates its result.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.doctor.findings import Finding, Verdict, fault, ok, skipped, warning
from v6_pipeline.ib.codes import Reaction, is_unsubscribed, reaction_to
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.lines import LineListener
from v6_pipeline.ib.market_data import Refusal
from v6_pipeline.ib.subscriptions import Subscriptions
from v6_pipeline.model import ContractSpec, Quote, SlotPurpose
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.slots.allocation import SlotUsage
from v6_pipeline.state.slots.ledger import SlotLedger

_DATA = "market data"
_LINES = "market-data lines"
_LIVE, _FROZEN = 1, 2
_KINDS = {_LIVE: "live", _FROZEN: "frozen", 3: "delayed", 4: "delayed and frozen"}
"""IB's market data types."""
_SUBSCRIBE = (
    "subscribe to the exchange's data under Settings > Market Data Subscriptions in the Client Portal, and "
    "share it with a paper account; without it these contracts are valued from the portfolio feed alone"
)
_LOG_OUT = (
    "log out of TWS, the Client Portal or the phone where the same user is logged in, or give the gateway a user of "
    "its own: IB gives its data to one session"
)
_NO_DEFINITION, _INVALID = 200, 321
_SLOT_TTL_SECONDS = 30
"""Longer than the trial takes; if this process dies, its lines are free again after this time."""
_BY_SEVERITY = (Verdict.OK, Verdict.SKIPPED, Verdict.WARNING, Verdict.FAULT)


@dataclass(frozen=True, slots=True)
class TrialTimeouts:
    """How many seconds to wait for lines from the ledger, and for the first price of each quote."""

    lines: float = 15
    quotes: float = 10


@dataclass(slots=True)
class Tried(LineListener):
    """Result of the trial.

    Attributes:
        asked: the contracts that got a line.
        advised: IB's message about a missing permission, by contract; the request stays open, and data may come.
        elsewhere: IB's message that another login has the data, or empty.
    """

    contracts: Mapping[int, ContractSpec]
    asked: set[int] = field(default_factory=set)
    refused: dict[int, Refusal] = field(default_factory=dict)
    quotes: dict[int, Quote] = field(default_factory=dict)
    advised: dict[int, str] = field(default_factory=dict)
    elsewhere: str = ""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def priced(self) -> dict[int, Quote]:
        """Quotes with a price."""
        return {conid: quote for conid, quote in self.quotes.items() if conid in self.asked and _has_price(quote)}

    @property
    def silent(self) -> list[int]:
        """Contracts with a line that were neither refused nor priced."""
        return [conid for conid in self.asked if conid not in self.priced and conid not in self.refused]

    @property
    def lines_are_exhausted(self) -> bool:
        """True if IB had no line left for one of the contracts."""
        return any(refusal.reaction is Reaction.LINES_EXHAUSTED for refusal in self.refused.values())

    def names(self, conids: Iterable[int]) -> str:
        """Return the contracts' names, for a person."""
        specs = [self.contracts[conid] for conid in conids]
        return ", ".join(f"{spec.local_symbol or spec.symbol} ({spec.sec_type})" for spec in specs)

    def on_quote(self, conid: int, quote: Quote) -> None:
        """Keep the newest quote."""
        self.quotes[conid] = quote
        self.arrived.set()

    def on_refused(self, refusal: Refusal) -> None:
        """Keep the refusal."""
        self.refused[refusal.conid] = refusal
        self.arrived.set()


def _has_price(quote: Quote) -> bool:
    return any(price is not None for price in (quote.bid, quote.ask, quote.last, quote.close, quote.mark))


async def examine_quotes(
    settings: Settings,
    database: StateDatabase,
    connection: IBConnectionManager,
    contracts: Mapping[int, ContractSpec],
    clock: Clock,
    timeouts: TrialTimeouts,
) -> AsyncIterator[Finding]:
    """Request a quote of each of the qualified ``contracts``; yield a finding on lines and one on data.

    Raises:
        GatewayError: the gateway does not answer.
        StateError: the ledger cannot be used.
    """
    tried = Tried(contracts)
    lines = Subscriptions(
        connection,
        SlotLedger.from_settings(settings, database, clock),
        holder=f"doctor/{os.getpid()}",
        purpose=SlotPurpose.BATCH,
        ttl_seconds=_SLOT_TTL_SECONDS,
        clock=clock,
        listener=tried,
    )

    def on_error(req_id: int, code: int, text: str) -> None:
        conid = lines.market.conid_of(req_id)
        if reaction_to(code, text) is Reaction.COMPETING_SESSION:
            tried.elsewhere = f"{code} {text}"
        elif conid is not None and is_unsubscribed(code, text):
            tried.advised[conid] = f"{code} {text}"

    connection.add_error_listener(on_error)
    lines.attach()
    try:
        await _subscribe(lines, tried, timeouts.lines)
        await _first_prices(tried, timeouts.quotes)
    finally:
        await lines.close()
    yield _judge_lines(tried, await lines.usage())
    yield judge(tried, is_open=TradingCalendar(settings.timezone).is_open(clock()))


async def _subscribe(lines: Subscriptions, tried: Tried, seconds: float) -> None:
    """Subscribe until each contract has had a line: the ledger grants few at a time, and other processes may wait."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while (left := [conid for conid in tried.contracts if conid not in tried.asked]) and loop.time() < until:
        answer = await lines.step(left, tried.contracts)
        tried.asked |= set(answer.granted)
        if not answer.granted:
            await asyncio.sleep(0.5)
    # Until the ledger knows that new lines are confirmed, all other processes wait.
    await lines.report()


async def _first_prices(tried: Tried, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while tried.silent:
                await tried.arrived.wait()
                tried.arrived.clear()
    except TimeoutError:
        pass


def _judge_lines(tried: Tried, usage: SlotUsage) -> Finding:
    if tried.lines_are_exhausted:
        return fault(
            _LINES,
            f"IB has none left (error 101) while v6 uses {len(usage.slots)} of its {usage.configured_ceiling}",
            "close TWS windows that show quotes and other programs, or lower V6_MARKET_DATA_LINES",
        )
    if usage.limit.is_learned:
        return warning(
            _LINES,
            f"{usage.ceiling} are granted instead of {usage.configured_ceiling}, learned from errors 101",
            "close TWS windows that show quotes, or lower V6_MARKET_DATA_LINES",
        )
    if not tried.asked:
        return warning(_LINES, f"all {usage.ceiling} are in use by v6 itself: no quote was tried")
    return ok(_LINES, f"{len(usage.slots)} of {usage.ceiling} in use, {usage.free} free")


def judge(tried: Tried, *, is_open: bool) -> Finding:
    """Rate the data that this login receives; silence means something only while the exchange is open."""
    found = [*_elsewhere(tried), *_refusals(tried), *_prices(tried, is_open=is_open), *_silence(tried, is_open=is_open)]
    if not found:
        return skipped(_DATA, "no line was available for a quote")
    return Finding(
        _DATA,
        max((finding.verdict for finding in found), key=_BY_SEVERITY.index),
        "; ".join(finding.says for finding in found),
        "; ".join(dict.fromkeys(finding.remedy for finding in found if finding.remedy)),
    )


def _elsewhere(tried: Tried) -> Iterator[Finding]:
    if tried.elsewhere:
        yield warning(_DATA, f"another login has this user's data: {tried.elsewhere}", _LOG_OUT)


def _refusals(tried: Tried) -> Iterator[Finding]:
    """Report refusals and advisories that left a contract without a price, each code once."""
    by_code: dict[int, list[Refusal]] = {}
    for refusal in tried.refused.values():
        if refusal.reaction is not Reaction.LINES_EXHAUSTED:
            by_code.setdefault(refusal.code, []).append(refusal)
    advised = [conid for conid in tried.silent if conid in tried.advised]
    lasting = {conid for conid, refusal in tried.refused.items() if _is_lasting(refusal)}.union(advised)
    # While other contracts have data it is only a warning: the portfolio feed values these few.
    rate = fault if lasting >= tried.asked else warning
    for code, refusals in by_code.items():
        names = tried.names(refusal.conid for refusal in refusals)
        yield rate(_DATA, f"refused for {names}: {code} {refusals[0].text}", _remedy(refusals[0]))
    if advised:
        yield rate(_DATA, f"none came for {tried.names(advised)}: {tried.advised[advised[0]]}", _SUBSCRIBE)


def _is_lasting(refusal: Refusal) -> bool:
    """Return True if the refusal is lasting: neither a rate limit nor a contract that no longer exists."""
    return refusal.reaction is Reaction.FAIL_REQUEST and refusal.code != _NO_DEFINITION


def _remedy(refusal: Refusal) -> str:
    if is_unsubscribed(refusal.code, refusal.text):
        return _SUBSCRIBE
    if refusal.reaction is Reaction.BACK_OFF:
        return "wait a minute and look again; end other programs of this gateway, or lower V6_MESSAGES_PER_SECOND"
    if refusal.code == _NO_DEFINITION:
        return "check whether the contract has expired, is delisted or was renamed: IB has no such contract now"
    if refusal.code == _INVALID:
        return "report IB's message: it names the error in the request, which no subscription changes"
    return "look again in a minute; if the refusal stays, follow IB's message"


def _prices(tried: Tried, *, is_open: bool) -> Iterator[Finding]:
    kinds = [quote.market_data_type or _LIVE for quote in tried.priced.values()]
    for kind in sorted(set(kinds)):
        says = f"{_KINDS.get(kind, f'type {kind}')} prices of {kinds.count(kind)} of {len(tried.asked)} contracts came"
        if kind == _LIVE:
            yield ok(_DATA, says)
        elif kind != _FROZEN:
            yield warning(_DATA, says, "subscribe to live data, or trust the prices less")
        elif is_open:
            remedy = "look again in a minute; if it stays, restart the gateway: frozen prices are those of a close"
            yield warning(_DATA, f"{says} although the market is open", remedy)
        else:
            yield ok(_DATA, f"{says}, those of the close; whether live ones come shows only while the market is open")


def _silence(tried: Tried, *, is_open: bool) -> Iterator[Finding]:
    unexplained = [] if tried.elsewhere else [conid for conid in tried.silent if conid not in tried.advised]
    if not unexplained:
        return
    names = tried.names(unexplained)
    if is_open:
        yield warning(
            _DATA,
            f"no price of {names} came although the market is open",
            "check whether TWS or the phone is logged in with the same user: IB gives its data to one session",
        )
    elif not tried.priced:
        yield skipped(
            _DATA,
            f"no price of {names} came while the market is closed, so that data permissions are not known",
            "look again while the market is open",
        )
