"""The streamer's process: streams while it holds the lease, and ends cleanly.

Entry point ``python -m v6_pipeline.streamer``, started by ``ib_streamer_sensor`` or a supervisor, and the body of
``v6 stream``. Does not belong here: streaming itself (``streaming.streamer``), control from outside
(``streaming.control``), Dagster, without which the process starts in about two seconds and outlives every reload of a
code location.
"""

from __future__ import annotations

import v6_pipeline.own_process  # noqa: F401  for what it does to the interpreter, before the other imports

# isort: split
import argparse
import asyncio
import contextlib
import enum
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from v6_pipeline import privacy
from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import FencedError, StateError, V6Error
from v6_pipeline.ib.connection import ConnectionPolicy, IBConnectionManager
from v6_pipeline.ib.resets import expected_outage
from v6_pipeline.ib.session import shared_pacer
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline.settings import Settings, load_settings
from v6_pipeline.state.answers import ask, ask_within, leave
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.leases.held import Elapsed, HeldLease, elapsed_seconds
from v6_pipeline.state.leases.process import ProcessIdentity
from v6_pipeline.state.leases.streamer import DesiredState, GrantedBy, StreamerLease
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline.state.slots.ledger import SlotLedger, stream_holder
from v6_pipeline.streaming.handlers import HandlerDispatcher, load_handlers
from v6_pipeline.streaming.policy import StreamerPolicy
from v6_pipeline.streaming.status import StreamerStatus
from v6_pipeline.streaming.stream_lines import CLOSING_SECONDS
from v6_pipeline.streaming.streamer import IBPositionStreamer
from v6_pipeline.streaming.writer import DeltaLakePositionWriter

log = logging.getLogger("v6_pipeline.streamer")  # not __name__, which is __main__ when this module runs as a process

LOG_FILE = "streamer.log"
LAST_WORD_SECONDS = 3
"""How long an ending streamer waits for the state database."""
_LOG_BYTES = 5_000_000
_LOG_FILES = 5


class Authority(enum.StrEnum):
    """Source of this process's right to stream."""

    SPAWNED = "spawned"
    """The sensor claimed the lease, started this process and renews the lease."""
    OWNED = "owned"
    """A supervisor started this process; it idles until the sensor grants the lease, and again after losing it."""
    ALONE = "alone"
    """Dagster is not involved: the process claims and renews the lease itself."""


async def stream(
    settings: Settings,
    stop: asyncio.Event,
    *,
    authority: Authority,
    epoch: int | None = None,
    clock: Clock | None = None,
    elapsed: Elapsed = elapsed_seconds,
    policy: StreamerPolicy | None = None,
) -> None:
    """Stream on the given authority until ``stop`` is set or the lease is lost.

    With ``SPAWNED``, ``epoch`` is the one that the sensor claimed for this process. ``clock`` is by default the
    state database's, which all processes share. The lease counts as lost by
    ``elapsed``, however long the state database takes to answer.

    Raises:
        FencedError: another process streams already.
        V6Error: the state database, the lake or (with ``ALONE``) the gateway cannot be used.
    """
    database = StateDatabase.open(settings.state_database_url, name_for_messages=settings.safe_state_url)
    try:
        clock = clock or database.now
        lease = StreamerLease(database, clock)
        alone = authority is Authority.ALONE
        host = _Host(settings, database, lease, clock, elapsed, policy or StreamerPolicy(), alone)
        process = ProcessIdentity.current()
        if authority is Authority.OWNED:
            await host.stream_when_granted(process, stop)
            return
        if alone:
            epoch = lease.claim(
                process.owner, granted_by=GrantedBy.SELF, ttl_seconds=settings.lease_seconds, process=process
            )
        if epoch is None:
            state = lease.read()
            raise FencedError(
                f"a streamer runs already (pid {state.pid} on {state.host}, started by {state.granted_by}): stop it "
                "with 'v6 stream --stop' first"
            )
        await host.stream_as(epoch, stop, process)
    finally:
        database.close()


