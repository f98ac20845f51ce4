"""What each error code of the Flex Web Service means and what is done about it: data only.

Source: IB's table of Flex Web Service error codes, as `IB_FACTS.md` section 3 sums it up. IB documents no 1002.
"""

from __future__ import annotations

from dataclasses import dataclass

THROTTLED = 1018
"""Too many requests with this token: everyone pauses, and every wait of this download is doubled from then on."""
IN_PROGRESS = 1019
"""The statement is being made: ask for it again."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What is done about an error code.

    ``retry_after`` is in seconds, ``None`` if asking again is of no use; ``remedy`` is what a person can do.
    """

    code: int
    meaning: str
    retry_after: float | None
    remedy: str

    @property
    def is_fatal(self) -> bool:
        """Whether asking again is of no use."""
        return self.retry_after is None


_LATER = "try again later; IB completes a day's statement by about 05:00 New York time"
_RENEW = "make a new token in Client Portal (Performance & Reports, Flex Queries, Flex Web Service), set V6_FLEX_TOKEN"
_QUERY = "set V6_FLEX_QUERY_ID to the id that Client Portal shows for an Activity Flex query"

REACTIONS = {
    reaction.code: reaction
    for reaction in (
        Reaction(1001, "statement could not be generated at this time", 15, _LATER),
        Reaction(1003, "statement is not available", None, "ask for days that are over and since the account opened"),
        Reaction(1004, "statement is incomplete at this time", 30, _LATER),
        Reaction(1005, "settlement data is not ready", 30, _LATER),
        Reaction(1006, "FIFO profit and loss data is not ready", 30, _LATER),
        Reaction(1007, "mark-to-market profit and loss data is not ready", 30, _LATER),
        Reaction(1008, "profit and loss data is not ready", 30, _LATER),
        Reaction(1009, "server is under heavy load", 30, _LATER),
        Reaction(1010, "legacy Flex queries are not supported", None, "convert the query to an Activity Flex query"),
        Reaction(1011, "service account is inactive", None, "enable the Flex Web Service in Client Portal"),
        Reaction(1012, "token has expired", None, _RENEW),
        Reaction(1013, "address is not allowed (IP restriction)", None, "allow this machine's address for the token"),
        Reaction(1014, "query is invalid", None, _QUERY),
        Reaction(1015, "token is invalid", None, _RENEW),
        Reaction(1016, "account is invalid", None, "choose accounts in the query that the token's user may see"),
        Reaction(1017, "reference code is invalid", None, "ask again: the statement was dropped before it was fetched"),
        Reaction(THROTTLED, "too many requests with this token", 10, "let nothing else use this token meanwhile"),
        Reaction(IN_PROGRESS, "statement generation is in progress", 5, "try again later, or ask for fewer days"),
        Reaction(1020, "request is invalid or not validated", None, "check V6_FLEX_TOKEN and V6_FLEX_QUERY_ID"),
        Reaction(1021, "statement could not be retrieved at this time", 15, _LATER),
    )
}
"""Every code that IB documents."""


def reaction_to(code: int) -> Reaction:
    """The reaction to a code; one that IB does not document is fatal, for nobody knows what repeating it does."""
    return REACTIONS.get(code) or Reaction(
        code, "unknown error code", None, "look it up in IB's Flex Web Service documentation"
    )
