"""The state machine of market-data lines, transition by transition, against a gateway that answers on a round trip.

After every message that the gateway reads, the invariant is checked: the ledger has a row for each line that it holds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from eventkit import Event
from ib_async import Contract, Ticker

from v6_pipeline.errors import GatewayError, RequestTimeoutError, StateError
from v6_pipeline.ib.lines import LineListener, LineState
from v6_pipeline.ib.market_data import Refusal
from v6_pipeline.ib.subscriptions import Subscriptions
from v6_pipeline.model import ContractSpec, Quote, SlotPurpose
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.slots.allocation import AcquiredSlots
from v6_pipeline.state.slots.ledger import SlotChanges, SlotLedger
from v6_pipeline_tests.unit.state.databases import ManualClock
from v6_pipeline_tests.unit.state.samples import stock

ME, TTL = "me", 100.0
SPECS: dict[int, ContractSpec] = {conid: stock(conid, exchange="SMART") for conid in (1, 2, 3)}
TOO_MANY = (101, "Max number of tickers has been reached")
NOT_SUBSCRIBED = (354, "Requested market data is not subscribed")
INVALID = (321, "Error validating request")


class Ledger(SlotLedger):
    """Fails on demand, and notes what is reported to it."""

    def __init__(self, database: StateDatabase, clock: ManualClock) -> None:
        super().__init__(database, ceiling=10, batch_floor=0, clock=clock, unconfirmed_lines=10)
        self.reported: list[SlotChanges] = []
        self.is_away = False
        self.before_call: Callable[[], None] = lambda: None

    def record_and_acquire(self, changes: SlotChanges, conids: Any = (), **options: Any) -> AcquiredSlots:
        if self.is_away:
            raise StateError("the state database is away")
        self.before_call()
        self.reported.append(changes)
        return super().record_and_acquire(changes, conids, **options)

    def renew(self, holder: str, *, ttl_seconds: float) -> frozenset[int]:
        if self.is_away:
            raise StateError("the state database is away")
        return super().renew(holder, ttl_seconds=ttl_seconds)

    def rows(self) -> set[int]:
        return {slot.conid for slot in self.usage().slots}


class Gateway:
    """A connection and the gateway behind it, which reads what was sent once a round trip asks for its answer."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._listeners: list[Callable[[int, int, str], None]] = []
        self._sent: list[tuple[str, int, int]] = []
        self._wrapper = SimpleNamespace(
            ticker2ReqId={"mktData": {}}, tickers={}, endTicker=lambda ticker, _: self._tickers.pop(id(ticker), None)
        )
        self._tickers: dict[int, int] = {}
        self._next_id = 1
        self.ib: Any = SimpleNamespace(
            reqMktData=self._subscribe, cancelMktData=self._cancel, wrapper=self._wrapper, pendingTickersEvent=Event()
        )
        self.is_connected = True
        self.was_closed_by_gateway = False
        self.held: set[int] = set()
        self.refuses: dict[int, list[tuple[int, str]]] = {}
        self.before_answer: Callable[[], None] = lambda: None
        self.is_silent = False
        self.latency_seconds = 0.0
        self.round_trips = 0

    def add_error_listener(self, listener: Callable[[int, int, str], None]) -> None:
        self._listeners.append(listener)

    def _subscribe(self, contract: Contract, _ticks: str) -> Ticker:
        ticker = Ticker(contract=contract)
        self._wrapper.ticker2ReqId["mktData"][ticker] = self._next_id
        self._sent.append(("subscribe", contract.conId, self._next_id))
        self._next_id += 1
        return ticker

    def _cancel(self, contract: Contract) -> None:
        self._sent.append(("cancel", contract.conId, 0))

    async def round_trip(self) -> None:
        self.round_trips += 1
        await asyncio.sleep(0)
        if self.is_silent or not self.is_connected:
            raise RequestTimeoutError("the gateway did not answer")
        sent, self._sent = self._sent, []
        for kind, conid, request in sent:
            self._read(kind, conid, request)
            assert self.held <= self._ledger.rows(), "the gateway holds a line that the ledger does not know of"
        self.before_answer()

    def _read(self, kind: str, conid: int, request: int) -> None:
        if kind == "cancel":
            self.held.discard(conid)
        elif self.refuses.get(conid):
            code, text = self.refuses[conid].pop(0)
            for listener in self._listeners:
                listener(request, code, text)
        else:
            self.held.add(conid)

    def drop(self, *, closed_by_gateway: bool) -> None:
        self.is_connected, self.was_closed_by_gateway = False, closed_by_gateway