@dataclass(frozen=True, slots=True)
class _Host:
    """Runs a streamer under the lease; if ``alone`` (without Dagster), it renews the lease itself."""

    settings: Settings
    database: StateDatabase
    lease: StreamerLease
    clock: Clock
    elapsed: Elapsed
    policy: StreamerPolicy
    alone: bool

    async def stream_when_granted(self, process: ProcessIdentity, stop: asyncio.Event) -> None:
        """Stream whenever the sensor grants the lease, until ``stop`` is set."""
        log.info("waiting for ib_streamer_sensor to grant the lease")
        while not stop.is_set():
            epoch = await ask(self.lease.claim_grant, process.owner, process)
            if epoch is None:
                await _pause(stop, self.policy.lease)
                continue
            lost = asyncio.Event()
            either = asyncio.create_task(_set_with(stop, lost))
            try:
                await self.stream_as(epoch, lost, process)
            except FencedError as error:
                log.warning("%s", error)
            finally:
                either.cancel()

    async def stream_as(self, epoch: int, stop: asyncio.Event, process: ProcessIdentity) -> None:
        """Stream as the owner of ``epoch``; set ``stop`` when the lease is lost or a stop is requested."""
        settings, tasks = self.settings, list[asyncio.Task[None]]()
        held = await self._attach(epoch, process)
        try:
            writer = DeltaLakePositionWriter(
                Lake.from_settings(settings).table(STREAMED_POSITIONS),
                epoch=epoch,
                gateway=settings.ib_address,
                trading_day=TradingCalendar(settings.timezone).trading_day,
                clock=self.clock,
                flush_seconds=settings.flush_seconds,
                check_lease=held.check,
            )
            streamer = build_streamer(
                settings, self.database, writer, epoch=epoch, clock=self.clock, policy=self.policy
            )
            tasks = [
                asyncio.create_task(self._keep_lease(epoch, held, streamer, stop), name="lease"),
                asyncio.create_task(self._give_up_in_time(epoch, held, stop), name="end of the lease"),
            ]
            if not await _finished(self._open(writer), stop):
                log.warning("stopped before the lake had answered: nothing was streamed")
                return
            log.info("connecting to %s before streaming as epoch %d", settings.ib_address, epoch)
            await streamer.run(stop, connect_once=self.alone)
        except Exception as error:
            await _end(tasks)
            message = str(error) if isinstance(error, V6Error) else f"{type(error).__name__}: {error}"
            with contextlib.suppress(FencedError, StateError):  # the sensor shows it, if it can still be stored
                report = StreamerStatus.failure(message).as_json()
                await ask_within(LAST_WORD_SECONDS, self.lease.heartbeat, epoch, report)
            raise
        finally:
            await _end(tasks)
            with contextlib.suppress(StateError):  # the lease then expires
                await ask_within(LAST_WORD_SECONDS, self.lease.release, epoch)
            log.info("stopped")

    async def _attach(self, epoch: int, process: ProcessIdentity) -> HeldLease:
        """Register this process as the owner.

        Raises:
            FencedError: the lease of ``epoch`` is over.
            StateError: the database failed.
        """
        asked_at = self.elapsed()
        state = await ask(self.lease.attach, epoch, process)
        seconds = 0.0 if state.expires_at is None else (state.expires_at - self.clock()).total_seconds()
        return HeldLease(epoch, asked_at=asked_at, seconds=seconds, elapsed=self.elapsed)

    async def _open(self, writer: DeltaLakePositionWriter) -> None:
        """Take the table over.

        Raises:
            FencedError: another streamer has, or had, the table with a higher epoch; the next start will exceed it.
            LakeError: the table cannot be used.
        """
        try:
            await writer.open()
        except FencedError as error:
            if error.epoch is not None:
                await ask(self.lease.raise_epoch, error.epoch)
                raise FencedError(
                    f"{error}; if no other streamer writes to this lake, the state database is newer than the lake: "
                    "start again",
                    epoch=error.epoch,
                ) from error
            raise

    async def _keep_lease(self, epoch: int, held: HeldLease, streamer: IBPositionStreamer, stop: asyncio.Event) -> None:
        """Report to the lease; set ``stop`` when it is lost or a stop is requested. ``held`` notes each answer."""
        ttl_seconds = self.settings.lease_seconds
        while not stop.is_set():
            asked_at = self.elapsed()
            try:
                if self.alone:
                    await ask(self.lease.renew, epoch, ttl_seconds=ttl_seconds)
                state = await ask(self.lease.heartbeat, epoch, streamer.status().as_json())
            except FencedError as error:
                log.warning("%s", error)
                stop.set()
            except StateError as error:
                log.warning("%s", error)  # tried again, until the lease ends
            else:
                if state.expires_at is not None and state.heartbeat_at is not None:
                    held.renewed(asked_at=asked_at, seconds=(state.expires_at - state.heartbeat_at).total_seconds())
                if state.desired_state is DesiredState.STOP:
                    log.info("stop requested")
                    stop.set()
            await _pause(stop, self.policy.lease)

    async def _give_up_in_time(self, epoch: int, held: HeldLease, stop: asyncio.Event) -> None:
        """Set ``stop`` so early that all lines are cancelled when the lease ends; waits for nothing but its clock."""
        closing = min(CLOSING_SECONDS, self.settings.lease_seconds / 6)
        while not stop.is_set():
            left = held.seconds_left - closing
            if left <= 0:
                log.warning(
                    "the lease of epoch %d, last confirmed %.0f s ago, ends in %.0f s: its lines are cancelled, and "
                    "nothing is written after that",
                    epoch,
                    held.unconfirmed_seconds,
                    max(0.0, left + closing),
                )
                stop.set()
            # Looked at often, because timers stand still while a machine sleeps.
            await _pause(stop, min(left, self.policy.lease))


