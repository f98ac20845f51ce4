"""Faults, and people's actions during them: drawn from the seed, one storm after the other, with calm between.

A storm is a few minutes with one to four faults and as many deeds of people. Then everything that can be healed is
healed, and no changes are made until the next one: in the calm the oracle checks that everything works again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from v6_pipeline.errors import UsageError
from v6_pipeline.refresh.worker import RefreshScope
from v6_pipeline.state.queue.items import QueueState
from v6_pipeline_tests.simulation.loop import SimulatedProcess, State
from v6_pipeline_tests.simulation.world import ALIVE_WITHIN, AWAKE_AFTER_STORM, NEW_YORK, World

if TYPE_CHECKING:
    from v6_pipeline_tests.simulation.oracle import Oracle

STRATEGIES = ("wheel", "condors", "hedge")
_FARMS = ("usfarm", "usopt", "usfuture", "cashfarm")
_STREAMER_ID = 60
_URGENT_AFTER = 330.0
_BRISK_FOR = 20
"""Seconds for which the streamer sees its feeds tick before they die."""
_LIFE_AFTER = {"link_restored", "server_broken", "farm_broken", "competing_session"}

Deed = Callable[["Storms"], Awaitable[None]]


class Storms:
    """The faults of a day; the oracle receives each, because a fault explains what would otherwise be a violation."""

    def __init__(self, world: World, oracle: Oracle) -> None:
        self.world = world
        self.oracle = oracle
        self.draw = world.rng("storms")
        self.until = 0.0
        self.flat: list[tuple[str, int]] = []
        """Positions that an account had before it closed all, until it holds some again."""
        self._undo = contextlib.ExitStack()
        self._later: set[asyncio.Task[None]] = set()

    async def rage(self) -> None:
        """Storm and calm in turn, until the day ends."""
        self._begin_strategies()
        self.oracle.calm_begins()
        reset = self._seconds_to_reset()
        while True:
            calm = self._calm_seconds()
            if self.world.loop.time() < reset <= self.world.loop.time() + calm:
                await asyncio.sleep(reset - self.world.loop.time())
                storm = self._nightly_reset
            else:
                await asyncio.sleep(calm)
                storm = self._storm
            self.oracle.storm_begins()
            self.world.stormy_until = float("inf")
            await storm()
            self._heal()
            self.oracle.calm_begins()
            self.after(_URGENT_AFTER, self._urgent)

    def _seconds_to_reset(self) -> float:
        """IB's servers restart between 00:15 and 01:45 New York."""
        local = self.world.now.astimezone(NEW_YORK)
        midnight = (local + timedelta(hours=20 if local.hour >= 4 else 0)).replace(hour=0, minute=0, second=0)
        return (midnight - local).total_seconds() + self.draw.uniform(900, 6000)

    async def _nightly_reset(self) -> None:
        self.perform("play", scenario="nightly_reset")
        self.world.figures.faults["nightly_reset"] += 1
        await asyncio.sleep(180)

    def _calm_seconds(self) -> float:
        drawn = self.draw.uniform(540, 900), self.draw.uniform(1800, 7200)
        if self.world.refreshes:
            return drawn[0]
        return min(drawn[1], self.world.seconds_to_session + drawn[0])

    async def _storm(self) -> None:
        length = self.draw.uniform(60, 420)
        self.until = self.world.loop.time() + length
        faults = self.draw.sample(sorted(FAULTS), self.draw.choice((1, 1, 2, 2, 3, 4)))
        deeds = self.draw.choices(sorted(DEEDS), k=self.draw.choice((1, 2, 3, 4, 6)))
        rushes = ["rush"] * self.draw.choice((0, 1, 1) if self.world.refreshes else (0, 0, 1))
        moments = [(self.draw.uniform(0, length), name) for name in (*faults, *deeds, *rushes)]
        for moment, name in sorted(moments):
            await asyncio.sleep(max(0.0, self.until - length + moment - self.world.loop.time()))
            await (rush if name == "rush" else FAULTS.get(name) or DEEDS[name])(self)
            if name in FAULTS:
                self.world.figures.faults[name] += 1
        await asyncio.sleep(max(0.0, self.until - self.world.loop.time()))
        if self.world.refreshes and self.draw.random() < 0.5:
            await ask_for_leased(self)

    def _urgent(self) -> None:
        """Somebody needs one contract more than all that stream: the one change of a calm, and nothing excuses it."""
        active = {conid for strategy in STRATEGIES for conid in self.oracle.members(strategy)}
        others = sorted({conid for _, conid in self.held()} - active - self.oracle.excused())
        if self.world.is_session and others:
            conid = self.draw.choice(others)
            self.world.say(f"people: {STRATEGIES[0]} needs {conid} at priority 1")
            self.world.registry.add_active(STRATEGIES[0], [conid], priority=1)
            self.oracle.activated(STRATEGIES[0], [conid], 1)
            self.oracle.urgent = conid

    def _heal(self) -> None:
        world = self.world
        world.say("heal: the storm is over")
        self._undo.close()
        self.perform("heal")
        if self.oracle.storm_had("lines"):
            self.perform("lines", lines=world.lines)
        world.daemon_until = 0.0
        world.lively_until = world.loop.time() + 40
        world.stormy_until = world.loop.time() + AWAKE_AFTER_STORM
        for process in world.living:
            world.loop.continue_process(process)

    # Means

    @property
    def rest(self) -> float:
        """Seconds until the storm ends."""
        return max(1.0, self.until - self.world.loop.time())

    def seconds(self, least: float, most: float) -> float:
        """A drawn time."""
        return round(self.draw.uniform(least, most), 3)

    def perform(self, name: str, **fields: Any) -> None:
        """An action at the gateway."""
        shown = ", ".join(f"{key}={value}" for key, value in fields.items())
        self.world.say(f"gateway: {name} {shown}")
        self.oracle.note(name, fields)
        self.world.gateway.perform(name, **fields)
        self.oracle.note_book()  # a position may come and go between two looks
        if name in _LIFE_AFTER:
            self.world.lively_until = self.world.loop.time() + float(fields.get("seconds", 0)) + 30

    def after(self, seconds: float, deed: Callable[[], None]) -> None:
        """Do something later, even in the next calm if it is about a process."""
        self.world.loop.call_later(seconds, deed)

    def until_healed(self, trouble: contextlib.AbstractContextManager[None], seconds: float) -> None:
        """Within a trouble for some seconds, at most until the storm is over."""
        stack = contextlib.ExitStack()
        stack.enter_context(trouble)
        self._undo.callback(stack.close)
        self.after(seconds, stack.close)

    def held(self) -> list[tuple[str, int]]:
        """Open positions."""
        return [(item.account, item.conid) for item in self.world.gateway.book.held()]

    def conids(self, most: int) -> list[int]:
        """Some held contracts."""
        found = sorted({conid for _, conid in self.held()})
        return self.draw.sample(found, min(len(found), self.draw.randint(1, most)))

    def process(self, kind: str) -> SimulatedProcess | None:
        """A running process of a kind."""
        found = [item for item in self.world.living if item.name.startswith(kind) and item.state is State.RUNNING]
        return self.draw.choice(found) if found else None

    def client(self) -> dict[str, int]:
        """All clients or the streamer alone."""
        return self.draw.choice(({}, {"client_id": _STREAMER_ID}))

    # Strategies

    def _begin_strategies(self) -> None:
        conids = sorted({conid for _, conid in self.held()})
        self.draw.shuffle(conids)
        settings = self.world.settings
        budget = settings.market_data_lines - settings.reserved_lines - settings.batch_lines
        wanted = budget + self.draw.randint(-3, 9)
        registry = self.world.registry
        for number, strategy in enumerate(STRATEGIES):
            chosen = conids[:wanted][number::3]
            if chosen:
                registry.add_active(strategy, chosen, priority=(number + 1) * 10)
                self.oracle.activated(strategy, chosen, (number + 1) * 10)


