"""The reaction to each of IB's message codes: one table, and the few facts that a code's text carries.

Pure data and pure functions. The codes are IBKR's (https://interactivebrokers.github.io/tws-api/message_codes.html);
where practice and documentation differ, practice decides, with the reason next to it.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Reaction(enum.StrEnum):
    """The product's reaction to a code."""

    INFORM = "inform"
    """Nothing fails; the text goes to the log."""
    FAIL_REQUEST = "fail_request"
    """The request that the code names has ended; a line that it held is free."""
    NO_DATA = "no_data"
    """The request is answered, and the answer is empty."""
    LINES_EXHAUSTED = "lines_exhausted"
    """TWS and API together hold all lines: release this one, and do not request it again at once."""
    BACK_OFF = "back_off"
    """Messages came too fast: all processes slow down. Code 100 drops a message without naming it, so it starts a new
    session as well."""
    FEED_LOST = "feed_lost"
    """The account feed went to another client or account."""
    LINK_LOST = "link_lost"
    """The gateway lost IB's servers: data is stale until it reports them back. The socket stays open."""
    RESUBSCRIBE = "resubscribe"
    """The link is back and market data was lost: subscribe to all of it again."""
    VERIFY = "verify"
    """The link is back and IB reports market data as kept: verified by ticks, else subscribed again."""
    FARM_BROKEN = "farm_broken"
    """One of IB's market data farms is disconnected: its contracts are stale until it is back and they tick."""
    FARM_OK = "farm_ok"
    """A market data farm is connected; if it was broken, its streams are verified as after ``VERIFY``."""
    COMPETING_SESSION = "competing_session"
    """The username's data goes to another login (TWS, phone, paper or live): requests stay open, without ticks."""
    RECONNECT = "reconnect"
    """The socket is unusable: connect again."""
    ID_IN_USE = "id_in_use"
    """Another client has this client id: wait, because an old session lingers, or take another id."""
    TOO_OLD = "too_old"
    """The gateway's protocol version is too old for ib_async: only an upgrade helps, so attempts are rare."""
    UNWANTED = "unwanted"
    """A code about orders, which this product never sends: it must not appear."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The reaction to some codes; where ``text`` is given, only if IB's text contains it (in any case)."""

    codes: tuple[int, ...]
    meaning: str
    reaction: Reaction
    text: str = ""


RULES: tuple[Rule, ...] = (
    Rule((100,), "message rate exceeded", Reaction.BACK_OFF),
    Rule((101,), "no market-data line left, TWS's own included", Reaction.LINES_EXHAUSTED),
    # Market-data requests are repeated once after 102, 200 and 321, each in another way: ``ib.market_data``.
    Rule((102,), "ticker id in use", Reaction.FAIL_REQUEST),
    Rule((*range(103, 111), 201, 202, 203, 399, 404, 434, 10147, 10148), "orders", Reaction.UNWANTED),
    Rule((162,), "history: asked too often", Reaction.BACK_OFF, text="pacing"),
    Rule((162,), "history: there is none", Reaction.NO_DATA, text="no data"),
    Rule((162,), "history: no permission, cancelled, or another failure", Reaction.FAIL_REQUEST),
    Rule((165,), "history: a notice", Reaction.INFORM),
    Rule((166,), "history of an expired contract", Reaction.FAIL_REQUEST),
    Rule((200,), "no contract, or more than one, fits", Reaction.FAIL_REQUEST),
    # Drawn by the cancel of a request that IB has ended already. It never names a live request, so it can end none.
    # Without a recent cancel it is counted, with one warning.
    Rule((300,), "cancel of an unknown ticker id", Reaction.INFORM),
    Rule((309, 316, 317), "market depth, which is not used", Reaction.INFORM),
    # 321 is also the refusal of what a read-only API must not do.
    Rule((320, 321, 322, 323), "the request cannot be read, is invalid or failed", Reaction.FAIL_REQUEST),
    Rule((326,), "client id in use", Reaction.ID_IN_USE),
    Rule((354,), "not subscribed to the data", Reaction.FAIL_REQUEST),
    Rule((366,), "cancel of a history request that has ended", Reaction.INFORM),
    Rule((478,), "what was sent contradicts the conid, as an old symbol does", Reaction.FAIL_REQUEST),
    Rule((420,), "real-time query: asked too often", Reaction.BACK_OFF, text="pacing"),
    Rule((420,), "real-time query: not entitled", Reaction.FAIL_REQUEST),
    Rule((501,), "connected already", Reaction.INFORM),
    Rule((503,), "gateway too old", Reaction.TOO_OLD),
    Rule((502, 504, *range(505, 510)), "no connection, or its protocol failed", Reaction.RECONNECT),
    Rule((1100, 2110), "link to IB's servers lost", Reaction.LINK_LOST),
    Rule((1101,), "link restored, market data lost", Reaction.RESUBSCRIBE),
    Rule((1102,), "link restored, market data kept", Reaction.VERIFY),
    Rule((1300,), "the gateway's port was changed", Reaction.RECONNECT),
    Rule((2100, 2101), "account feed evicted or refused", Reaction.FEED_LOST),
    Rule((2103,), "market data farm broken", Reaction.FARM_BROKEN),
    Rule((2104,), "market data farm connected", Reaction.FARM_OK),
    # Nothing streams from these two farms: requests to them fail or wait, each with its own deadline.
    Rule((2105, 2157), "history or contract definition farm broken", Reaction.INFORM),
    Rule((2106, 2158), "history or contract definition farm connected", Reaction.INFORM),
    Rule((2107, 2108, 2119), "farm inactive until needed, or connecting", Reaction.INFORM),
    # Advisories: part of the data is missing or delayed, the rest continues. As errors they would end good streams.
    Rule((10089, 10090, 10091, 10167), "part not subscribed, or shown delayed", Reaction.INFORM),
    Rule((10168, 10186), "not subscribed, and delayed data is not enabled", Reaction.FAIL_REQUEST),
    Rule((10182,), "live update failed, disconnected", Reaction.RECONNECT),
    Rule((10187, 10189, 10190), "tick-by-tick data refused", Reaction.FAIL_REQUEST),
    Rule((10197,), "another login has the live data", Reaction.COMPETING_SESSION),
    Rule((10225,), "real-time bars were corrected", Reaction.INFORM),
)
"""Every known code; the first matching rule decides."""

