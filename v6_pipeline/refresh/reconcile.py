"""Compares the position feed with the account download to find what is held and what is gone. Pure.

Neither feed alone proves that a position is gone: a download may be cut off, a position message may be late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from v6_pipeline.ib.account_feed import PortfolioValue
from v6_pipeline.model import Holding
from v6_pipeline.state.keys import Key


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """A batch's holdings, sorted by what the two feeds say.

    ``valued`` has IB's value of what the download holds, and of what was closed today: that is in ``gone`` too, but its
    realized profit is still in the download. ``gone`` has what neither feed holds any more, ``disputed`` what only the
    position feed holds. A key in none of them was never held as far as is known: there is nothing to write or keep.
    """

    valued: dict[Key, PortfolioValue]
    gone: dict[Key, Holding]
    disputed: tuple[Key, ...]


def reconcile(
    keys: Iterable[Key],
    *,
    downloaded: Mapping[Key, PortfolioValue],
    held: Collection[Key],
    known: Mapping[Key, Holding],
) -> Reconciliation:
    """Sort the holdings of a batch.

    ``downloaded`` has the rows of complete account downloads, those closed today with position 0; ``held`` the keys of
    the complete position feed; ``known`` what was held before, open or closed.
    """
    valued: dict[Key, PortfolioValue] = {}
    gone: dict[Key, Holding] = {}
    disputed: list[Key] = []
    for key in keys:
        value = downloaded.get(key)
        if value is not None and value.position:
            valued[key] = value
        elif key in held:
            disputed.append(key)
        elif key in known:
            gone[key] = known[key]
            if value is not None:
                valued[key] = value
    return Reconciliation(valued, gone, tuple(disputed))


def with_reopened(found: Reconciliation, held: Collection[Key]) -> Reconciliation:
    """Move each position of ``gone`` that is held again to ``disputed``: the download does not hold it yet."""
    reopened = [key for key in found.gone if key in held]
    if not reopened:
        return found
    return Reconciliation(
        {key: value for key, value in found.valued.items() if key not in reopened},
        {key: holding for key, holding in found.gone.items() if key not in reopened},
        (*found.disputed, *reopened),
    )
