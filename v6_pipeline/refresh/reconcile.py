"""What is held and what is gone: a pure comparison of the position feed with the account download.

One feed alone proves nothing: a download may be cut off, a position message may be late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from v6_pipeline.ib.account_feed import PortfolioValue
from v6_pipeline.model import Holding

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Settlement:
    """A batch's holdings by what is known of them.

    ``valued`` has IB's value of what is held, and of what was closed today and is in ``gone`` too: the download still
    tells its realized profit. ``gone`` is what both complete feeds leave out. ``unsettled`` are those on which they
    disagree. A key that is in none was never held as far as anyone knows: nothing to write, nothing to keep.
    """

    valued: dict[Key, PortfolioValue]
    gone: dict[Key, Holding]
    unsettled: tuple[Key, ...]


def settle(
    keys: Iterable[Key],
    *,
    downloaded: Mapping[Key, PortfolioValue],
    held: Collection[Key],
    known: Mapping[Key, Holding],
) -> Settlement:
    """Sort holdings.

    Args:
        keys: what was asked for.
        downloaded: the complete account downloads' rows, those closed today with position 0.
        held: the complete position feed's keys.
        known: what was held before, open or closed.
    """
    valued: dict[Key, PortfolioValue] = {}
    gone: dict[Key, Holding] = {}
    unsettled: list[Key] = []
    for key in keys:
        value = downloaded.get(key)
        if value is not None and value.position:
            valued[key] = value
        elif key in held:
            unsettled.append(key)
        elif key in known:
            gone[key] = known[key]
            if value is not None:
                valued[key] = value
    return Settlement(valued, gone, tuple(unsettled))


def reopened(found: Settlement, held: Collection[Key]) -> Settlement:
    """The same, where a position that was gone has come back meanwhile: neither closed nor, by that download, held."""
    back = [key for key in found.gone if key in held]
    if not back:
        return found
    return Settlement(
        {key: value for key, value in found.valued.items() if key not in back},
        {key: holding for key, holding in found.gone.items() if key not in back},
        (*found.unsettled, *back),
    )