_BY_CODE: dict[int, tuple[Rule, ...]] = {}
for _rule in RULES:
    for _code in _rule.codes:
        _BY_CODE[_code] = (*_BY_CODE.get(_code, ()), _rule)

_NOT_SUBSCRIBED = frozenset({354, 10089, 10090, 10091, 10167, 10168, 10186})
_HEALTHY = frozenset({2104, 2106, 2107, 2108, 2119, 2158})
_FARM = re.compile(r":\s*([A-Za-z][\w.]*)\s*$")
_FARMS_AWAY = re.compile(r"not connected:\s*((?:[\w.]+[;\s]*)+)")
_PORT = re.compile(r"\bport\b\D*(\d{2,5})\b", re.IGNORECASE)


def reaction_to(code: int, text: str = "") -> Reaction:
    """Return the reaction to a code; an unlisted one only informs, since an advisory must never end a stream."""
    folded = text.casefold()
    for rule in _BY_CODE.get(code, ()):
        if rule.text in folded:
            return rule.reaction
    return Reaction.INFORM


def may_refuse(code: int, text: str = "") -> bool:
    """Return whether a message without a request id may be the refusal of a request, which IB leaves without an answer.

    True for what fails a request, and for unknown codes outside of the ranges of notices (1100 to 1300, 2100 to 2199).
    """
    if code in _BY_CODE:
        return reaction_to(code, text) is Reaction.FAIL_REQUEST
    return not (1100 <= code <= 1300 or 2100 <= code < 2200)


def is_unsubscribed(code: int, text: str = "") -> bool:
    """Return whether the code means that the login has no, or not full, permission for a contract's data."""
    # IB sends 420 for requests that are too fast as well.
    return code in _NOT_SUBSCRIBED or (code == 420 and "permission" in text.casefold())


def is_healthy_notice(code: int) -> bool:
    """Return whether the code is one of the 'farm is OK' notices that every connection begins with."""
    return code in _HEALTHY


def farm_of(text: str) -> str:
    """Return the farm at the end of a notice, ``usfarm`` of ``...farm connection is OK:usfarm``; empty if none."""
    found = _FARM.search(text)
    return found[1] if found else ""


def farms_away(text: str) -> tuple[str, ...]:
    """Return the farms that the text of code 1102 lists as not connected."""
    found = _FARMS_AWAY.search(text)
    return tuple(name.strip(" .") for name in found[1].split(";") if name.strip(" .")) if found else ()


def new_port(text: str) -> int | None:
    """Return the port that code 1300 names, on which the gateway listens from now on."""
    found = _PORT.search(text)
    return int(found[1]) if found and 0 < int(found[1]) <= 65535 else None
