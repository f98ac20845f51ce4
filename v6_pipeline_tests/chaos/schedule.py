"""The schedule: rounds of faults, drawn from a seed.

A round is some seconds of overlapping faults, then calm until all streams again, which is timed. The same seed gives
the same rounds on every machine; how many of them fit into ten minutes depends on the machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from v6_pipeline_tests.chaos.changes import AskFor, Rethink, Trade
from v6_pipeline_tests.chaos.faults import (
    AtGateway,
    Fault,
    FewerLines,
    HangPastLease,
    KillStreamer,
    KillWorker,
    LakeAway,
    SensorAway,
    StallPastLease,
    StateHangs,
    StateLocked,
    StopGateway,
    StopStreamer,
    StopWorker,
    fractions,
)

Draw = Callable[[random.Random], Fault]
STREAMER_CLIENT = 60


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault and when it begins, in seconds from the round's begin."""

    at: float
    fault: Fault


@dataclass(frozen=True, slots=True)
class Round:
    """Faults that overlap, earliest first."""

    number: int
    faults: tuple[Planned, ...]

    @property
    def seconds(self) -> float:
        """Seconds until the last fault has ended."""
        return max(item.at + item.fault.seconds for item in self.faults)


def rounds(seed: int, catalogue: Mapping[str, Draw], weights: Mapping[str, float]) -> Iterator[Round]:
    """Rounds without end: one to three breaking faults each, with trades and the like around them."""
    draw = random.Random(seed)
    names = sorted(name for name in catalogue if weights.get(name, 1.0) > 0)
    number = 0
    while True:
        number += 1
        count = draw.choice((1, 1, 2, 3))
        chosen = [draw.choices(names, [weights.get(name, 1.0) for name in names])[0] for _ in range(count)]
        planned = [
            Planned(round(draw.uniform(0, 4), 2) + _LATER.get(name, 0.0), catalogue[name](draw))
            for name in dict.fromkeys(chosen)
        ]
        changes = [change for change in _CHANGES if draw.random() < 0.5]
        planned += [Planned(round(draw.uniform(0, 6), 2), change(draw)) for change in changes]
        yield Round(number, tuple(sorted(planned, key=lambda item: item.at)))


def each_alone(seed: int, catalogue: Mapping[str, Draw]) -> Iterator[Round]:
    """Every kind of fault once, each in a round of its own."""
    draw = random.Random(seed)
    for number, name in enumerate(sorted(catalogue), start=1):
        yield Round(number, (Planned(_LATER.get(name, 0.0), catalogue[name](draw)),))


def _seconds(shortest: float, longest: float) -> Callable[[random.Random], float]:
    return lambda draw: round(draw.uniform(shortest, longest), 1)


def _trades(draw: random.Random) -> Fault:
    moves = ("open", "resize", "close", "assign")
    return Trade(tuple((draw.choice(moves), draw.random(), draw.random()) for _ in range(draw.randint(1, 4))))


_CHANGES: tuple[Draw, ...] = (
    _trades,
    lambda draw: Rethink(take=fractions(draw, 3), drop=fractions(draw, 3)),
    lambda draw: AskFor(fractions(draw, 6)),
)

PROCESS_FAULTS: dict[str, Draw] = {
    "kill streamer": lambda _: KillStreamer(),
    "stop streamer": lambda draw: StopStreamer(draw.choice((_seconds(1, 8), _seconds(16, 24)))(draw)),
    "stall past lease": lambda draw: StallPastLease(_seconds(20, 26)(draw)),
    "hang past lease": lambda draw: HangPastLease(_seconds(16, 24)(draw)),
    "dagster away": lambda draw: SensorAway(draw.choice((_seconds(3, 10), _seconds(18, 24)))(draw)),
    "kill worker": lambda draw: KillWorker(draw.random()),
    "stop worker": lambda draw: StopWorker(draw.random(), draw.choice((_seconds(2, 10), _seconds(35, 45)))(draw)),
    "stop gateway": lambda draw: StopGateway(_seconds(2, 14)(draw)),
    "lake away": lambda draw: LakeAway(_seconds(2, 12)(draw)),
    "state locked": lambda draw: StateLocked(_seconds(2, 14)(draw)),
    "state hangs": lambda draw: StateHangs(_seconds(18, 45)(draw)),
}
"""Faults of processes, disk and database."""


def _link(data: str) -> Draw:
    return lambda draw: AtGateway(
        f"link lost ({'data lost' if data == 'lost' else data})",
        _seconds(2, 12)(draw),
        (("link_lost", {}),),
        (("link_restored", {"data": data}),),
    )


def _at_once(name: str, command: str, codes: tuple[int, ...] = (), **fields: object) -> Draw:
    return lambda _: AtGateway(name, 0.0, ((command, fields),), codes=codes)


def _for_seconds(name: str, command: str, shortest: float, longest: float, **fields: object) -> Draw:
    """An action that takes ``seconds`` and ends by itself."""

    def draw_one(draw: random.Random) -> Fault:
        seconds = _seconds(shortest, longest)(draw)
        return AtGateway(name, seconds, ((command, {"seconds": seconds, **fields}),))

    return draw_one


def _on_contracts(
    name: str, command: str, end: str = "restore_contracts", codes: tuple[int, ...] = (), **fields: object
) -> Draw:
    """An action on some contracts, undone at the end."""
    unsold = bool(codes)

    def draw_one(draw: random.Random) -> Fault:
        seconds, which = _seconds(3, 12)(draw), fractions(draw, 4)
        return AtGateway(name, seconds, ((command, fields),), ((end, {}),), codes, which, "held", unsold)

    return draw_one


