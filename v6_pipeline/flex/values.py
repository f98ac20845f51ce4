"""Attributes of Flex elements as values: numbers, ids, dates and times in the forms that a query can choose. Pure.

The query's delivery settings decide how IB writes dates and times. Dates: yyyyMMdd, yyyy-MM-dd, dd-MMM-yy; forms with
slashes have two readings (month first or day first) and are refused. Times: HHmmss, HH:mm:ss, with or without a zone.
Between date and time: semicolon, comma, space, T or nothing. An empty text is unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import TypeVar
from zoneinfo import ZoneInfo

from v6_pipeline.errors import FlexError
from v6_pipeline.model import UNSET_FROM

T = TypeVar("T")

_NEW_YORK = ZoneInfo("America/New_York")
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d*)(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"(?P<year>\d{4})(?P<dash>-?)(?P<month>\d{2})(?P=dash)(?P<day>\d{2})", re.ASCII)
_NAMED_MONTH = re.compile(r"(?P<day>\d{2})-(?P<month>[A-Za-z]{3})-(?P<year>\d{2})", re.ASCII)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_TIME = re.compile(r"(\d{2}):?(\d{2}):?(\d{2})", re.ASCII)
_SEPARATORS = ";, T"
_ZONE = re.compile(r"\s*(EST|EDT|ET|America/New_York|US/Eastern|UTC|GMT|Z|[+-]\d{2}:?\d{2})$")


def number(text: str) -> float:
    """Parse a decimal number, with or without commas between thousands.

    Raises:
        ValueError: the text is not a number.
    """
    digits = text.strip()
    if not digits or not _NUMBER.fullmatch(digits) or not any(sign.isdigit() for sign in digits):
        raise ValueError("is no number")
    value = float(digits.replace(",", ""))
    if not math.isfinite(value) or abs(value) >= UNSET_FROM:
        raise ValueError("is no number")
    return value


def integer(text: str) -> int:
    """Parse an id: a whole number above 0.

    Raises:
        ValueError: the text is not an id.
    """
    if not re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII) or int(text) == 0:
        raise ValueError("is no id")
    return int(text)


def day(text: str) -> date:
    """Parse a date, yyyyMMdd, yyyy-MM-dd or dd-MMM-yy; a time after it is ignored.

    Raises:
        ValueError: the text is not a date, or has two readings.
    """
    found, rest = _split(text)
    if rest and _clock(rest) is None and rest[0] not in _SEPARATORS:
        raise ValueError(_NO_DATE)
    return found


def instant(text: str) -> datetime:
    """Parse a date and time of New York, unless the text names another zone; the result is UTC.

    Raises:
        ValueError: the text is not a date and time.
    """
    of, rest = _split(text)
    clock = _clock(rest)
    if clock is None:
        raise ValueError("is no date and time as yyyyMMdd;HHmmss: set that in the Flex query's delivery settings")
    (hour, minute, second), zone = clock
    try:
        return datetime(of.year, of.month, of.day, hour, minute, second, tzinfo=zone).astimezone(UTC)
    except ValueError:
        raise ValueError("is no time") from None


_NO_DATE = "is no date as yyyyMMdd or yyyy-MM-dd: set that date format in the Flex query"


def _split(text: str) -> tuple[date, str]:
    """Return the date at the beginning of a text, and the text behind it."""
    given = text.strip()
    found = _DATE.match(given) or _NAMED_MONTH.match(given)
    if found is None:
        raise ValueError(_NO_DATE)
    year, month = int(found["year"]), found["month"]
    try:
        number_of_month = int(month) if month.isdigit() else _MONTHS.index(month.upper()) + 1
        return date(year if year > 99 else 2000 + year, number_of_month, int(found["day"])), given[found.end() :]
    except ValueError:
        raise ValueError("is no date") from None


def _clock(rest: str) -> tuple[tuple[int, int, int], tzinfo] | None:
    """Return hours, minutes, seconds and zone of the text behind a date; None if it is no time."""
    written = rest.lstrip(_SEPARATORS)
    zone = _ZONE.search(written)
    found = _TIME.fullmatch(written[: zone.start()] if zone else written)
    if found is None:
        return None
    hour, minute, second = (int(part) for part in found.groups())
    return (hour, minute, second), _zone(zone.group(1)) if zone else _NEW_YORK


def _zone(name: str) -> tzinfo:
    if name in {"UTC", "GMT", "Z"}:
        return UTC
    if name[0] in "+-":
        hours, minutes = int(name[1:3]), int(name[-2:])
        offset = timedelta(hours=hours, minutes=minutes)
        if offset >= timedelta(days=1):
            raise ValueError("has an offset of a day or more")
        return timezone(-offset if name[0] == "-" else offset)
    return _NEW_YORK


@dataclass(frozen=True, slots=True)
class Row:
    """An element's attributes, and its place for messages: that of its statement, and its own number in the section."""

    statement: str
    attributes: Mapping[str, str]
    element: str = ""
    number: int = 0

    @property
    def where(self) -> str:
        """File, statement, element and symbol."""
        if not self.element:
            return self.statement
        symbol = self.text("symbol")
        return f"{self.statement}, {self.element} {self.number}" + (f" ({symbol})" if symbol else "")

    @property
    def level(self) -> str:
        """Level of detail in capitals; empty if the row has none."""
        return (self.text("levelOfDetail") or "").upper()

    def text(self, name: str) -> str | None:
        """Return an attribute's text; None if it is missing or empty."""
        return self.attributes.get(name, "").strip() or None

    def optional(self, name: str, parse: Callable[[str], T]) -> T | None:
        """Return an attribute's value; None if it is missing or empty.

        Raises:
            FlexError: the text cannot be parsed.
        """
        text = self.text(name)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise self.refuse(name, f"{text[:40]!r} {error}") from None

    def required(self, name: str, parse: Callable[[str], T]) -> T:
        """Return an attribute's value.

        Raises:
            FlexError: it is missing, empty, or cannot be parsed.
        """
        value = self.optional(name, parse)
        if value is None:
            raise self.refuse(name, "is missing: add that field to the Flex query")
        return value

    def refuse(self, name: str, why: str) -> FlexError:
        """Return an error that names file, statement, row and field."""
        return FlexError(f"{self.where}: {name} {why}")

    def others(self, used: frozenset[str]) -> tuple[tuple[str, str], ...]:
        """Return the attributes that no field uses, without empty ones, sorted."""
        return tuple(
            sorted((name, text) for name, text in self.attributes.items() if name not in used and text.strip())
        )
