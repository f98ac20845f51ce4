"""How far long work is: a bar on stderr for a person at a terminal; nothing for a file, a pipe, or with ``--json``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Item = TypeVar("Item")
Done = tuple[int, int | None]
"""How much is done, and of how much, if that is known."""


class Above(logging.Handler):
    """Writes to the stderr of the moment, which is above a bar while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  as every handler of logging does
            self.handleError(record)


def each(items: Sequence[Item], label: str, *, shown: bool) -> Iterator[Item]:
    """The items one by one, with a bar over them."""
    done = 0
    with bar(label, lambda: (done, len(items)), shown=shown):
        for item in items:
            yield item
            done += 1


@contextmanager
def bar(label: str, done: Callable[[], Done], *, shown: bool, console: Console | None = None) -> Iterator[None]:
    """A bar while the block runs.

    Args:
        label: what is done.
        done: asked several times a second, from a thread of its own.
        shown: off for ``--json``.
        console: where to; stderr by default.
    """
    if not shown or (console is None and not sys.stderr.isatty()):
        yield  # without the time that importing rich takes
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield
        return

    class Polled(Progress):
        """Asks how far the work is each time that it is drawn."""

        def get_renderables(self) -> Iterable[RenderableType]:
            for task in self.task_ids:
                completed, total = done()
                self.update(task, completed=completed, total=total)
            return super().get_renderables()

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # What the work prints on stdout is its result, and stays there.
    with Polled(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        progress.add_task(label, total=None)
        yield