def _farm(draw: random.Random) -> Fault:
    farm, dead = draw.choice(("usfarm", "usopt", "usfuture")), draw.random() < 0.5
    name = f"farm broken{' (dead)' if dead else ''}"
    fields: dict[str, object] = {"farm": farm}
    end: tuple[tuple[str, dict[str, object]], ...] = (("farm_ok", {**fields, "dead": dead}),)
    return AtGateway(name, _seconds(2, 12)(draw), (("farm_broken", fields),), end)


def _competing(draw: random.Random) -> Fault:
    dead = draw.random() < 0.5
    end: tuple[tuple[str, dict[str, object]], ...] = (("competing_session_ended", {"dead": dead}),)
    return AtGateway(
        f"competing session{' (dead)' if dead else ''}",
        _seconds(3, 15)(draw),
        (("competing_session", {}),),
        end,
    )


GATEWAY_FAULTS: dict[str, Draw] = {
    "fewer lines": lambda draw: FewerLines(round(draw.uniform(0.4, 0.8), 2), _seconds(5, 15)(draw)),
    "silent contracts": _on_contracts("silent contracts", "quiet", "resume"),
    "denied contracts": _on_contracts("denied contracts", "deny", "allow", codes=(354,)),
    "drop": _at_once("drop", "drop"),
    "reset": _at_once("reset", "drop", reset=True),
    "refuse": lambda draw: AtGateway(
        "refuse", seconds := _seconds(2, 15)(draw), (("refuse_connections", {"seconds": seconds}), ("drop", {}))
    ),
    "long refusal": lambda draw: AtGateway(
        "long refusal", seconds := _seconds(30, 50)(draw), (("refuse_connections", {"seconds": seconds}), ("drop", {}))
    ),
    "blackhole": _for_seconds("blackhole", "blackhole", 3, 14),
    "long blackhole": _for_seconds("long blackhole", "blackhole", 28, 36),  # longer than the heartbeat's patience
    "delay": _for_seconds("delay", "delay", 5, 15, hold_seconds=0.8),
    "truncated frame": _at_once("truncated frame", "truncated_frame"),
    "truncated frame (open)": _at_once(
        "truncated frame (open)", "truncated_frame", client_id=STREAMER_CLIENT, then_drop=False
    ),
    "garbage frame": _at_once("garbage frame", "garbage_frame"),
    "huge frame": _at_once("huge frame", "huge_frame", client_id=STREAMER_CLIENT),
    "error 100": _at_once("error 100", "exceed_rate", codes=(100,), count=1),
    "client id taken": lambda draw: AtGateway(
        "client id taken",
        seconds := _seconds(3, 12)(draw),
        (
            ("occupy_client_id", {"client_id": STREAMER_CLIENT, "seconds": seconds}),
            ("drop", {"client_id": STREAMER_CLIENT}),
        ),
    ),
    "link lost (kept)": _link("kept"),
    "link lost (dead)": _link("dead"),
    "link lost (data lost)": _link("lost"),
    "server broken": _for_seconds("server broken", "server_broken", 2, 12),
    "farm broken": _farm,
    "competing session": _competing,
    "dead streams": _at_once("dead streams", "kill_streams", client_id=STREAMER_CLIENT),
    "halted": _on_contracts("halted", "halt", "end_halt"),
    "no greeks": _on_contracts("no greeks", "withhold_greeks"),
    "distorted prices": _on_contracts("distorted prices", "distort_prices", prices="max_double"),
    "prices of -1": _on_contracts("prices of -1", "distort_prices"),
    "advice 10090": _on_contracts("advice 10090", "advise", code=10090),
    "rejected data": lambda draw: AtGateway(
        "rejected data",
        begin_with=(("reject_market_data", {"count": 3}),),
        codes=(420,),
        which=fractions(draw, 3),
        unsold=True,
    ),
    "cut account download": lambda draw: AtGateway(
        "cut account download",
        0.0,
        (("cut_account_download", {"how": draw.choice(("silent", "drop", "evict")), "rows": draw.randint(0, 20)}),),
    ),
    "cut position download": lambda draw: AtGateway(
        "cut position download",
        0.0,
        (("cut_position_download", {"how": draw.choice(("silent", "drop")), "rows": draw.randint(0, 20)}),),
    ),
    "account feed evicted": _at_once("account feed evicted", "evict_account_feed"),
    "account feed refused": _at_once("account feed refused", "refuse_account_feed"),
}
"""Faults of the gateway, of IB's servers and by other logins."""

CATALOGUE: dict[str, Draw] = PROCESS_FAULTS | GATEWAY_FAULTS
WEIGHTS = {
    "kill streamer": 3.0,
    "kill worker": 3.0,
    "stop streamer": 2.0,
    "stop worker": 2.0,
    "dead streams": 0.3,
    "fewer lines": 0.3,
    "long blackhole": 0.5,
    "long refusal": 0.3,
    "state hangs": 0.5,
}
"""Weights: quick and severe faults are frequent, those that mostly wait or excuse much are rare; others count 1."""
_LATER = {"dead streams": 8.0}
"""Seconds after the round's begin: silence means nothing for a feed that began to tick a moment before."""
