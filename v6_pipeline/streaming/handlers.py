"""Handlers of streamed positions: the protocol, and the dispatcher that isolates a slow one from the others.

The Delta writer is one handler; the setting ``V6_HANDLERS`` names further ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, runtime_checkable

from v6_pipeline.errors import FencedError, SettingsError
from v6_pipeline.model import PositionUpdate
from v6_pipeline.plugins import make_all
from v6_pipeline.settings import Settings
from v6_pipeline.streaming.status import HandlerStatus

log = logging.getLogger(__name__)


@runtime_checkable
class PositionUpdateHandler(Protocol):
    """Receiver of streamed positions."""

    async def on_position_update(self, update: PositionUpdate) -> None:
        """Handle an update of a streamed holding; called in order per (account, conid).

        A handler that is busy while several updates of one holding arrive gets only the newest. An exception is counted
        and logged, and the next update is delivered.
        """


class _Mailbox:
    """The updates that wait for one handler: only the newest per (account, conid)."""

    def __init__(self, name: str, handler: PositionUpdateHandler) -> None:
        self.name = name
        self._handler = handler
        self._waiting: OrderedDict[tuple[str, int], PositionUpdate] = OrderedDict()
        self._filled = asyncio.Event()
        self._handled = 0
        self._conflated = 0
        self._failed = 0
        self._last_error: str | None = None

    def put(self, update: PositionUpdate) -> None:
        if self._waiting.pop(update.key, None) is not None:
            self._conflated += 1
        self._waiting[update.key] = update
        self._filled.set()

    async def run(self) -> None:
        while True:
            await self._filled.wait()
            await self.drain()

    async def drain(self) -> None:
        while self._waiting:
            _, update = self._waiting.popitem(last=False)
            try:
                await self._handler.on_position_update(update)
            except FencedError:
                raise
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    self._put_back(update)
                    raise
                self._note_failure(update, error)  # the handler awaited something that was cancelled
            except Exception as error:  # noqa: BLE001
                # A handler is user code: whatever it raises counts as its failure and shows in the streamer's status.
                self._note_failure(update, error)
            else:
                self._handled += 1
        self._filled.clear()

    def _put_back(self, update: PositionUpdate) -> None:
        """Return an interrupted update to the front, unless a newer one of its holding waits."""
        if update.key in self._waiting:
            self._conflated += 1
            return
        self._waiting[update.key] = update
        self._waiting.move_to_end(update.key, last=False)

    def _note_failure(self, update: PositionUpdate, error: BaseException) -> None:
        self._failed += 1
        self._last_error = f"{type(error).__name__}: {error}"
        log.error("handler %s failed on contract %d", self.name, update.conid, exc_info=error)

    def status(self) -> HandlerStatus:
        return HandlerStatus(
            self.name, self._handled, self._conflated, self._failed, len(self._waiting), self._last_error
        )


class HandlerDispatcher:
    """Delivers each update to every handler; each handler works at its own pace."""

    def __init__(self, handlers: dict[str, PositionUpdateHandler]) -> None:
        self._mailboxes = [_Mailbox(name, handler) for name, handler in handlers.items()]

    def publish(self, update: PositionUpdate) -> None:
        """Put an update into every handler's mailbox; never waits."""
        for mailbox in self._mailboxes:
            mailbox.put(update)

    async def run(self) -> None:
        """Serve the mailboxes until cancelled.

        Raises:
            FencedError: a handler found that another streamer has taken over.
        """
        await _together(mailbox.run() for mailbox in self._mailboxes)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109
        """Deliver the waiting updates for at most ``timeout`` seconds, before the writer's last flush.

        ``run`` must have ended.

        Raises:
            FencedError: like ``run``.
        """
        try:
            async with asyncio.timeout(timeout):
                await _together(mailbox.drain() for mailbox in self._mailboxes)
        except TimeoutError:
            log.warning(
                "handlers still busy %g s after the end of the stream: their waiting updates are dropped", timeout
            )

    def status(self) -> tuple[HandlerStatus, ...]:
        """Return one entry per handler."""
        return tuple(mailbox.status() for mailbox in self._mailboxes)


def load_handlers(settings: Settings) -> dict[str, PositionUpdateHandler]:
    """Build the handlers that ``V6_HANDLERS`` names; each factory is called with the settings.

    Raises:
        SettingsError: a module or factory does not exist or fails, or its result is no handler.
    """
    made = make_all("V6_HANDLERS", settings.handlers, settings)
    return {spec: _checked(spec, handler) for spec, handler in made.items()}


def _checked(spec: str, handler: object) -> PositionUpdateHandler:
    if not isinstance(handler, PositionUpdateHandler):
        raise SettingsError(f"V6_HANDLERS: {spec} made a {type(handler).__name__} without on_position_update(update)")
    return handler


def _is_cancelled() -> bool:
    """Return whether the running task itself is being cancelled, as opposed to something that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all until the last ends or one fails; a failure cancels the others and is raised unchanged."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