async def _finished(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Do ``work`` unless ``stop`` is set first; return False if it was."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        return working.done()
    finally:
        working.cancel()
        stopping.cancel()


async def _set_with(stop: asyncio.Event, inner: asyncio.Event) -> None:
    await stop.wait()
    inner.set()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


def build_streamer(
    settings: Settings,
    database: StateDatabase,
    writer: DeltaLakePositionWriter,
    *,
    epoch: int,
    clock: Clock,
    policy: StreamerPolicy | None = None,
) -> IBPositionStreamer:
    """Return the streamer with all its parts, built from the settings."""
    registry = StrategyRegistry(database, clock, timezone=settings.timezone)
    registry.initialize()
    calendar = TradingCalendar(settings.timezone)
    return IBPositionStreamer(
        settings,
        database,
        IBConnectionManager(
            host=settings.ib_host,
            port=settings.ib_port,
            client_id=settings.ib_client_id,
            policy=ConnectionPolicy(messages_per_second=settings.messages_per_second),
            expected_outage=lambda: expected_outage(clock(), settings.ib_region),
            pacer=shared_pacer(settings, database, clock),
        ),
        writer=writer,
        dispatcher=HandlerDispatcher({"delta": writer, **load_handlers(settings)}),
        registry=registry,
        queue=PositionQueue(database, clock),
        ledger=SlotLedger.from_settings(settings, database, clock),
        holder=stream_holder(epoch),
        is_open=partial(settings.market_hours.is_open, calendar),
        clock=clock,
        policy=policy,
    )


def run_process(
    settings: Settings,
    *,
    authority: Authority,
    epoch: int | None = None,
    seconds: float | None = None,
    on_start: Callable[[], None] | None = None,
) -> None:
    """Stream until SIGINT, SIGTERM, the end of ``seconds`` or of the lease; blocks until then.

    Raises:
        V6Error: as ``stream``.
    """

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            # A process started from a non-interactive shell inherits SIGINT as ignored, so it must be set again.
            try:
                loop.add_signal_handler(number, stop.set)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
        if seconds is not None:
            loop.call_later(seconds, stop.set)
        if on_start is not None:
            on_start()
        await stream(settings, stop, authority=authority, epoch=epoch)

    asyncio.run(body())


def log_to_file(folder: Path) -> Path:
    """Send the process's log to a rotating file in ``folder``; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOG_FILE
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run the process; return exit code 0 after a clean end, 1 with one line on stderr and in the log."""
    parser = argparse.ArgumentParser(prog="python -m v6_pipeline.streamer", description=__doc__)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--epoch", type=int, help="the epoch that the sensor claimed for this process")
    who.add_argument("--owned", action="store_true", help="wait until the sensor grants the lease")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        privacy.protect(settings)
        log_to_file(settings.log_dir)
        authority = Authority.OWNED if options.owned else Authority.SPAWNED
        run_process(settings, authority=authority, epoch=options.epoch)
    except V6Error as error:
        log.error("%s", error)  # noqa: TRY400  (the line says what to do; a traceback adds nothing)
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
