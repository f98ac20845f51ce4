"""What a person or a program reads: tables or one JSON document on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table
    from rich.tree import Tree

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

Branch = tuple[str, tuple["Branch", ...]]
"""A line of a tree and what hangs below it."""

_PIPE_WIDTH = 10_000
"""Columns of a line that goes to a file or another program: a table is as wide as it is."""


def line(text: str) -> None:
    """One line of result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def notice(text: str) -> None:
    """One line beside the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def error(text: str) -> None:
    """Why the command failed, as one line whatever the text holds."""
    notice("error: " + " ".join(text.split()))


def document(content: Mapping[str, Any]) -> None:
    """The result as JSON, on one line: instants in ISO 8601, what is not a number as null."""
    line(json.dumps(_plain(content), allow_nan=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """Rows under their headings.

    Args:
        columns: the headings.
        rows: a cell per column; ``None`` is shown as nothing.
        numbers: headings of columns that are aligned to the right.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        # Text, for a name may hold what rich takes for markup.
        shown.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    _print(shown)


def tree(root: Branch) -> None:
    """Lines with what hangs below each."""
    from rich.text import Text
    from rich.tree import Tree

    def grow(branch: Branch) -> Tree:
        # Text, for a name may hold what rich takes for markup.
        grown = Tree(Text(branch[0]))
        grown.children.extend(grow(child) for child in branch[1])
        return grown

    _print(grow(root))


def amount(value: float | None, *, digits: int = 2) -> str:
    """A number with thousands separated; nothing if it is unknown."""
    return "" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def quantity(value: float | None) -> str:
    """A quantity without zeros that say nothing."""
    return "" if value is None else f"{value:,.10g}"


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun, whose plural ends in s if none is given."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """A time span in its largest sensible unit."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _print(shown: Table | Tree) -> None:
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=_PIPE_WIDTH)
    console.print(shown)


def _plain(value: Any) -> Any:  # noqa: ANN401  (JSON)
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return str(value)