# Faults: the connection


async def drop(storm: Storms) -> None:
    storm.perform("drop", reset=storm.draw.random() < 0.5, **storm.client())


async def refuse(storm: Storms) -> None:
    storm.perform("refuse_connections", seconds=storm.seconds(3, 60))
    storm.perform("drop")


async def blackhole(storm: Storms) -> None:
    client = storm.client()
    storm.perform("blackhole", seconds=storm.seconds(5, 90), **client)
    if client and storm.draw.random() < 0.6:
        # What the streamer cancels now is not read for a while, and a run looks for lines.
        await deactivate(storm)
        storm.world.start_worker(RefreshScope(everything=True))


async def delay(storm: Storms) -> None:
    storm.perform("delay", hold_seconds=storm.seconds(0.2, 3), seconds=storm.seconds(20, 120), **storm.client())


async def bad_frame(storm: Storms) -> None:
    storm.perform(storm.draw.choice(("truncated_frame", "garbage_frame", "huge_frame")), **storm.client())


async def occupy(storm: Storms) -> None:
    storm.perform("occupy_client_id", client_id=storm.draw.choice((60, 61)), seconds=storm.seconds(5, 60))
    storm.perform("drop")


async def too_fast(storm: Storms) -> None:
    storm.perform("exceed_rate", count=storm.draw.randint(1, 4))


