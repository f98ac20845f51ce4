"""As many strategies for ``v6 demo`` as wanted, from what its accounts hold: more than fit into the lines.

Does not belong here: the registry, which the command fills with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from v6_pipeline.errors import UsageError

if TYPE_CHECKING:
    from v6_pipeline.paper.contracts import Contract

Strategies = Mapping[str, tuple[int, tuple[str, ...]]]
"""Name to priority and selectors."""
Held = tuple[str, "Contract"]
"""An account and a contract that it holds."""
PER_PRIORITY = 10
"""Strategies that share a priority: 10, 20, 30 and so on."""


def by_kind(held: Iterable[Held], count: int) -> Strategies:
    """Return ``count`` strategies, each with one account's calls or puts of an underlying and expiry.

    The nearest expiry is the most important.

    Raises:
        UsageError: fewer kinds are held.
    """
    kinds = sorted({(one.expiry, one.symbol, one.right, account) for account, one in held if one.sec_type == "OPT"})
    if not 0 <= count <= len(kinds):
        raise UsageError(
            f"--strategies {count} is not between 0 and {len(kinds)}, the kinds of options held (account, underlying, "
            "expiry, call or put): more --positions make more of them"
        )
    return {
        f"{symbol}-{expiry}-{right}-{account}".lower(): (
            10 * (1 + at // PER_PRIORITY),
            (f"account={account},symbol={symbol},sec_type=OPT,right={right},expiry={expiry}",),
        )
        for at, (expiry, symbol, right, account) in enumerate(kinds[:count])
    }
