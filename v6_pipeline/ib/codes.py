"""What each of IB's message codes asks for: one table, and the few facts that a code's text carries.

Pure data and pure functions. The codes are IBKR's (https://interactivebrokers.github.io/tws-api/message_codes.html);
where practice and documentation differ, practice decides, with the reason beside it.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Reaction(enum.StrEnum):
    """What the product does on a code."""

    INFORM = "inform"
    """Nothing fails; the text goes to the log."""
    FAIL_REQUEST = "fail_request"
    """The request that it names is over; a line that it held is free."""
    NO_DATA = "no_data"
    """The request is answered, and the answer is empty."""
    LINES_EXHAUSTED = "lines_exhausted"
    """TWS and API together hold all lines: give this one back, do not ask again at once."""
    BACK_OFF = "back_off"
    """Messages came too fast: all processes send less. After 100, which drops a message without saying which, a new
    session begins as well."""
    FEED_LOST = "feed_lost"
    """The account feed went to another client or account."""
    LINK_LOST = "link_lost"
    """The gateway lost IB's servers: data is stale until it says otherwise. The socket stays."""
    RESUBSCRIBE = "resubscribe"
    """The link is back and market data was lost: ask for all of it again."""
    VERIFY = "verify"
    """The link is back and market data is said to be kept: believed once it ticks, else asked for again."""
    FARM_BROKEN = "farm_broken"
    """One of IB's market data farms is away: its contracts are stale until it is back and they tick."""
    FARM_OK = "farm_ok"
    """A market data farm is connected; after it was broken its streams are verified like after ``VERIFY``."""
    COMPETING_SESSION = "competing_session"
    """The username's data goes to another login (TWS, phone, paper or live): requests stay open, without ticks."""
    RECONNECT = "reconnect"
    """The socket is of no more use."""
    ID_IN_USE = "id_in_use"
    """Another client has this client id: wait, for an old session lingers, or take another id."""
    TOO_OLD = "too_old"
    """The gateway does not speak a version that ib_async knows: only an upgrade helps, so attempts are rare."""
    UNWANTED = "unwanted"
    """An order-side code: this product never sends orders, so it must not appear."""


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
    # Of market data 102, 200 and 321 are asked for once more, each in another way: ``ib.market_data``.
    Rule((102,), "ticker id in use", Reaction.FAIL_REQUEST),
    Rule((*range(103, 111), 201, 202, 203, 399, 404, 434, 10147, 10148), "orders", Reaction.UNWANTED),
    Rule((162,), "history: asked too often", Reaction.BACK_OFF, text="pacing"),
    Rule((162,), "history: there is none", Reaction.NO_DATA, text="no data"),
    Rule((162,), "history: no permission, cancelled, or another failure", Reaction.FAIL_REQUEST),
    Rule((165,), "history: a notice", Reaction.INFORM),
    Rule((166,), "history of an expired contract", Reaction.FAIL_REQUEST),
    Rule((200,), "no contract, or more than one, fits", Reaction.FAIL_REQUEST),
    # Cancelling what IB has ended already draws it. It never names a live request, so it can end none. Where nothing
    # was cancelled it is counted, and warned of once.
    Rule((300,), "cancel of an unknown ticker id", Reaction.INFORM),
    Rule((309, 316, 317), "market depth, which is not used", Reaction.INFORM),
    # 321 is also the refusal of what a read-only API must not do.
    Rule((320, 321, 322, 323), "the request cannot be read, is invalid or failed", Reaction.FAIL_REQUEST),
    Rule((326,), "client id in use", Reaction.ID_IN_USE),
    Rule((354,), "not subscribed to the data", Reaction.FAIL_REQUEST),
    Rule((366,), "cancel of a history request that has ended", Reaction.INFORM),
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
    # Nothing streams from these two: what is asked of them fails or waits, each with its own deadline.
    Rule((2105, 2157), "history or contract definition farm broken", Reaction.INFORM),
    Rule((2106, 2158), "history or contract definition farm connected", Reaction.INFORM),
    Rule((2107, 2108, 2119), "farm inactive until needed, or connecting", Reaction.INFORM),
    # Advisories: part of the data is missing or delayed, and the rest goes on. Taken for errors they end good streams.
    Rule((10089, 10090, 10091, 10167), "part not subscribed, or shown delayed", Reaction.INFORM),
    Rule((10168, 10186), "not subscribed, and delayed data is not enabled", Reaction.FAIL_REQUEST),
    Rule((10182,), "live update failed, disconnected", Reaction.RECONNECT),
    Rule((10187, 10189, 10190), "tick-by-tick data refused", Reaction.FAIL_REQUEST),
    Rule((10197,), "another login has the live data", Reaction.COMPETING_SESSION),
    Rule((10225,), "real-time bars were corrected", Reaction.INFORM),
)
"""Every code that is known; the first rule that fits decides."""

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
    """The reaction to a code; one that is not listed only informs, since an advisory must never end a stream."""
    said = text.casefold()
    for rule in _BY_CODE.get(code, ()):
        if rule.text in said:
            return rule.reaction
    return Reaction.INFORM


def lacks_subscription(code: int, text: str = "") -> bool:
    """Whether a code says that the login has no, or not all, permission for a contract's data."""
    # 420 is said for asking too often as well.
    return code in _NOT_SUBSCRIBED or (code == 420 and "permission" in text.casefold())


def is_healthy_notice(code: int) -> bool:
    """Whether a code is one of the 'farm is OK' notices that every connection begins with."""
    return code in _HEALTHY


def farm_of(text: str) -> str:
    """The farm that a notice ends with, such as ``usfarm`` of ``...farm connection is OK:usfarm``; empty if none."""
    found = _FARM.search(text)
    return found[1] if found else ""


def farms_away(text: str) -> tuple[str, ...]:
    """The farms that code 1102 says are still not connected."""
    found = _FARMS_AWAY.search(text)
    return tuple(name.strip(" .") for name in found[1].split(";") if name.strip(" .")) if found else ()


def new_port(text: str) -> int | None:
    """The port that code 1300 names: the gateway listens there from now on."""
    found = _PORT.search(text)
    return int(found[1]) if found and 0 < int(found[1]) <= 65535 else None