class Noted(LineListener):
    """Notes each event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def on_subscribed(self, spec: ContractSpec) -> None:
        self.events.append(("subscribed", spec.conid))

    def on_cancelled(self, conid: int) -> None:
        self.events.append(("cancelled", conid))

    def on_lost(self, conid: int) -> None:
        self.events.append(("lost", conid))

    def on_refused(self, refusal: Refusal) -> None:
        self.events.append(("refused", refusal.conid))


class Rig:
    def __init__(self, database: StateDatabase, clock: ManualClock) -> None:
        self.clock = clock
        self.ledger = Ledger(database, clock)
        self.gateway = Gateway(self.ledger)
        self.noted = Noted()
        self.lines = Subscriptions(
            self.gateway,  # type: ignore[arg-type]  # a double
            self.ledger,
            holder=ME,
            purpose=SlotPurpose.STREAM,
            ttl_seconds=TTL,
            clock=clock,
            listener=self.noted,
        )
        self.lines.attach()

    def state(self, conid: int) -> LineState | None:
        line = self.lines._lines.get(conid)
        return None if line is None else line.state

    async def live(self, *conids: int) -> None:
        """Bring lines to life, and let the ledger know."""
        assert (await self.lines.step(conids, SPECS)).granted == conids
        await self.lines.report()

    def standing(self) -> int:
        return self.ledger.usage().standing


@pytest.fixture
def rig(sqlite_database: StateDatabase, clock: ManualClock) -> Rig:
    return Rig(sqlite_database, clock)


async def test_a_line_is_granted_requested_confirmed_cancelled_confirmed_and_released(rig: Rig) -> None:
    await rig.lines.step([1], SPECS)
    assert (rig.state(1), rig.gateway.held, rig.ledger.rows(), rig.standing()) == (LineState.LIVE, {1}, {1}, 0)
    await rig.lines.report()
    assert rig.standing() == 1

    await rig.lines.step(ended=[1])
    assert (rig.state(1), rig.gateway.held, rig.ledger.rows()) == (LineState.RELEASING, set(), {1})
    assert rig.lines.conids == frozenset()
    await rig.lines.report()

    assert rig.lines.is_idle
    assert rig.ledger.rows() == set()
    assert rig.noted.events == [("subscribed", 1), ("cancelled", 1)]


async def test_an_advance_does_not_wait_for_the_gateway_and_the_next_one_reports_what_it_confirmed(rig: Rig) -> None:
    await rig.lines.advance([1], SPECS)
    assert (rig.state(1), rig.gateway.held, rig.lines.has_changes) == (LineState.SUBSCRIBING, set(), False)

    await rig.lines.advance([2], SPECS)
    await rig.lines.confirmed()
    assert (rig.state(1), rig.state(2), rig.lines.has_changes) == (LineState.LIVE, LineState.LIVE, True)

    await rig.lines.advance(ended=[1])
    assert (rig.state(1), rig.standing(), rig.lines.has_changes) == (LineState.CANCELLING, 1, False)
    await rig.lines.confirmed()
    await rig.lines.report()
    assert rig.ledger.rows() == {2}


async def test_a_tick_confirms_a_line_without_a_round_trip(rig: Rig) -> None:
    rig.gateway.is_silent = True
    await rig.lines.advance([1, 2], SPECS)

    rig.lines._on_quote(1, Quote())

    assert (rig.state(1), rig.state(2)) == (LineState.LIVE, LineState.SUBSCRIBING)
    with pytest.raises(GatewayError):
        await rig.lines.confirmed()


async def test_a_confirmation_that_fails_fails_the_next_advance_and_is_made_up_for_by_the_one_after(rig: Rig) -> None:
    rig.gateway.is_silent = True
    await rig.lines.advance([1], SPECS)
    await asyncio.sleep(0.01)

    with pytest.raises(GatewayError):
        await rig.lines.advance([2], SPECS)

    rig.gateway.is_silent = False
    await rig.lines.step([2], SPECS)
    assert (rig.state(1), rig.state(2)) == (LineState.LIVE, LineState.LIVE)


async def test_a_line_is_marked_as_closing_before_its_cancel_is_sent(rig: Rig) -> None:
    await rig.live(1)
    rig.gateway.is_silent = True

    with pytest.raises(GatewayError):
        await rig.lines.step(ended=[1])

    assert rig.ledger.reported[-1].closing == {1}
    assert rig.state(1) is LineState.CANCELLING
    assert rig.ledger.rows() == {1}, "the gateway may still hold it"


async def test_without_the_ledger_nothing_is_cancelled_or_subscribed(rig: Rig) -> None:
    await rig.live(1)
    rig.ledger.is_away = True

    with pytest.raises(StateError):
        await rig.lines.step([2], SPECS, ended=[1])

    assert (rig.state(1), rig.state(2), rig.gateway.held) == (LineState.LIVE, None, {1})


async def test_a_line_that_is_cancelled_before_it_was_confirmed_is_not_confirmed_by_the_answer_to_both(
    rig: Rig,
) -> None:
    """Its error 101, if there was one, had no subscription any more to belong to."""
    rig.gateway.is_silent = True
    with pytest.raises(GatewayError):
        await rig.lines.step([1], SPECS)
    assert rig.state(1) is LineState.SUBSCRIBING
    rig.gateway.is_silent = False
    rig.gateway.refuses[1] = [TOO_MANY]

    await rig.lines.step(ended=[1])
    await rig.lines.report()

    assert all(not changes.confirmed for changes in rig.ledger.reported)
    assert rig.ledger.rows() == set()


async def test_a_request_on_its_way_is_cancelled_only_once_it_was_granted(rig: Rig) -> None:
    """Its cancel would cross its error 101, and IB answers the cancel of a request that it does not know with 300."""
    cancelled: list[int] = []
    really = rig.gateway.ib.cancelMktData

    def cancel(contract: Contract) -> None:
        cancelled.append(contract.conId)
        really(contract)

    rig.gateway.ib.cancelMktData = cancel
    rig.gateway.refuses[1] = [TOO_MANY]
    await rig.lines.advance([1, 2], SPECS)

    await rig.lines.advance(ended=[1, 2])
    assert cancelled == []

    await rig.lines.confirmed()
    await rig.lines.step(ended=[1, 2])
    await rig.lines.report()
    assert cancelled == [2]
    assert rig.ledger.rows() == set()


async def test_a_request_that_is_repeated_during_the_round_trip_is_confirmed_by_the_next_one(rig: Rig) -> None:
    """A contract without a mark price is refused at first; the second request may draw error 101 all the same."""
    rig.gateway.refuses[1] = [INVALID, TOO_MANY]

    await rig.lines.step([1], SPECS)

    assert rig.gateway.round_trips == 2
    assert rig.state(1) is LineState.EXHAUSTED
    assert all(not changes.confirmed for changes in rig.ledger.reported)


async def test_error_101_before_the_confirmation_is_reported_and_the_row_is_released(rig: Rig) -> None:
    rig.gateway.refuses[1] = [TOO_MANY]

    await rig.lines.step([1, 2], SPECS)

    assert (rig.state(1), rig.state(2)) == (LineState.EXHAUSTED, LineState.LIVE)
    assert rig.noted.events[-1] == ("refused", 1)
    await rig.lines.report()
    assert rig.ledger.reported[-1] == SlotChanges(exhausted={1}, confirmed={2})
    assert rig.ledger.rows() == {2}
    assert rig.ledger.usage().ceiling < 10, "learned"


async def test_a_refusal_for_the_contracts_own_sake_releases_the_row_and_teaches_nothing(rig: Rig) -> None:
    rig.gateway.refuses[1] = [NOT_SUBSCRIBED]

    await rig.lines.step([1], SPECS)

    assert rig.state(1) is LineState.RELEASING
    await rig.lines.report()
    assert rig.ledger.rows() == set()
    assert rig.ledger.usage().ceiling == 10


async def test_what_the_ledger_could_not_be_given_is_reported_with_the_next_call(rig: Rig) -> None:
    rig.gateway.refuses = {1: [TOO_MANY], 2: [NOT_SUBSCRIBED]}
    await rig.lines.step([1, 2, 3], SPECS)
    rig.ledger.is_away = True
    with pytest.raises(StateError):
        await rig.lines.report()

    rig.ledger.is_away = False
    await rig.lines.step(ended=[3])

    assert rig.ledger.reported[-1] == SlotChanges(exhausted={1}, released={2}, confirmed={3}, closing={3})


async def test_a_row_whose_request_could_not_be_sent_is_released(rig: Rig) -> None:
    unqualified = {1: ContractSpec(conid=1, symbol="X", sec_type=SPECS[1].sec_type, currency="USD")}

    with pytest.raises(GatewayError):
        await rig.lines.step([1, 2], unqualified | {2: SPECS[2]})

    assert rig.lines.conids == frozenset()
    await rig.lines.report()
    assert rig.ledger.rows() == set()


async def test_what_the_contract_draws_while_the_ledger_is_asked_is_not_cancelled_again(rig: Rig) -> None:
    """A refusal during the call: the line that was to be cancelled has ended by itself."""
    await rig.live(1)
    [request] = rig.lines.market.requests.values()
    loop = asyncio.get_running_loop()

    def refuse() -> None:
        rig.gateway.held.discard(1)
        for listener in rig.gateway._listeners:
            loop.call_soon_threadsafe(listener, request, *NOT_SUBSCRIBED)

    rig.ledger.before_call = refuse
    await rig.lines.step(ended=[1])

    assert rig.noted.events == [("subscribed", 1), ("refused", 1)]
    rig.ledger.before_call = lambda: None
    await rig.lines.report()
    assert rig.ledger.rows() == set()


async def test_all_market_data_lost_ends_every_line_without_a_cancel(rig: Rig) -> None:
    await rig.live(1, 2)
    rig.gateway.held.clear()

    rig.lines.market_data_lost()

    assert rig.noted.events[2:] == [("lost", 1), ("lost", 2)]
    await rig.lines.report()
    assert rig.ledger.rows() == set()
    await rig.live(1, 2)
    assert rig.gateway.held == {1, 2}


# Renewal


async def test_lines_are_renewed(rig: Rig) -> None:
    await rig.live(1)
    rig.clock.advance(TTL - 1)

    assert await rig.lines.renew(timeout=5, give_up_seconds=80) is False

    rig.clock.advance(TTL - 1)
    assert rig.ledger.rows() == {1}


async def test_a_line_whose_row_expired_is_cancelled(rig: Rig) -> None:
    await rig.live(1, 2)
    rig.clock.advance(1)
    rig.ledger.release(ME, [1])

    assert await rig.lines.renew(timeout=5, give_up_seconds=80) is True

    assert (rig.state(1), rig.state(2)) == (LineState.CANCELLING, LineState.LIVE)
    assert rig.noted.events[-1] == ("lost", 1)


async def test_lines_that_cannot_be_renewed_are_given_up_and_their_rows_are_released_once_the_ledger_is_back(
    rig: Rig,
) -> None:
    await rig.live(1)
    rig.ledger.is_away = True
    rig.clock.advance(79)
    with pytest.raises(StateError):
        await rig.lines.renew(timeout=5, give_up_seconds=80)
    assert rig.state(1) is LineState.LIVE

    rig.clock.advance(1)
    with pytest.raises(StateError):
        await rig.lines.renew(timeout=5, give_up_seconds=80)
    assert rig.state(1) is LineState.CANCELLING
    assert rig.noted.events[-1] == ("lost", 1)

    rig.ledger.is_away = False
    await rig.lines.step()
    await rig.lines.report()
    assert (rig.gateway.held, rig.ledger.rows()) == (set(), set())


# The end of a session


async def test_a_session_ends_with_cancels_that_are_confirmed_and_no_row(rig: Rig) -> None:
    await rig.live(1, 2)

    await rig.lines.cancel_all()
    assert (rig.gateway.held, rig.ledger.rows()) == (set(), {1, 2})
    await rig.lines.release_all()

    assert rig.lines.is_idle
    assert rig.ledger.rows() == set()


async def test_a_session_that_is_ended_for_its_silence_keeps_its_rows_until_the_next_one_begins(rig: Rig) -> None:
    await rig.live(1, 2)
    rig.gateway.drop(closed_by_gateway=False)

    for _ in range(2):  # the session ends, and the process after it
        await rig.lines.cancel_all()
        await rig.lines.release_all()
        assert rig.lines.conids == frozenset()
        assert rig.ledger.rows() == {1, 2} == rig.gateway.held

    rig.gateway.is_connected = True
    rig.gateway.held.clear()
    await rig.lines.begin_session()
    assert rig.ledger.rows() == set()
    await rig.live(1)


async def test_a_socket_that_the_gateway_closed_has_no_lines(rig: Rig) -> None:
    await rig.live(1)
    rig.gateway.drop(closed_by_gateway=True)

    await rig.lines.cancel_all()
    await rig.lines.release_all()

    assert rig.ledger.rows() == set()


async def test_error_101_of_the_last_moment_is_learned_before_all_rows_are_released(rig: Rig) -> None:
    rig.gateway.refuses[1] = [TOO_MANY]
    await rig.lines.step([1], SPECS)

    await rig.lines.cancel_all()
    await rig.lines.release_all()

    assert rig.ledger.usage().ceiling < 10


async def test_a_step_that_the_end_of_the_session_overtakes_subscribes_nothing_and_its_rows_are_released(
    rig: Rig,
) -> None:
    step = asyncio.create_task(rig.lines.step([1], SPECS))
    await asyncio.sleep(0)  # the ledger's call is under way

    await rig.lines.cancel_all()
    with pytest.raises(GatewayError):
        await step
    await rig.lines.release_all()

    assert rig.noted.events == []
    assert rig.ledger.rows() == set()


async def test_a_step_that_a_new_session_overtakes_subscribes_nothing(rig: Rig) -> None:
    step = asyncio.create_task(rig.lines.step([1], SPECS))
    await asyncio.sleep(0)

    await rig.lines.begin_session()
    with pytest.raises(GatewayError):
        await step

    assert rig.noted.events == []
    assert rig.ledger.rows() == set()


async def test_the_lines_that_a_cancelled_step_took_are_released(rig: Rig) -> None:
    """The thread of its ledger call goes on."""
    step = asyncio.create_task(rig.lines.step([1], SPECS))
    await asyncio.sleep(0)
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)

    await rig.lines.cancel_all()
    await rig.lines.release_all()

    assert rig.ledger.reported, "the call was made"
    assert rig.ledger.rows() == set()


async def test_lines_are_cancelled_at_once_though_a_call_of_the_ledger_hangs(rig: Rig) -> None:
    """The state database may be the reason why the session ends."""
    await rig.live(1)
    hangs, called = threading.Event(), threading.Event()

    def hang() -> None:
        called.set()
        hangs.wait(30)

    rig.ledger.before_call = hang
    step = asyncio.create_task(rig.lines.step([2], SPECS))
    await asyncio.to_thread(called.wait)

    await rig.lines.cancel_all(timeout=5)

    assert rig.gateway.held == set()
    assert rig.noted.events[-1] == ("lost", 1)
    hangs.set()
    await rig.lines.release_all()
    with pytest.raises(GatewayError):
        await step
    assert rig.ledger.rows() == set()


async def test_a_batch_marks_its_lines_as_closing_before_it_cancels_them(rig: Rig) -> None:
    await rig.live(1, 2)

    await rig.lines.close()

    assert {conid for changes in rig.ledger.reported for conid in changes.closing} == {1, 2}
    assert (rig.gateway.held, rig.ledger.rows()) == (set(), set())


async def test_a_batch_cancels_its_lines_though_the_ledger_is_away(rig: Rig) -> None:
    await rig.live(1)
    rig.ledger.is_away = True

    await rig.lines.close()

    assert rig.gateway.held == set()


async def test_two_reports_of_one_refusal_at_the_same_time_do_no_harm(rig: Rig) -> None:
    rig.gateway.refuses[1] = [TOO_MANY]
    await rig.lines.step([1], SPECS)

    await asyncio.gather(rig.lines.report(), rig.lines.report())

    assert rig.lines.is_idle
    assert rig.ledger.rows() == set()


async def test_a_batch_cancels_its_lines_though_every_call_of_the_ledger_hangs(rig: Rig) -> None:
    await rig.live(1, 2)
    hangs = threading.Event()
    rig.ledger.before_call = partial(_wait, hangs)
    rig.lines._answer_seconds = 0.05

    await rig.lines.close()

    assert rig.gateway.held == set()
    hangs.set()


async def test_a_line_granted_after_the_step_had_stopped_waiting_is_given_back(rig: Rig) -> None:
    """Renewed with the others, it would be held for as long as the streamer runs."""
    await rig.live(1)
    hangs, rig.lines._answer_seconds = threading.Event(), 0.05
    rig.ledger.before_call = partial(_wait, hangs)
    with pytest.raises(StateError, match="has not answered"):
        await rig.lines.step([2], SPECS)
    rig.lines._answer_seconds = 20.0
    hangs.set()
    while rig.ledger.rows() != {1, 2}:  # noqa: ASYNC110  (of a thread that is no longer awaited)
        await asyncio.sleep(0.01)

    await rig.lines.renew(timeout=20, give_up_seconds=80)

    assert rig.ledger.rows() == {1}
    assert rig.gateway.held == {1}


def _wait(event: threading.Event) -> None:
    event.wait(30)


async def test_a_step_waits_for_the_release_of_unused_rows_which_would_take_away_its_line(rig: Rig) -> None:
    # A grant that committed after its step had given up waiting.
    rig.ledger.record_and_acquire(SlotChanges(), [1], holder=ME, purpose=SlotPurpose.STREAM, ttl_seconds=TTL)
    release, begun, may_end = rig.ledger.release, threading.Event(), threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        may_end.wait(5)
        return release(*args, **kwargs)

    rig.ledger.release = slow  # type: ignore[method-assign]
    renewal = asyncio.create_task(rig.lines.renew(timeout=20, give_up_seconds=80))
    await asyncio.to_thread(begun.wait, 5)
    step = asyncio.create_task(rig.lines.advance([1], SPECS))
    await asyncio.sleep(0.05)
    may_end.set()
    await asyncio.gather(renewal, step)
    assert rig.lines.conids == rig.ledger.rows() == {1}