# Faults: the link and the data


async def link(storm: Storms) -> None:
    storm.perform("link_lost")
    if storm.draw.random() < 0.3:
        await asyncio.sleep(storm.seconds(0.5, 5))
        storm.perform("link_lost")
    await asyncio.sleep(min(storm.rest, storm.seconds(2, 120)))
    storm.perform("link_restored", data=storm.draw.choice(("kept", "dead", "lost")))


async def server(storm: Storms) -> None:
    storm.perform("server_broken", seconds=storm.seconds(2, 60), silent=storm.draw.random() < 0.5)


async def farm(storm: Storms) -> None:
    storm.perform(
        "farm_broken",
        farm=storm.draw.choice((*_FARMS, "secdefil")),
        seconds=storm.seconds(2, 90),
        dead=storm.draw.random() < 0.5,
    )


async def competing(storm: Storms) -> None:
    seconds = storm.seconds(5, 120)
    storm.world.alert_until = storm.world.loop.time() + seconds + ALIVE_WITHIN
    storm.perform("competing_session", seconds=seconds, dead=storm.draw.random() < 0.5)
    storm.oracle.streams_must_live(in_seconds=seconds + ALIVE_WITHIN)


async def dead_streams(storm: Storms) -> None:
    """Some of any kind, which may be contracts that do not trade; or all of the streamer, while the market is brisk."""
    if not storm.world.is_session or storm.draw.random() < 0.5:
        storm.perform("kill_streams", conids=storm.conids(5))
        return
    storm.world.alert_until = storm.world.loop.time() + _BRISK_FOR + ALIVE_WITHIN
    for _ in range(_BRISK_FOR):
        storm.world.gateway.tick_once()
        await asyncio.sleep(1.0)
    storm.perform("kill_streams", client_id=_STREAMER_ID)
    # This market falls silent at once when it was lively after an outage: what is missed too often has more time.
    storm.oracle.streams_must_live(in_seconds=ALIVE_WITHIN, untroubled_for=960.0)


# Faults of lines and of contracts


async def fewer_lines(storm: Storms) -> None:
    storm.perform("lines", lines=storm.draw.randint(2, storm.world.lines - 1))


async def tws_windows(storm: Storms) -> None:
    storm.perform("tws_lines", lines=storm.draw.randint(1, 14))


async def contract_trouble(storm: Storms) -> None:
    name = storm.draw.choice(("quiet", "deny", "halt", "withhold_greeks", "distort_prices", "unqualify", "expire"))
    storm.perform(name, conids=storm.conids(6))


async def advice(storm: Storms) -> None:
    storm.perform("advise", code=storm.draw.choice((10089, 10090, 10091, 10167)))


async def rejected(storm: Storms) -> None:
    storm.perform("reject_market_data", code=420, count=storm.draw.randint(1, 5))


# Faults: the downloads


