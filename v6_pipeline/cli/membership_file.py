"""The CSV file of ``v6 strategies import``: read and checked as a whole before anything is written."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from v6_pipeline.errors import UsageError

REQUIRED = ("strategy", "conid")
OPTIONAL = ("account", "quantity", "priority")


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """One row: a strategy uses a contract, in one account or any (``None``), a quantity of it or all (``None``)."""

    strategy: str
    conid: int
    account: str | None = None
    quantity: float | None = None
    priority: int


def read_memberships(path: Path, *, default_priority: int) -> list[Membership]:
    """The rows of a CSV file with the header ``strategy,conid`` and any of ``account,quantity,priority``.

    Raises:
        UsageError: the file cannot be read, or a row cannot be: file, line and field are named.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, skipinitialspace=True)
            _check_header(path, reader.fieldnames or ())
            rows = [
                _read_row(f"{path}, line {reader.line_num}", row, default_priority)
                for row in reader
                if any(value for value in row.values())
            ]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no CSV file in UTF-8: {error}") from None
    if not rows:
        raise UsageError(f"{path} has no rows under its header")
    return rows


def _check_header(path: Path, header: object) -> None:
    names = list(header) if isinstance(header, (list, tuple)) else []
    allowed = (*REQUIRED, *OPTIONAL)
    missing = [name for name in REQUIRED if name not in names]
    unknown = [name for name in names if name not in allowed]
    if missing or unknown or len(set(names)) != len(names):
        raise UsageError(
            f"{path}, line 1: the header is {','.join(names) or 'empty'}; it must have {','.join(REQUIRED)}, "
            f"may have {','.join(OPTIONAL)}, and each once"
        )


# None is csv's key for cells beyond the header.
def _read_row(place: str, row: Mapping[str | None, str | list[str] | None], default_priority: int) -> Membership:
    if None in row:
        raise UsageError(f"{place}: more fields than the header")
    cells = {name: value.strip() if isinstance(value, str) else "" for name, value in row.items() if name}
    return Membership(
        strategy=_strategy(place, cells["strategy"]),
        conid=_conid(place, cells["conid"]),
        account=cells.get("account") or None,
        quantity=_quantity(place, cells.get("quantity", "")),
        priority=_priority(place, cells.get("priority", ""), default_priority),
    )


def _strategy(place: str, text: str) -> str:
    from v6_pipeline.sync.registry import check_strategy

    try:
        check_strategy(text)
    except UsageError as error:
        raise UsageError(f"{place}, strategy: {error}") from None
    return text


def _conid(place: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**63:
        raise UsageError(f"{place}, conid: {text!r} is no conid: they are positive numbers")
    return int(text)


def _quantity(place: str, text: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number == 0:
        raise UsageError(f"{place}, quantity: {text!r} is no quantity: a number other than 0, or nothing for all")
    return number


def _priority(place: str, text: str, default: int) -> int:
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) > 1_000_000:
        raise UsageError(f"{place}, priority: {text!r} is not between 0 (most important) and 1000000")
    return int(text)
