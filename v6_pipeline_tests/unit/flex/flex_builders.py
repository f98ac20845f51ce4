"""Statements for tests, and files of them in a form of our own: the index is under test here, not the XML."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO

from v6_pipeline.errors import FlexError
from v6_pipeline.flex.model import FlexActivity, FlexActivityKind, FlexPosition, FlexStatement

FRIDAY = date(2026, 2, 27)
SATURDAY, SUNDAY = date(2026, 2, 28), date(2026, 3, 1)
MONDAY = date(2026, 3, 2)
GENERATED = datetime(2026, 3, 3, 10, tzinfo=UTC)


def position(conid: int = 265598, **given: Any) -> FlexPosition:
    values: dict[str, Any] = {"symbol": "AAPL", "sec_type": "STK", "currency": "USD", "position": 100.0}
    return FlexPosition(conid=conid, **values | given)


def activity(conid: int = 265598, **given: Any) -> FlexActivity:
    values: dict[str, Any] = {"kind": FlexActivityKind.TRADE, "quantity": 10.0, "activity_date": MONDAY}
    return FlexActivity(conid=conid, **values | given)


def statement(account: str = "U1", day: date = MONDAY, **given: Any) -> FlexStatement:
    """One day's statement of an account; ``sha256`` distinguishes it from others."""
    values: dict[str, Any] = {
        "from_date": day,
        "to_date": day,
        "generated_at": GENERATED,
        "sections": frozenset({"OpenPositions"}),
        "sha256": f"{account} {day}",
    }
    return FlexStatement(account=account, **values | given)


def write(path: Path, *statements: FlexStatement, whole: bool = True) -> Path:
    """A file of statements; an incomplete one ends after them."""
    with path.open("wb") as file:
        for each in statements:
            pickle.dump(each, file)
        if whole:
            pickle.dump("end", file)
    return path


def read(file: BinaryIO, name: str) -> Iterator[FlexStatement]:
    """The reader's part, for ``write``'s files."""
    while True:
        try:
            item = pickle.load(file)
        except (EOFError, pickle.UnpicklingError):
            raise FlexError(f"{name}: the document breaks off") from None
        if item == "end":
            return
        yield item
