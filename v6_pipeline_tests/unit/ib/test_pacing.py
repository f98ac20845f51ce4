"""The queue in front of the socket, on virtual time: rate, order, urgency, and close."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random
from typing import cast

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from v6_pipeline.errors import GatewayError
from v6_pipeline.ib import pacing
from v6_pipeline.ib.allowance import LocalAllowance
from v6_pipeline.ib.pacing import MessagePacer, Outbox
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.ib.virtual_time import VirtualTimeLoop, run_virtually

RATE = 45


class Wire:
    """Records the messages that left, and their times."""

    def __init__(self, rate: float = RATE) -> None:
        self.pacer = MessagePacer(LocalAllowance(rate))
        self.sent: list[tuple[float, bytes]] = []
        self.outbox = self.open(self.pacer)

    def open(self, pacer: MessagePacer) -> Outbox:
        return pacer.open(lambda payload: self.sent.append((asyncio.get_running_loop().time(), payload)))

    def give(self, count: int) -> None:
        for number in range(count):
            self.outbox.send(b"%d" % number)

    @property
    def texts(self) -> list[bytes]:
        return [payload for _, payload in self.sent]

    @property
    def peak(self) -> int:
        return peak([moment for moment, _ in self.sent])


def peak(moments: list[float]) -> int:
    moments = sorted(moments)
    return max(sum(end - 1 < other <= end for other in moments) for end in moments)


async def drained(outbox: Outbox) -> None:
    left = asyncio.Event()
    outbox.when_left(left.set)
    await left.wait()
    await asyncio.sleep(0)  # the pump ends with its turn


def test_messages_leave_in_order_at_the_rate() -> None:
    async def body() -> None:
        wire = Wire()
        wire.give(450)
        await drained(wire.outbox)

        assert wire.texts == [b"%d" % number for number in range(450)]
        assert wire.peak <= 46
        assert asyncio.get_running_loop().time() == pytest.approx(11.7, abs=0.1)

    run_virtually(body())


def test_a_lone_message_leaves_at_once() -> None:
    async def body() -> None:
        wire = Wire()
        for _ in range(3):
            wire.give(1)
            await drained(wire.outbox)
            await asyncio.sleep(1)

        assert [moment for moment, _ in wire.sent] == pytest.approx([0, 1, 2])

    run_virtually(body())


def test_grants_are_few() -> None:
    """A grant covers several messages, of a burst and of one message after another."""

    async def body() -> None:
        burst, serial = Wire(), Wire()
        burst.give(450)
        await drained(burst.outbox)
        for _ in range(450):
            serial.give(1)
            await drained(serial.outbox)

        assert burst.pacer.asked == pytest.approx(450 / 11, abs=1)
        assert serial.pacer.asked < 450 / 5
        assert burst.pacer.wasted == serial.pacer.wasted == 0

    run_virtually(body())


def test_a_missed_instant_is_wasted() -> None:
    async def body() -> None:
        wire = Wire()
        wire.give(60)
        await asyncio.sleep(0.1)
        cast("VirtualTimeLoop", asyncio.get_running_loop()).stall(3)
        await drained(wire.outbox)

        assert wire.pacer.wasted > 0
        assert wire.peak <= 45
        assert len(wire.sent) == 60

    run_virtually(body())


class SlowAllowance(LocalAllowance):
    """One allowance of several processes; a grant is delayed before and after it is made, as by a database."""

    def __init__(self, rate: float, delays: Iterator[float]) -> None:
        super().__init__(rate)
        self._delays = delays

    async def take(self, count: int) -> list[float]:
        await asyncio.sleep(next(self._delays))
        instants = self.take_now(count)
        await asyncio.sleep(next(self._delays))
        return instants


@settings(max_examples=examples(40), deadline=None, phases=[Phase.generate])  # to shrink a failure takes minutes
@given(
    processes=st.integers(1, 6),
    amounts=st.lists(st.integers(1, 60), min_size=6, max_size=6),
    longest=st.sampled_from([0.0, 0.005, 0.04, 0.2]),
    stalls=st.lists(st.floats(0, 0.4), max_size=8),
    random=st.randoms(use_true_random=False),
)
def test_processes_together_never_exceed_the_rate(
    processes: int, amounts: list[int], longest: float, stalls: list[float], random: Random
) -> None:
    def delays() -> Iterator[float]:
        while True:
            yield random.random() * longest

    async def body() -> None:
        loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
        shared = SlowAllowance(RATE, delays())
        wires = [Wire() for _ in range(processes)]
        for wire, amount in zip(wires, amounts, strict=False):
            wire.outbox = wire.open(MessagePacer(shared))
            wire.give(amount)
        for stall in stalls:
            loop.call_later(random.random() * 3, loop.stall, stall)
        for wire in wires:
            await drained(wire.outbox)

        assert peak([moment for wire in wires for moment, _ in wire.sent]) <= 45
        for wire, amount in zip(wires, amounts, strict=False):
            assert wire.texts == [b"%d" % number for number in range(amount)]

    run_virtually(body())


# Urgency


def test_an_urgent_message_overtakes_all_others() -> None:
    async def body() -> None:
        wire = Wire()
        wire.give(500)
        await asyncio.sleep(0.001)
        wire.outbox.send(b"alive?", urgent=True)
        left = asyncio.Event()
        wire.outbox.when_left(left.set, urgent=True)
        await left.wait()

        assert wire.texts[-1] == b"alive?"
        assert len(wire.sent) < 5
        wire.outbox.close()
        await asyncio.sleep(0)

    run_virtually(body())


def test_a_callback_runs_once_all_earlier_messages_have_left() -> None:
    async def body() -> None:
        wire = Wire()
        called: list[int] = []
        wire.outbox.when_left(lambda: called.append(len(wire.sent)))
        wire.give(20)
        wire.outbox.when_left(lambda: called.append(len(wire.sent)))
        never = wire.outbox.when_left(lambda: called.append(-1))
        never()
        wire.give(20)
        await drained(wire.outbox)

        assert called == [0, 20]

    run_virtually(body())


# Its ends


def test_after_close_nothing_is_sent_and_callbacks_run() -> None:
    async def body() -> None:
        wire = Wire()
        wire.give(100)
        called: list[bool] = []
        wire.outbox.when_left(lambda: called.append(wire.outbox.is_closed))
        await asyncio.sleep(0.5)
        before = len(wire.sent)
        wire.outbox.close()
        wire.outbox.close()
        await asyncio.sleep(5)

        assert called == [True]
        assert len(wire.sent) == before
        assert len(wire.outbox) == 0
        with pytest.raises(GatewayError, match="closed"):
            wire.outbox.send(b"late")

    run_virtually(body())


def test_a_new_socket_begins_with_an_empty_queue_and_the_same_allowance() -> None:
    async def body() -> None:
        wire = Wire()
        wire.give(100)
        await asyncio.sleep(0.5)
        wire.outbox.close()
        wire.outbox = wire.open(wire.pacer)
        wire.give(100)
        await drained(wire.outbox)

        assert wire.texts[-100:] == [b"%d" % number for number in range(100)]
        assert wire.peak <= 45

    run_virtually(body())


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "MOST_WAITING", 50)

    async def body() -> None:
        wire = Wire()
        with pytest.raises(GatewayError, match="50 messages wait for the gateway"):
            wire.give(51)
        wire.outbox.close()
        await asyncio.sleep(0)

    run_virtually(body())


def test_a_write_that_fails_closes_the_outbox(caplog: pytest.LogCaptureFixture) -> None:
    """Requests then meet their deadlines, instead of waiting for a message that never leaves."""

    async def body() -> None:
        def broken(_payload: bytes) -> None:
            raise RuntimeError("boom")

        outbox = MessagePacer(LocalAllowance(RATE)).open(broken)
        called = asyncio.Event()
        outbox.send(b"1")
        outbox.send(b"2")
        outbox.when_left(called.set)
        await called.wait()

        assert outbox.is_closed

    run_virtually(body())
    assert "sending to the gateway failed" in caplog.text


# Errors


def test_after_an_error_a_second_of_silence_and_half_the_rate() -> None:
    async def body() -> None:
        wire = Wire()
        wire.give(90)
        await asyncio.sleep(1)
        wire.pacer.back_off(100, "Max rate exceeded")
        await drained(wire.outbox)

        moments = [moment for moment, _ in wire.sent]
        later = [moment for moment in moments if moment > 1.1]
        assert later[0] >= 2
        assert peak(later) <= 24

    run_virtually(body())