async def cut_download(storm: Storms) -> None:
    storm.perform(
        "cut_account_download",
        how=storm.draw.choice(("silent", "drop", "evict")),
        rows=storm.draw.randint(0, 12),
        count=storm.draw.randint(1, 3),
    )
    storm.world.start_worker(RefreshScope(everything=True))


async def cut_positions(storm: Storms) -> None:
    storm.perform(
        "cut_position_download",
        how=storm.draw.choice(("silent", "drop")),
        rows=storm.draw.randint(0, 12),
        count=storm.draw.randint(1, 2),
    )
    if storm.draw.random() < 0.5:
        storm.perform("drop")
    else:
        storm.world.start_worker(RefreshScope(everything=True))


async def feed_taken(storm: Storms) -> None:
    storm.world.start_worker(RefreshScope(everything=True))
    await asyncio.sleep(storm.seconds(2, 4))
    storm.perform("evict_account_feed")
    storm.perform("refuse_account_feed", count=storm.draw.randint(1, 3))


async def not_ready(storm: Storms) -> None:
    """IB's servers are in a reset for some time, in which runs and a new streamer ask."""
    seconds = min(storm.seconds(10, 150), storm.rest)
    storm.perform("account_not_ready", feeds=storm.draw.choice(("empty", "zero", "stale")))
    if storm.draw.random() < 0.4:
        storm.perform("drop")
    storm.after(seconds, lambda: storm.perform("account_ready"))
    storm.world.start_worker(RefreshScope(everything=True))


async def traded_after_download(storm: Storms) -> None:
    """The position of a download changes as the download ends: its value is of another quantity."""
    account, conid = storm.draw.choice(storm.held())
    quantity = float(storm.draw.choice((-4, 0, 2, 9)))
    storm.perform("trade_after_download", account=account, conid=conid, quantity=quantity)
    storm.world.start_worker(RefreshScope(everything=True))


# Faults: processes, the disk


async def kill_streamer(storm: Storms) -> None:
    _kill(storm, "streamer")


async def kill_worker(storm: Storms) -> None:
    storm.world.start_worker(RefreshScope(everything=True))
    await asyncio.sleep(storm.draw.choice((storm.seconds(2, 2.3), storm.seconds(2, 12))))
    _kill(storm, "worker")


def _kill(storm: Storms, kind: str) -> None:
    process = storm.process(kind)
    if process is not None:
        storm.world.say(f"kill -9 {process.name}")
        storm.oracle.note("kill", {})
        storm.world.loop.kill_process(process)


async def stop_process(storm: Storms) -> None:
    kind = storm.draw.choice(("streamer", "worker"))
    if kind == "worker":
        storm.world.start_worker(RefreshScope(everything=True))
        await asyncio.sleep(storm.seconds(2, 10))
    process = storm.process(kind)
    if process is not None:
        seconds = storm.seconds(3, 240)
        storm.world.say(f"stop {process.name} for {seconds:.0f} s")
        storm.oracle.note("stop", {})
        storm.world.loop.stop_process(process)
        storm.after(seconds, lambda: storm.world.loop.continue_process(process))


async def daemon_down(storm: Storms) -> None:
    seconds = storm.seconds(20, 200)
    storm.world.say(f"daemon down for {seconds:.0f} s")
    storm.oracle.note("daemon", {})
    storm.world.daemon_until = storm.world.loop.time() + seconds


async def state_hangs(storm: Storms) -> None:
    """A frozen disk, or a server that answers nothing: no call fails, and no call returns."""
    seconds = min(storm.seconds(5, 240), storm.rest)
    storm.world.say(f"state database hangs for {seconds:.0f} s")
    storm.oracle.note("state", {})
    now = storm.world.loop.time()
    storm.world.loop.state_answers_at = now + seconds
    storm.world.daemon_until = max(storm.world.daemon_until, now + seconds)


async def disk(storm: Storms) -> None:
    kind = storm.draw.choice(("full", "lost answer"))
    storm.world.say(f"lake: {kind}")
    storm.oracle.note("disk", {})
    storm.until_healed(storm.world.lake_trouble(kind), storm.seconds(5, 200))


# Deeds of people


