"""Runs a paper gateway in a thread of its own, for callers without an event loop.

Belongs here: the thread and its loop. `gateway` uses no threads.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.config import GatewayConfig
from v6_pipeline.paper.gateway import PaperGateway

T = TypeVar("T")

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


class GatewayThread:
    """A running paper gateway, as a context manager.

    `call` runs a function in the gateway's loop; ports and the universe may be read from any thread.

    Raises:
        GatewayError: the gateway could not start; the message has the reason.
    """

    def __init__(self, config: GatewayConfig | None = None) -> None:
        self.gateway: PaperGateway
        self._config = config or GatewayConfig()
        self._started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="paper gateway", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None

    @property
    def port(self) -> int:
        """The API port."""
        return self.gateway.port

    @property
    def control_port(self) -> int:
        """The control port."""
        return self.gateway.control_port

    def call(self, function: Callable[[PaperGateway], T], timeout: float = 10.0) -> T:
        """Run `function` with the gateway in its loop and return what it returns, or raise what it raises."""
        if self._loop is None:
            raise GatewayError("the paper gateway's thread is not running")

        async def run() -> T:
            return function(self.gateway)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout)

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop = self._started.result(_START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.gateway.request_stop)
        self._thread.join(_STOP_SECONDS)
        self._loop = None
        if self._thread.is_alive():
            raise GatewayError(f"the paper gateway's thread did not end within {_STOP_SECONDS:g} s")
        if self._failure is not None and problem is None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as problem:  # noqa: BLE001 - raised in the thread that waits for it
            if self._started.done():
                self._failure = problem
            else:
                self._started.set_exception(problem)

    async def _serve(self) -> None:
        self.gateway = PaperGateway(self._config)
        async with self.gateway:
            self._started.set_result(asyncio.get_running_loop())
            await self.gateway.wait_stopped()
