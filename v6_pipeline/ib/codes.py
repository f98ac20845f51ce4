"""What each of IB's message codes asks for.

Pure data and one function. The codes are IBKR's (https://interactivebrokers.github.io/tws-api/message_codes.html);
where practice and documentation differ, practice decides, with the reason beside it.
"""

from __future__ import annotations

import enum


class Reaction(enum.StrEnum):
    """What the product does on a code."""

    INFORM = "inform"
    """Nothing fails; the text goes to the log."""
    FAIL_REQUEST = "fail_request"
    """The request that it names is over; a line that it held is free."""
    LINES_EXHAUSTED = "lines_exhausted"
    """TWS and API together hold all lines: give this one back, do not ask again at once."""
    BACK_OFF = "back_off"
    """Messages came too fast: send less."""
    FEED_LOST = "feed_lost"
    """The account feed went to another client or account."""
    LINK_LOST = "link_lost"
    """The gateway lost IB's servers: data is stale until it says otherwise."""
    RESUBSCRIBE = "resubscribe"
    """The link is back and market data was lost: ask for all of it again."""
    VERIFY = "verify"
    """The link is back and market data is said to be kept."""
    FARM_BROKEN = "farm_broken"
    """One of IB's data farms is away: its data is stale until a 'farm is OK' notice names it."""
    COMPETING_SESSION = "competing_session"
    """The username's data goes to another login (TWS, phone, paper or live): requests stay open, without ticks."""
    RECONNECT = "reconnect"
    """The socket is of no more use."""
    ID_IN_USE = "id_in_use"
    """Another client has this client id."""
    UNWANTED = "unwanted"
    """An order-side code: this product never sends orders, so it must not appear."""


_REACTIONS: dict[Reaction, frozenset[int]] = {
    Reaction.LINES_EXHAUSTED: frozenset({101}),
    Reaction.BACK_OFF: frozenset({100, 420}),
    Reaction.FEED_LOST: frozenset({2100, 2101}),
    Reaction.LINK_LOST: frozenset({1100, 2110}),
    Reaction.RESUBSCRIBE: frozenset({1101}),
    Reaction.VERIFY: frozenset({1102}),
    Reaction.FARM_BROKEN: frozenset({2103, 2105, 2157}),
    Reaction.COMPETING_SESSION: frozenset({10197}),
    Reaction.RECONNECT: frozenset({502, 503, 504, 505, 506, 507, 508, 509, 1300, 10182}),
    Reaction.ID_IN_USE: frozenset({326}),
    Reaction.UNWANTED: frozenset({*range(103, 111), 201, 202, 203, 399, 404, 434, 10147, 10148}),
    Reaction.FAIL_REQUEST: frozenset(
        {102, 162, 166, 200, 300, 320, 321, 322, 323, 354, 10168, 10186, 10187, 10189, 10190}
    ),
}
_BY_CODE = {code: reaction for reaction, codes in _REACTIONS.items() for code in codes}

_HEALTHY = frozenset({2104, 2106, 2107, 2108, 2119, 2158})


def reaction_to(code: int) -> Reaction:
    """The reaction to a code; one that is not listed only informs, since advisories must never end a stream.

    10089, 10090, 10091 and 10167 are such advisories: part of the data is missing or delayed, and ticks still come.
    """
    return _BY_CODE.get(code, Reaction.INFORM)


def is_healthy_notice(code: int) -> bool:
    """Whether a code is one of the 'farm is OK' notices that every connection begins with."""
    return code in _HEALTHY