async def trade(storm: Storms) -> None:
    account, conid = storm.draw.choice(storm.held())
    quantity = float(storm.draw.choice((-3, -1, 1, 2, 7)))
    storm.perform("resize", account=account, conid=conid, quantity=quantity)


async def close_position(storm: Storms) -> None:
    held = storm.held()
    if len(held) > 12:
        account, conid = storm.draw.choice(held)
        storm.perform("close", account=account, conid=conid)


async def open_position(storm: Storms) -> None:
    free = _tradable(storm)
    if free:
        account, conid = storm.draw.choice(free)
        storm.perform("open", account=account, conid=conid, quantity=float(storm.draw.choice((-2, 1, 5))))
        if storm.draw.random() < 0.5:
            _activate(storm, [conid])


async def roll(storm: Storms) -> None:
    """An option is closed and another one of its underlying opened, in the same second."""
    contracts = storm.world.gateway.universe.contracts
    options = [key for key in storm.held() if contracts[key[1]].sec_type == "OPT"]
    if options:
        account, conid = storm.draw.choice(options)
        others = [
            other
            for owner, other in _tradable(storm)
            if owner == account and contracts[other].underlying_conid == contracts[conid].underlying_conid
        ]
        storm.perform("close", account=account, conid=conid)
        if others:
            storm.perform("open", account=account, conid=storm.draw.choice(others), quantity=-1.0)


async def assign(storm: Storms) -> None:
    contracts = storm.world.gateway.universe.contracts
    options = [key for key in storm.held() if contracts[key[1]].sec_type == "OPT"]
    if options:
        account, conid = storm.draw.choice(options)
        storm.perform("assign", account=account, conid=conid)


