"""A proxy before a server that stops to forward and closes nothing: it looks like a hung pooler or a dead link."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class StoppingProxy:
    """Forwards connections on a port of its own to those that ``connect`` opens; ``stop`` and ``resume`` at any time.

    While it has stopped it accepts new connections and bytes, and forwards neither.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._forwards = threading.Event()
        self._forwards.set()
        self._is_closed = False
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        self._forwards.set()
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(10)

    def stop(self) -> None:
        self._forwards.clear()

    def resume(self) -> None:
        self._forwards.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                self._ends.append(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        self._forwards.wait()
        if self._is_closed:
            return
        with contextlib.suppress(OSError), self._connect() as server:
            self._ends.append(server)
            answers = self._start(self._pump, server, client)
            self._pump(client, server)
            answers.join()

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(65536):
                self._forwards.wait()
                target.sendall(received)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
