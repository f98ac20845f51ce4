"""Progress of long work: a bar on stderr at a terminal; nothing for a file, a pipe, or with ``--json``."""

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
"""Number done, and total if it is known."""


class Above(logging.Handler):
    """Writes to the current ``sys.stderr``, which is above the bar while one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  as every handler of logging does
            self.handleError(record)


def each(items: Sequence[Item], label: str, *, shown: bool) -> Iterator[Item]:
    """Yield the items, with a bar of how many are done."""
    done = 0
    with bar(label, lambda: (done, len(items)), shown=shown):
        for item in items:
            yield item
            done += 1


@contextmanager
def bar(label: str, done: Callable[[], Done], *, shown: bool, console: Console | None = None) -> Iterator[None]:
    """Show a bar on stderr while the block runs; ``done`` is called several times a second, from another thread."""
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
        """Updates the number done each time that it is drawn."""

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
    # Output of the work on stdout is its result and must not be redirected.
    with Polled(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        progress.add_task(label, total=None)
        yield
