"""What is held and what is gone: a pure comparison of the position feed with the account download.

One feed alone proves nothing: a download may be cut off, a position message may be late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from v6_pipeline.ib.account_feed import PortfolioValue
from v6_pipeline.model import Holding
from v6_pipeline.state.keys import Key


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """A batch's holdings by what the two feeds agree on.

    ``valued`` has IB's value of what is held, and of what was closed today and is in ``gone`` too, because the download
    still carries its realized profit. ``gone`` has what both complete feeds leave out. ``disputed`` has those on which
    they disagree. A key in none of them was never held as far as is known: there is nothing to write or to keep.
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
    """Move each position that was gone and is held again to ``disputed``: by that download it is not held yet."""
    reopened = [key for key in found.gone if key in held]
    if not reopened:
        return found
    return Reconciliation(
        {key: value for key, value in found.valued.items() if key not in reopened},
        {key: holding for key, holding in found.gone.items() if key not in reopened},
        (*found.disputed, *reopened),
    )
