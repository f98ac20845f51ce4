"""Compares the position feed with the account download to find what is held and what is gone. Pure.

Neither feed alone proves that a position is gone: a download may be cut off, a position message may be late. A value is
that of its own position alone: where the newest position message names another quantity, it is the value of the past.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from v6_pipeline.ib.account_feed import PortfolioValue
from v6_pipeline.model import Holding
from v6_pipeline.state.keys import Key

QUANTITY_WITHIN = 1e-6
"""Tolerance for the rounding of fractional shares and coins."""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """A batch's holdings, sorted by what the two feeds say.

    ``valued`` has IB's value of what the download holds, and of what was closed today: that is in ``gone`` too, but its
    realized profit is still in the download. ``gone`` has what neither feed holds any more, ``disputed`` what only the
    position feed holds, ``contradicted`` what the download holds in another quantity than the newest position message.
    A key in none of them was never held as far as is known: there is nothing to write or keep.
    """

    valued: dict[Key, PortfolioValue]
    gone: dict[Key, Holding]
    disputed: tuple[Key, ...]
    contradicted: tuple[Key, ...] = ()


def reconcile(
    keys: Iterable[Key],
    *,
    downloaded: Mapping[Key, PortfolioValue],
    messages: Mapping[Key, Holding],
    known: Mapping[Key, Holding],
) -> Reconciliation:
    """Sort the holdings of a batch.

    ``downloaded`` has the rows of complete account downloads, those closed today with position 0; ``messages`` the
    newest message of each position since the feed was complete, closings included; ``known`` what was held before, open
    or closed.
    """
    valued: dict[Key, PortfolioValue] = {}
    gone: dict[Key, Holding] = {}
    disputed: list[Key] = []
    contradicted: list[Key] = []
    held = open_positions(messages)
    for key in keys:
        value = downloaded.get(key)
        if value is not None and value.position:
            if contradicts(messages.get(key), value):
                contradicted.append(key)
            else:
                valued[key] = value
        elif key in held:
            disputed.append(key)
        elif key in known:
            gone[key] = known[key]
            if value is not None:
                valued[key] = value
    return Reconciliation(valued, gone, tuple(disputed), tuple(contradicted))


def after_messages(found: Reconciliation, messages: Mapping[Key, Holding]) -> Reconciliation:
    """Sort again by the position messages that came since, while quotes were collected.

    A position of ``gone`` that is held again is disputed, because the download does not hold it yet; a value of another
    quantity than the newest message's is contradicted.
    """
    held = open_positions(messages)
    reopened = [key for key in found.gone if key in held]
    contradicted = [
        key for key, value in found.valued.items() if value.position and contradicts(messages.get(key), value)
    ]
    if not reopened and not contradicted:
        return found
    moved = {*reopened, *contradicted}
    return Reconciliation(
        {key: value for key, value in found.valued.items() if key not in moved},
        {key: holding for key, holding in found.gone.items() if key not in moved},
        (*found.disputed, *reopened),
        (*found.contradicted, *contradicted),
    )


def open_positions(messages: Mapping[Key, Holding]) -> Collection[Key]:
    """Return the keys of the positions that are open by their newest message."""
    return {key for key, holding in messages.items() if holding.position}


def contradicts(message: Holding | None, value: PortfolioValue) -> bool:
    """Return whether a position message names another quantity than a value; one that never came says nothing."""
    return message is not None and abs(message.position - value.position) > QUANTITY_WITHIN
