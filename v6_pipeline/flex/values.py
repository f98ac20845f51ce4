"""Strict parsers of the attributes of a Flex statement: text to values. Pure.

The query decides how IB writes dates and times, so several forms are accepted; forms with two readings (month first or
day first) are refused. An empty text is unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TypeVar
from zoneinfo import ZoneInfo

from v6_pipeline.errors import FlexError
from v6_pipeline.model import UNSET_FROM

T = TypeVar("T")

_NEW_YORK = ZoneInfo("America/New_York")
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d*)(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})", re.ASCII)
_TIME = re.compile(r"(\d{2}):?(\d{2}):?(\d{2})", re.ASCII)
_ZONE = re.compile(r"\s*(EST|EDT|ET|America/New_York|UTC|GMT|Z|[+-]\d{2}:?\d{2})$")


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
    """Parse a date, yyyyMMdd or yyyy-MM-dd; a time after it is ignored.

    Raises:
        ValueError: the text is not a date, or has two readings.
    """
    found = _DATE.match(text.strip())
    rest = text.strip()[found.end() :] if found else ""
    if not found or (rest and not re.match(r"[;, T]", rest)):
        raise ValueError("is no date as yyyyMMdd or yyyy-MM-dd: set that date format in the Flex query")
    try:
        return date(*(int(part) for part in found.groups()))
    except ValueError:
        raise ValueError("is no date") from None


def instant(text: str) -> datetime:
    """Parse a date and time of New York, unless the text names another zone; the result is UTC.

    Raises:
        ValueError: the text is not a date and time.
    """
    of = day(text)
    found = _DATE.match(text.strip())
    rest = text.strip()[found.end() :].lstrip(";, T") if found else ""
    zone_found = _ZONE.search(rest)
    zone = _zone(zone_found.group(1)) if zone_found else _NEW_YORK
    clock = _TIME.fullmatch(rest[: zone_found.start()] if zone_found else rest)
    if clock is None:
        raise ValueError("is no date and time as yyyyMMdd;HHmmss")
    hour, minute, second = (int(part) for part in clock.groups())
    try:
        return datetime(of.year, of.month, of.day, hour, minute, second, tzinfo=zone).astimezone(UTC)
    except ValueError:
        raise ValueError("is no time") from None


def _zone(name: str) -> ZoneInfo:
    if name in {"UTC", "GMT", "Z"}:
        return ZoneInfo("UTC")
    if name[0] in "+-":
        raise ValueError("has an offset: let the Flex query write New York's time")
    return _NEW_YORK


@dataclass(frozen=True, slots=True)
class Row:
    """An element's attributes, and its place for messages."""

    where: str
    attributes: Mapping[str, str]

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
