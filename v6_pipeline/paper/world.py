"""Builds a gateway's world: the universe, and the past in which its holdings and their costs come about.

Worlds of equal settings are built once for a process; each gateway has its own copy of what can change.
"""

import functools
from dataclasses import replace
from datetime import date

from v6_pipeline.paper.contracts import STOCK, Universe
from v6_pipeline.paper.holdings_file import HoldingsFile
from v6_pipeline.paper.past import Past
from v6_pipeline.paper.universe import build_universe


def build_world(
    *,
    seed: int,
    as_of: date,
    accounts: tuple[str, ...],
    positions: int,
    flat_accounts: tuple[str, ...] = (),
    unusual: bool = False,
    file: HoldingsFile | None = None,
) -> tuple[Universe, Past | None]:
    """Return the universe of the live day and the past that ends in its holdings, with their costs.

    Arguments are those of `build_universe`. With a file there is no past, because the file prescribes costs.

    Raises:
        GatewayError: as `build_universe`.
    """
    if file is not None:
        universe = build_universe(
            seed=seed,
            as_of=as_of,
            accounts=accounts,
            positions=positions,
            flat_accounts=flat_accounts,
            unusual=unusual,
            file=file,
        )
        return universe, None
    universe, past = _world(
        seed=seed, as_of=as_of, accounts=accounts, positions=positions, flat_accounts=flat_accounts, unusual=unusual
    )
    # A stock that was sold is still a contract of IB's; an option that ended is not.
    sold = [item for conid, item in past.universe.contracts.items() if conid not in universe.contracts]
    own = Universe(
        seed=seed,
        as_of=as_of,
        accounts=accounts,
        contracts=[*universe.contracts.values(), *(item for item in sold if item.sec_type == STOCK)],
        holdings=[replace(holding) for holding in past.holdings],
    )
    own.splits |= past.universe.splits
    return own, past


@functools.lru_cache(maxsize=16)
def _world(
    *, seed: int, as_of: date, accounts: tuple[str, ...], positions: int, flat_accounts: tuple[str, ...], unusual: bool
) -> tuple[Universe, Past]:
    universe = build_universe(
        seed=seed,
        as_of=as_of,
        accounts=accounts,
        positions=positions,
        flat_accounts=flat_accounts,
        unusual=unusual,
    )
    return universe, Past(universe)