async def flatten(storm: Storms) -> None:
    """An account closes everything, and holds most of it again: seconds later, or at the next such deed."""
    if not storm.flat:
        account = storm.draw.choice(storm.world.gateway.config.accounts)
        if len(storm.held()) < 20 or all(owner == account for owner, _ in storm.held()):
            return
        storm.flat = [item for item in storm.held() if item[0] == account]
        storm.perform("flatten", account=account, overnight=storm.draw.random() < 0.5)
        if storm.draw.random() < 0.5:
            return
        await asyncio.sleep(storm.seconds(1, 60))
    again = storm.draw.sample(storm.flat, (2 * len(storm.flat) + 2) // 3)
    storm.flat = []
    for account, conid in again:
        if (account, conid) not in storm.held():
            storm.perform("open", account=account, conid=conid, quantity=float(storm.draw.choice((-2, 1, 5))))


async def rename(storm: Storms) -> None:
    """A corporate action changes the symbol of a stock, whose conid stays."""
    contracts = storm.world.gateway.universe.contracts
    stocks = sorted({conid for _, conid in storm.held() if contracts[conid].sec_type == "STK"})
    if stocks:
        conid = storm.draw.choice(stocks)
        storm.perform("rename", conid=conid, symbol=f"{contracts[conid].symbol[:8]}X")


async def activate(storm: Storms) -> None:
    _activate(storm, storm.conids(6))


async def deactivate(storm: Storms) -> None:
    strategy = storm.draw.choice(STRATEGIES)
    members = storm.oracle.members(strategy)
    if members:
        chosen = storm.draw.sample(members, storm.draw.randint(1, len(members)))
        storm.world.say(f"people: {strategy} no longer uses {chosen}")
        storm.world.registry.remove_active(strategy, chosen)
        storm.oracle.deactivated(strategy, chosen)


async def refresh_all(storm: Storms) -> None:
    storm.world.start_worker(RefreshScope(everything=True))


async def ask(storm: Storms) -> None:
    """Someone wants a position refreshed, perhaps while a run has it."""
    account, conid = storm.draw.choice(storm.held())
    storm.world.say(f"people: refresh {account} {conid}")
    storm.world.queue.insert(conid, "asked", account=account)
    storm.oracle.asked((account, conid))


async def run_and_ask(storm: Storms) -> None:
    """Asked for while a run is at it."""
    storm.world.start_worker(RefreshScope(everything=True))
    # A run that nothing disturbs is over within half a second of its start.
    await asyncio.sleep(storm.draw.choice((storm.seconds(2.02, 2.4), storm.seconds(2.02, 6.0))))
    for _ in range(6):
        await ask(storm)


async def ask_for_leased(storm: Storms) -> None:
    """Insert items again that runs have leased, possibly between their observation and their acknowledgement.

    The last deed of a storm: nothing else refreshes it soon after, which would hide that the wish was forgotten.
    """
    storm.perform("quiet", conids=storm.conids(6))  # a batch waits for those, while the others are observed
    storm.world.start_worker(RefreshScope(everything=True))
    await asyncio.sleep(storm.seconds(2.5, 6))
    for item in storm.world.queue.items(QueueState.LEASED, limit=8):
        storm.world.say(f"people: refresh {item.account} {item.conid}, which a run has")
        storm.world.queue.insert(item.conid, item.symbol, account=item.account)
        storm.oracle.asked(item.key)
    await asyncio.sleep(storm.seconds(0, 6))


async def rush(storm: Storms) -> None:
    """All lines are in use, and more are wanted: several runs, slow quotes, strategies that change in the same second.

    Runs are killed within it, so that their lines and items are left.
    """
    if storm.draw.random() < 0.7:
        # Their quotes do not come: a batch keeps the line until it gives up.
        storm.perform("quiet", conids=storm.conids(12))
    for _ in range(storm.draw.choice((2, 2, 3))):
        storm.world.start_worker(RefreshScope(everything=True))
    await asyncio.sleep(storm.seconds(2.1, 6))
    for _ in range(storm.draw.randint(2, 5)):
        chance = storm.draw.random()
        if chance < 0.6:
            await deactivate(storm)
            _activate(storm, storm.conids(5))
            _want_too_many(storm)
        elif chance < 0.8:
            await ask(storm)
        else:
            _kill(storm, "worker")
        await asyncio.sleep(storm.draw.choice((storm.seconds(0, 0.5), storm.seconds(0.5, 5))))


def _want_too_many(storm: Storms) -> None:
    """More contracts than lines: who gives way to whom is a question only then."""
    settings = storm.world.settings
    budget = settings.market_data_lines - settings.reserved_lines - settings.batch_lines
    active = {conid for strategy in STRATEGIES for conid in storm.oracle.members(strategy)}
    others = sorted({conid for _, conid in storm.held()} - active)
    missing = budget + 4 - len(active)
    if missing > 0 and others:
        _activate(storm, storm.draw.sample(others, min(missing, len(others))))


def _activate(storm: Storms, conids: list[int]) -> None:
    strategy = storm.draw.choice(STRATEGIES)
    priority = storm.draw.choice((5, 10, 20, 30, 40))
    storm.world.say(f"people: {strategy} uses {conids} at priority {priority}")
    with contextlib.suppress(UsageError):
        storm.world.registry.add_active(strategy, conids, priority=priority)
        storm.oracle.activated(strategy, conids, priority)


def _tradable(storm: Storms) -> list[tuple[str, int]]:
    """Account and contract of what could be opened."""
    held = set(storm.held())
    accounts = storm.world.gateway.config.accounts
    contracts = [item for item in storm.world.gateway.universe.contracts.values() if item.is_tradable]
    chosen = storm.draw.sample(contracts, min(len(contracts), 40))
    return [(account, item.conid) for account in accounts for item in chosen if (account, item.conid) not in held]


FAULTS: dict[str, Deed] = {
    deed.__name__: deed
    for deed in (
        drop, refuse, blackhole, delay, bad_frame, occupy, too_fast, link, server, farm, competing, dead_streams,
        fewer_lines, tws_windows, contract_trouble, advice, rejected, cut_download, cut_positions, feed_taken,
        not_ready, traded_after_download, kill_streamer, kill_worker, stop_process, daemon_down, disk, state_hangs,
    )
}  # fmt: skip
DEEDS: dict[str, Deed] = {
    deed.__name__: deed
    for deed in (
        trade, close_position, open_position, roll, assign, flatten, rename, activate, deactivate, refresh_all, ask,
        run_and_ask,
    )
}  # fmt: skip
