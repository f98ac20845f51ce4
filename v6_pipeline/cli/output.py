"""Output: tables or one JSON document on stdout, everything else on stderr."""

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
"""A line of a tree and its children."""

_PIPE_WIDTH = 10_000
"""Columns of output to a file or a pipe, so that no table is wrapped."""


def line(text: str) -> None:
    """Print one line of result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def notice(text: str) -> None:
    """Print one line on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def error(text: str) -> None:
    """Print why the command failed, as one line even if the text has several."""
    notice("error: " + " ".join(text.split()))


def result(content: Mapping[str, Any], *lines: str, as_json: bool) -> None:
    """Print the result as one line of JSON, or else as ``lines``."""
    if as_json:
        document(content)
        return
    for text in lines:
        line(text)


def document(content: Mapping[str, Any]) -> None:
    """Print the result as one line of JSON: instants in ISO 8601, NaN and infinity as null."""
    line(json.dumps(_plain(content), allow_nan=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """Print rows under their headings, ``None`` as empty; the columns ``numbers`` are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        # As Text: a name may contain what rich reads as markup.
        shown.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    _print(shown)


def tree(root: Branch) -> None:
    """Print a line and its children as a tree."""
    from rich.text import Text
    from rich.tree import Tree

    def grow(branch: Branch) -> Tree:
        # As Text: a name may contain what rich reads as markup.
        grown = Tree(Text(branch[0]))
        grown.children.extend(grow(child) for child in branch[1])
        return grown

    _print(grow(root))


def amount(value: float | None, *, digits: int = 2) -> str:
    """Format a number with thousands separators; empty if it is unknown."""
    return "" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def quantity(value: float | None) -> str:
    """Format a quantity without trailing zeros."""
    return "" if value is None else f"{value:,.10g}"


def counted(number: int, one: str, many: str = "") -> str:
    """Format a number with its noun; the plural ends in s unless given."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """Format a time span in its largest sensible unit."""
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
