"""What the product needs of a Flex query, which of it a statement does not have, and what is unknown without it. Pure.

IB writes each field that a query has, empty ones too: a field that no row of a section has is not in the query.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from v6_pipeline.flex.activity import CORPORATE_ACTIONS, EXERCISES, LEVELS, TRADES, TRANSFERS, unread_levels
from v6_pipeline.flex.values import Row

POSITIONS, ACCOUNT = "OpenPositions", "AccountInformation"
TITLES: Mapping[str, str] = {
    POSITIONS: "Open Positions",
    ACCOUNT: "Account Information",
    TRADES: "Trades",
    EXERCISES: "Option Exercises, Assignments and Expirations",
    TRANSFERS: "Transfers",
    CORPORATE_ACTIONS: "Corporate Actions",
}
"""Sections that are read, by the name that Client Portal gives them."""
_WITHOUT_SECTION: Mapping[str, str] = {
    ACCOUNT: "the base currency is unknown, and so is each sum over currencies",
    TRADES: "realized profit is unknown, and changes of quantities are not explained",
    EXERCISES: "cash settlements of index options are missing from realized profit",
    TRANSFERS: "positions that were transferred are not explained",
    CORPORATE_ACTIONS: "splits, mergers and changed contracts are not explained",
}
_OPTIONS = frozenset({"OPT", "FOP", "FSOPT", "FSFOP", "WAR", "IOPT"})
_DERIVATIVES = _OPTIONS | {"FUT"}


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a section, what is unknown without it, and the asset categories that need it (None: all)."""

    section: str
    name: str
    unknown: str
    categories: frozenset[str] | None = None


_FIELDS = (
    _Field(POSITIONS, "strike", "the strike of options that are not named by the OCC", _OPTIONS),
    _Field(POSITIONS, "putCall", "the right of options that are not named by the OCC", _OPTIONS),
    _Field(POSITIONS, "expiry", "the expiry of futures, and of options that are not named by the OCC", _DERIVATIVES),
    _Field(POSITIONS, "multiplier", "the value of futures and options without one of IB's", _DERIVATIVES),
    _Field(POSITIONS, "underlyingConid", "the underlying of options: they are in no sum with it", _OPTIONS),
    _Field(POSITIONS, "underlyingSymbol", "the symbol of the underlying of options", _OPTIONS),
    _Field(POSITIONS, "markPrice", "the prices of days"),
    _Field(POSITIONS, "positionValue", "IB's value of positions: it is computed from the mark"),
    _Field(POSITIONS, "costBasisMoney", "average costs"),
    _Field(POSITIONS, "fifoPnlUnrealized", "IB's unrealized profit: it is computed from the cost"),
    _Field(POSITIONS, "fxRateToBase", "the rates to the base currency"),
    _Field(TRADES, "fifoPnlRealized", "realized profit"),
    _Field(TRADES, "reportDate", "the day of bookings that are later than the trade"),
    _Field(EXERCISES, "realizedPnl", "what exercises and settlements realized"),
)


def lacking(sections: Collection[str], rows: Mapping[str, Sequence[Row]]) -> tuple[str, ...]:
    """Return what a statement with these sections and rows does not have, as codes that ``explain`` reads.

    A section is its name, a field is section.field, a section at levels of detail that are not read is section@levels.
    """
    found = [section for section in _WITHOUT_SECTION if section not in sections]
    unread = {section: unread_levels(section, rows.get(section, ())) for section in LEVELS}
    found += [f"{section}@{'+'.join(levels)}" for section, levels in unread.items() if levels]
    for one in _FIELDS:
        of = [
            row
            for row in rows.get(one.section, ())
            if one.categories is None or row.text("assetCategory") in one.categories
        ]
        if of and not any(one.name in row.attributes for row in of):
            found.append(f"{one.section}.{one.name}")
    return tuple(sorted(found))


def explain(codes: Iterable[str]) -> str | None:
    """Return one line on what a query does not have and what is unknown without it; None if nothing is lacking."""
    ones = [_explain(code) for code in sorted(set(codes))]
    return f"the Flex query has {'; '.join(ones)}: add that in Client Portal" if ones else None


def _explain(code: str) -> str:
    section, _, levels = code.partition("@")
    if levels:
        wanted = LEVELS[section][0].capitalize() if section in LEVELS else "Detail"
        return f"{TITLES.get(section, section)} at {levels.replace('+', ', ')} alone, not at {wanted}"
    section, _, name = code.partition(".")
    title = TITLES.get(section, section)
    if not name:
        return f"no section {title} ({_WITHOUT_SECTION.get(section, 'it is not read')})"
    unknown = next((one.unknown for one in _FIELDS if (one.section, one.name) == (section, name)), "it is not read")
    return f"no field {name} in {title} (unknown: {unknown})"
