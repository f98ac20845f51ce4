"""Ordinary activity between the faults: trades, changes of strategies, requests for a refresh."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from v6_pipeline_tests.chaos.faults import Fault, pick, picks
from v6_pipeline_tests.chaos.lake_log import Key
from v6_pipeline_tests.chaos.world import World

T = TypeVar("T")


@dataclass(slots=True)
class Trade(Fault):
    """Positions are opened, resized, closed or assigned."""

    name = "trades"
    breaks = False
    moves: tuple[tuple[str, float, float], ...]
    """Kind of change, key and quantity."""

    def begin(self, world: World) -> None:
        for move, which, size in self.moves:
            with contextlib.suppress(_NothingError):
                _trade(world, move, which, float(round(1 + size * 9)))


def _trade(world: World, move: str, which: float, size: float) -> None:
    held = world.truth.held()
    if move == "open":
        closed = sorted(world.truth.closed())
        fresh = [
            (account, conid)
            for account in world.accounts
            for conid, contract in sorted(world.contracts.items())
            if contract["sec_type"] in {"OPT", "STK"} and (account, conid) not in held
        ]
        account, conid = _one(closed or fresh, which)
        world.trade("open", account=account, conid=conid, quantity=size)
        return
    if move == "assign":
        options = [item for item in sorted(held) if world.contracts[item[1]]["sec_type"] == "OPT"]
        account, conid = _one(options, which)
        world.trade("assign", account=account, conid=conid)
        return
    account, conid = key = _one(sorted(held), which)
    if move == "resize":
        quantity = held[key] + size
        world.trade("resize", account=account, conid=conid, quantity=quantity or 1.0)
    elif len(held) > world.scale.positions // 2:
        world.trade("close", account=account, conid=conid)


@dataclass(slots=True)
class Rethink(Fault):
    """The strategy takes contracts up and drops others."""

    name = "strategies"
    breaks = False
    take: tuple[float, ...]
    drop: tuple[float, ...]

    def begin(self, world: World) -> None:
        held = sorted({conid for _, conid in world.truth.held()} - world.active)
        dropped = picks(sorted(world.active), self.drop)
        taken = picks(held, self.take)
        world.activate(set(taken))
        world.deactivate(set(dropped))


@dataclass(slots=True)
class AskFor(Fault):
    """Someone asks for queued holdings to be refreshed."""

    name = "queue inserts"
    breaks = False
    which: tuple[float, ...]

    def begin(self, world: World) -> None:
        keys: list[Key] = [key for key in sorted(world.truth.held()) if key[1] not in world.active]
        world.ask_for(list(picks(keys, self.which)))


class _NothingError(Exception):
    """There is nothing to pick from."""


def _one(items: Sequence[T], which: float) -> T:
    found = pick(items, which)
    if found is None:
        raise _NothingError
    return found
