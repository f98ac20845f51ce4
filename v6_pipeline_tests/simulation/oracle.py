"""Rules that hold at every moment, and rules that hold again some time after a storm.

Judged from the gateway's side (``truth``), the Delta tables and the state database's content; never from what a process
says of itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from v6_pipeline.lake.reader import latest_positions
from v6_pipeline.lake.tables import QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.state.account import holdings as holdings_store
from v6_pipeline.state.queue.items import QueueState
from v6_pipeline.state.slots.allocation import UNCONFIRMED_LINES, UNCONFIRMED_MOST
from v6_pipeline.streaming.competing_session import RETRY
from v6_pipeline_tests.simulation.truth import Key, Truth
from v6_pipeline_tests.simulation.world import FLUSH_SECONDS, World

LOOK_SECONDS = 5.0
QUIET_LOOK_SECONDS = 15.0
"""Once a storm is long over."""
SLOTS_OUTLIVE_BY = 75.0
"""A slot lasts at most a minute from when its holder last renewed it."""
STREAMS_AFTER = 120.0
"""45 s after a storm, and the stretched looks: registry, upkeep, sensor."""
RESTART_AFTER = 220.0
"""The same if a process was killed or stopped: its absence must be noticed first."""
LINES_AFTER = 540.0
"""Lines that came back are asked for again after 2, then up to 8 minutes."""
RESTED_AFTER = 720.0
"""A contract that brought no tick while others did gives its line to one that waits, and rests for ten minutes."""
REFRESHED_AFTER = 300.0
ASKED_WITHIN = 260.0
_REFRESH_MARGIN = 75.0
_STILL_SECONDS = FLUSH_SECONDS + 8.0
_AWAKE_AFTER = 240.0
"""At night a stream that died without a word is not missed: it is looked at again once the exchange is open."""
_MOST_LINE_ERRORS = ((30.0, 5), (600.0, 12))
"""Most errors 101 in so many seconds, two of each round of requests: a few when lines are lost, then one per probe."""
_MESSAGES_PER_SECOND = 50
_SLACK = timedelta(seconds=3)

NEVER = {300: "cancel of an unknown request", 321: "invalid request", 322: "duplicate id", 102: "duplicate id"}
ORDER_CODES = {103, 104, 105, 106, 107, 109, 110, 201, 202, 203, 399, 404, 434}
_CONTRACT_TROUBLE = {"deny", "unqualify", "reject_market_data", "expire", "distort_prices", "halt", "withhold_greeks"}
_DATA_TROUBLE = {
    "link_lost", "server_broken", "farm_broken", "competing_session", "kill_streams", "quiet", "blackhole", "delay",
}  # fmt: skip
_LINE_TROUBLE = {"lines", "tws_lines"}
_PROCESS_TROUBLE = {"kill", "stop", "daemon", "state"}


_HARMLESS = {
    "competing_session", "kill_streams", "resize", "open", "close", "assign", "flatten", "rename", "quiet", "heal",
    "trade_after_download", "account_not_ready", "account_ready",
}  # fmt: skip
_MESSAGES_LATE = {"delay", "blackhole", "stop", "state"}
"""What was sent before such a trouble may be read minutes later."""


def _kills_at_most_all(name: str, fields: dict[str, Any]) -> bool:
    """Not a trouble that hides whether streams that died together are missed."""
    return name in _HARMLESS and not (name == "kill_streams" and "conids" in fields)


class Oracle:
    """Watches one day.

    Args:
        world: the day.
        problems: receives what is wrong.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.truth = Truth(world)
        self.violation: asyncio.Future[str] = world.loop.create_future()
        self.checks = 0
        self.convergences = 0
        self.revivals = 0
        self.peak_lines = 0
        """The most at the gateway so far."""
        self._members: dict[str, dict[int, int]] = defaultdict(dict)
        self._notes: list[tuple[float, str, dict[str, Any]]] = []
        self._last: dict[str, float] = {}
        self._calm_since: float | None = None
        self._storm_had: set[str] = set()
        self._asked: list[tuple[Key, datetime, float]] = []
        self._errors_seen: dict[int, int] = {}
        self._line_errors: list[float] = []
        self._logins = 0
        self._opened_at: float | None = None
        self._blind_since: datetime | None = None
        self._looked_at = world.now
        self._values_due: float | None = None
        self.blind: list[tuple[datetime, datetime]] = []
        """Between these instants no streamer had a link to the broker."""
        self.resets: list[tuple[datetime, datetime]] = []
        """Between these instants no account was ready, and no message was late."""
        self._reset_since: tuple[float, datetime] | None = None
        self.delivered: dict[int, list[datetime]] = defaultdict(list)
        """Times at which ticks of a contract were sent."""
        self.quantities: dict[Key, list[tuple[datetime, float]]] = defaultdict(list)
        """Quantities held, each with its begin."""
        self._seen: dict[str, tuple[float, object]] = {}
        self._dead_since: dict[str, float] = {}
        self._streamed_in_storm: set[int] = set()
        self._alive_by: tuple[float, float] | None = None
        """Begin of the time without other faults, and the deadline for all streams to be alive again."""
        self._waited_for_tries = False
        self.urgent: int | None = None
        """Must stream whatever else does."""
        self._hook()

    # Reports of storms

    def note(self, name: str, fields: dict[str, Any]) -> None:
        """A fault begins."""
        now = self.world.loop.time()
        self._notes.append((now, name, fields))
        self._last[name] = now
        self._storm_had.add(name)
        if name == "account_not_ready" and self._reset_since is None:
            self._reset_since = now, self.world.now
        elif name in {"account_ready", "heal"} and self._reset_since is not None:
            since, begin = self._reset_since
            if not any(at > since - 300 and trouble in _MESSAGES_LATE for at, trouble, _ in self._notes):
                self.resets.append((begin, self.world.now))
            self._reset_since = None

    def storm_begins(self) -> None:
        self._calm_since = None
        self._storm_had = set()
        self._streamed_in_storm.clear()
        self.urgent = None

    def excused(self) -> set[int]:
        """Contracts that may have lost their right to a line: refused, or streamed in the storm without a tick."""
        return self._troubled() | self._lately_quiet() | self._streamed_in_storm

    def storm_had(self, name: str) -> bool:
        """Return True if such a fault happened since the storm began."""
        return name in self._storm_had

    def calm_begins(self) -> None:
        """Begin a calm: all faults are healed and no changes are made."""
        self._calm_since = self.world.loop.time()
        self._values_due = None

    def activated(self, strategy: str, conids: list[int], priority: int) -> None:
        self._members[strategy] |= dict.fromkeys(conids, priority)

    def deactivated(self, strategy: str, conids: list[int]) -> None:
        for conid in conids:
            self._members[strategy].pop(conid, None)

    def members(self, strategy: str) -> list[int]:
        return sorted(self._members[strategy])

    def asked(self, key: Key) -> None:
        self._asked.append((key, self.world.now, self.world.loop.time()))

    def streams_must_live(self, *, in_seconds: float, untroubled_for: float = 300.0) -> None:
        """Expect dead streams to be streaming again by then, unless other faults happen, or happened shortly before."""
        now = self.world.loop.time()
        self._alive_by, self._waited_for_tries = (now - untroubled_for, now + in_seconds), False

    # Watching

    async def watch(self) -> None:
        """Look again and again, until the day is over or something is wrong."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            is_quiet = self._calm_for() > RESTART_AFTER + STREAMS_AFTER
            if not is_quiet or self._is_every(QUIET_LOOK_SECONDS if self.world.refreshes else 60.0):
                self.look()

    def look(self) -> None:
        """One look."""
        self.checks += 1
        self._note_blindness()
        self.note_book()
        self._note_hours()
        self._check_crashes()
        self._check_errors()
        self._check_rate()
        self._check_peak()
        self._check_alive()
        if self._is_every(30.0) and self._calm_for() < LINES_AFTER:
            self._check_dead_slots()
        calm = self._calm_for()
        if calm < STREAMS_AFTER:
            self._streamed_in_storm |= self.truth.streamed().keys()
        restarted = bool(self._storm_had & _PROCESS_TROUBLE)
        settled = RESTART_AFTER if restarted else STREAMS_AFTER
        if calm < settled:
            return
        self._check_streams(with_lines=not self._storm_had & _LINE_TROUBLE or calm >= LINES_AFTER)
        if self._is_every(30.0):
            self._check_ledger()
            if calm >= settled + REFRESHED_AFTER and self._refreshed_for() >= REFRESHED_AFTER:
                self._check_holdings()
        if self._is_every(60.0):
            self._check_asked()
            self._check_dead_letters()
        if self.world.is_session and self._refreshed_for() >= _AWAKE_AFTER:
            self._check_values_once()

    def wrong(self, what: str) -> None:
        """Something does not hold."""
        if not self.violation.done():
            self.violation.set_result(what)

    def _calm_for(self) -> float:
        return -1.0 if self._calm_since is None else self.world.loop.time() - self._calm_since

    def _note_hours(self) -> None:
        if not self.world.refreshes:
            self._opened_at = None
        elif self._opened_at is None:
            self._opened_at = self.world.loop.time()

    def _refreshed_for(self) -> float:
        """Seconds for which the schedule has refreshed without a break."""
        return 0.0 if self._opened_at is None else self.world.loop.time() - self._opened_at

    def _is_every(self, seconds: float) -> bool:
        return int(self.world.loop.time() / seconds) != int((self.world.loop.time() - LOOK_SECONDS) / seconds)

    def _within(self, name: str, seconds: float) -> bool:
        """Return True if a fault happened less than so many seconds ago."""
        return name in self._last and self.world.loop.time() - self._last[name] < seconds

    # At every moment

    def _hook(self) -> None:
        statistics = self.world.gateway.statistics
        taken, delivered = statistics.line_taken, statistics.delivered

        def line_taken(conid: int) -> None:
            taken(conid)
            # The session notes its subscription right after this.
            self.world.loop.call_soon(self._check_lines)

        def delivered_now(conid: int, sequence: int, values: Any, ticks: int) -> None:
            delivered(conid, sequence, values, ticks)
            if ticks:
                self.delivered[conid].append(self.world.now)

        book = self.world.gateway.book
        resize = book.resize

        def resized(account: str, conid: int, quantity: float) -> Any:
            self.world.loop.call_soon(self.note_book)
            return resize(account, conid, quantity)

        book.resize = resized  # type: ignore[method-assign]
        statistics.line_taken = line_taken  # type: ignore[method-assign]
        statistics.delivered = delivered_now  # type: ignore[method-assign]

    def _check_lines(self) -> None:
        settings = self.world.settings
        ceiling = settings.market_data_lines - settings.reserved_lines
        lines = self.truth.lines()
        total = sum(len(conids) for conids in lines.values())
        if self.world.gateway.statistics.lines > ceiling:
            self.world.say(
                f"gateway: {self.world.gateway.statistics.lines} lines in use, {total} of them by processes that run"
            )
        if total > ceiling:
            shown = {process.name: len(conids) for process, conids in lines.items()}
            self.wrong(f"{total} lines in use, {ceiling} allowed: {shown}")
        for process, conids in lines.items():
            twice = {conid for conid in conids if conids.count(conid) > 1}
            if twice:
                self.wrong(f"{process.name} subscribed twice to {sorted(twice)}")
        streamed = self.truth.streamed()
        twice = {conid for conid, count in streamed.items() if count > 1}
        if twice:
            self.wrong(f"streamed twice: {sorted(twice)}")
        if sum(streamed.values()) > ceiling - settings.batch_lines:
            self.wrong(f"{sum(streamed.values())} streams, {ceiling - settings.batch_lines} allowed")

    def _check_crashes(self) -> None:
        for what in (*self.world.crashes, *self.world.loop.failures):
            self.wrong(f"crash: {what}")

    def _check_errors(self) -> None:
        statistics = self.world.gateway.statistics
        for code, count in statistics.errors.items():
            new = count - self._errors_seen.get(code, 0)
            self._errors_seen[code] = count
            if new:
                self._check_error(code, new)
        if statistics.order_messages:
            self.wrong(f"{statistics.order_messages} order messages")
        if statistics.unknown_messages:
            self.wrong(f"messages that the gateway does not serve: {dict(statistics.unknown_messages)}")

    def _check_error(self, code: int, new: int) -> None:
        if code in ORDER_CODES or (code in NEVER and not self._explains(code)):
            self.wrong(f"error {code} ({NEVER.get(code, 'order-side')}), {new} times")
        elif code == 100 and not self._within("exceed_rate", 600):
            self.wrong("error 100: too many messages in a second")
        elif code == 101:
            now = self.world.loop.time()
            # What a long wire carries when the first 101 arrives cannot be recalled: it counts as one round.
            self._line_errors += [now] * min(new, UNCONFIRMED_LINES)
            if new > UNCONFIRMED_LINES + UNCONFIRMED_MOST:
                self.wrong(f"error 101 {new} times at once")
            for seconds, most in _MOST_LINE_ERRORS:
                count = sum(now - at < seconds for at in self._line_errors)
                if count > most:
                    self.wrong(f"error 101 {count} times in {seconds:.0f} s")
            reserve = self.world.settings.reserved_lines
            held = [fields["lines"] for at, name, fields in self._notes if name == "tws_lines" and now - at < 900]
            if not self._within("lines", 900) and all(lines <= reserve for lines in held):
                self.wrong("error 101 though TWS holds no more lines than are in reserve")

    def _explains(self, code: int) -> bool:
        """IB answers a cancel with 300 where it dropped the request itself, and the two crossed."""
        dropped = ("link_restored", "lines", "deny", "expire", "play", "heal", "kill_streams", "server_broken")
        return code == 300 and any(self._within(name, 30) for name in dropped)

    def _check_rate(self) -> None:
        peak = self.world.gateway.statistics.peak_rate
        if peak > _MESSAGES_PER_SECOND:
            self.wrong(f"{peak} messages in a second, of all clients together")

    def _check_peak(self) -> None:
        """The gateway's own count of lines, while no process or connection ends: none is left behind by one then."""
        statistics, settings = self.world.gateway.statistics, self.world.settings
        peak, allowed = statistics.peak_lines, settings.market_data_lines - settings.reserved_lines
        self.peak_lines = max(self.peak_lines, peak)
        if peak > allowed and self._calm_for() >= RESTART_AFTER:
            self.wrong(f"{peak} lines in use at the gateway, {allowed} allowed")
        statistics.peak_lines = statistics.lines

    def _check_dead_slots(self) -> None:
        """Check, in storms too, that no slot outlives its holder by more than its time to live."""
        now = self.world.loop.time()
        living = {process.name.rpartition("/")[2] for process in self.world.living}  # the epoch, or the run's name
        holders = Counter(slot.holder for slot in self.world.ledger.usage().slots)
        dead = [holder for holder in holders if holder.rpartition("/")[2] not in living]
        self._dead_since = {holder: self._dead_since.get(holder, now) for holder in dead}
        for holder, since in self._dead_since.items():
            if now - since > SLOTS_OUTLIVE_BY:
                self.wrong(f"{holders[holder]} lines are kept for {holder}, dead for {now - since:.0f} s")

    def _check_alive(self) -> None:
        """Check, in storms too, that streams are alive again unless another fault explains it."""
        now = self.world.loop.time()
        if self._alive_by is None or now < self._alive_by[1]:
            return
        untroubled_since, _ = self._alive_by
        self._alive_by = None
        tries = self._tries_in_vain(untroubled_since)
        if tries and not self._waited_for_tries:
            seconds = tries * RETRY.total_seconds()
            self._alive_by, self._waited_for_tries = (untroubled_since, now + seconds), True
            self.world.alert_until = now + seconds
            return
        self._waited_for_tries = False
        if tries is None:
            return
        if all(at < untroubled_since or _kills_at_most_all(name, fields) for at, name, fields in self._notes):
            self.revivals += 1
            dead = self.truth.dead()
            if dead:
                self.wrong(f"dead streams that nobody has missed: {dead}")

    def _tries_in_vain(self, since: float) -> int | None:
        """Number of contracts tried one by one before one ticks after a competing session; None: all."""
        if not any(at >= since and name == "competing_session" for at, name, _ in self._notes):
            return 0
        streamed = self.truth.streamed()
        silent = {conid for conid in streamed if not self.world.gateway.market.flows(conid)}
        return len(silent) if silent != set(streamed) else None

    # After a storm

    def _wanted(self) -> dict[int, int]:
        """Held contracts of active strategies, with their best priority."""
        held = {conid for _, conid in self.truth.book()}
        wanted: dict[int, int] = {}
        for members in self._members.values():
            for conid, priority in members.items():
                if conid in held:
                    wanted[conid] = min(priority, wanted.get(conid, priority))
        return wanted

    def _check_streams(self, *, with_lines: bool) -> None:
        settings = self.world.settings
        budget = settings.market_data_lines - settings.reserved_lines - settings.batch_lines
        wanted, streamed = self._wanted(), self.truth.streamed()
        self.convergences += 1
        forgiven = self._troubled()
        surplus = streamed.keys() - wanted.keys()
        missing = wanted.keys() - streamed.keys() - forgiven
        worst = max((wanted.get(conid, 0) for conid in streamed), default=0)
        better = sorted(conid for conid in missing if wanted[conid] < worst)
        lacking = min(budget, len(wanted.keys() - forgiven)) - len(streamed)
        # A look may fall between a cancel and the subscription that follows it.
        if self._stays("surplus", sorted(surplus), 45.0) and surplus:
            self.wrong(f"streamed, though of no active strategy or not held: {sorted(surplus)}")
        if self._stays("lacking", with_lines and lacking > 0, 45.0) and with_lines and lacking > 0:
            self.wrong(f"{len(streamed)} contracts streamed, {lacking} more expected; not streamed: {sorted(missing)}")
        better = [conid for conid in better if conid not in self._lately_quiet()]
        rested = self._calm_for() >= RESTED_AFTER or not self._storm_had & (_DATA_TROUBLE - {"quiet"})
        is_fair = with_lines and rested and self.world.is_session
        # Who was urgent before keeps its priority: there may be as many of those as lines.
        pressing = self.urgent if with_lines and self.urgent in missing and wanted[self.urgent] < worst else None
        if self._stays("urgent", pressing, 60.0) and pressing is not None:
            self.wrong(f"{pressing}, wanted more than all that stream, gets no line")
        if self._stays("better", is_fair and better, 30.0) and is_fair and better:
            self.wrong(f"contracts of a better priority than some that stream get none: {better}")

    def _troubled(self, *faults: str) -> set[int]:
        """Contracts that the broker refused today: how soon they are asked for again is the product's choice."""
        return {
            conid
            for _, name, fields in self._notes
            if name in _CONTRACT_TROUBLE or name in faults
            for conid in fields.get("conids", self._wanted())
        }

    def _lately_quiet(self) -> set[int]:
        """Contracts whose silence may have cost them their line."""
        since = self.world.loop.time() - 2 * RESTED_AFTER
        return {
            conid for at, name, fields in self._notes if name == "quiet" and at > since for conid in fields["conids"]
        }

    def _check_ledger(self) -> None:
        """A slot of the ledger belongs to a process that lives, and streams are slots."""
        living = [process.name for process in self.world.living]
        usage = self.world.ledger.usage()
        for slot in usage.slots:
            if slot.holder.startswith("streamer/") and slot.holder not in living:
                self.wrong(f"a line of {slot.conid} is kept for {slot.holder}, which is no more")
        streams = {slot.conid for slot in usage.slots if slot.holder.startswith("streamer/")}
        odd = streams ^ set(self.truth.streamed())
        if self._stays("ledger", odd, 60.0) and odd:
            self.wrong(f"the ledger and the gateway differ about the lines of {sorted(odd)}")

    def _stays(self, what: str, value: object, seconds: float) -> bool:
        """Return True if a value is unchanged for some time, because one look may fall between two steps."""
        now = self.world.loop.time()
        since, before = self._seen.get(what, (now, value))
        if before != value:
            since = now
        self._seen[what] = (since, value)
        return now - since >= seconds

    def _check_holdings(self) -> None:
        """Every position is known, and every value young enough."""
        world, now = self.world, self.world.now
        book = self.truth.book()
        with world.database.read() as connection:
            stored = holdings_store.find(connection, {item.key for item in holdings_store.list_open(connection)})
        known = {key: item.holding.position for key, item in stored.items()}
        if self._stays("book", repr(known) if known != book else None, 60.0) and known != book:
            odd = {key: (known.get(key), book.get(key)) for key in known.keys() | book.keys()}
            shown = {key: values for key, values in odd.items() if values[0] != values[1]}
            self.wrong(f"positions differ from the gateway's (known, true): {shown}")
        renamed = {fields["conid"] for _, name, fields in self._notes if name == "rename"}
        contracts = world.gateway.universe.contracts
        symbols = {
            key: (item.holding.contract.symbol, contracts[key[1]].symbol)
            for key, item in stored.items()
            if key[1] in renamed and item.holding.contract.symbol != contracts[key[1]].symbol
        }
        if self._stays("symbols", repr(symbols), 60.0) and symbols:
            self.wrong(f"symbols differ from the gateway's (known, true): {symbols}")
        streamed = self.truth.streamed()
        limit = timedelta(seconds=world.settings.refresh_seconds + _REFRESH_MARGIN)
        if self._calm_for() < limit.total_seconds() + RESTART_AFTER:
            return
        for key, item in stored.items():
            since = item.refreshed_at
            is_old = key[1] not in streamed and (since is None or now - since > limit)
            if self._stays(f"age {key}", is_old, 90.0) and is_old:
                self.wrong(f"value of {key} is from {since}, older than {limit.total_seconds():.0f} s")

    def _check_asked(self) -> None:
        """Check that each requested refresh has a row observed after the request, not one about to be written."""
        if not self._asked or not self.world.refreshes:
            return
        calm = self._calm_for()
        due = [item for item in self._asked if calm >= ASKED_WITHIN]
        if not due or self._refreshed_for() < ASKED_WITHIN:
            return
        handle = self.world.lake.table(QUEUED_POSITIONS).load()
        if handle is None:
            self.wrong("no queued position was ever written")
            return
        rows = pl.scan_delta(handle).group_by("account", "conid").agg(pl.col("price_time").max()).collect()
        newest = {(row[0], row[1]): row[2] for row in rows.iter_rows()}
        book = self.truth.book()
        dead = {item.key for item in self.world.queue.items(QueueState.DEAD)}
        for key, at, _ in due:
            if key in book and key not in dead and (newest.get(key) is None or newest[key] < at):
                self.wrong(f"a refresh of {key} was asked for at {at}; it was last observed at {newest.get(key)}")
        self._asked = [item for item in self._asked if item not in due]

    def _check_dead_letters(self) -> None:
        dead = self.world.queue.items(QueueState.DEAD)
        if dead:
            self.wrong(f"dead letters: {[(item.key, item.last_error) for item in dead]}")

    # What was the case when

    def _note_blindness(self) -> None:
        """Record the times without a connected streamer or without the gateway's link, for ``ledgers``."""
        statistics, now = self.world.gateway.statistics, self.world.now
        logins = statistics.connections[self.world.settings.ib_client_id]
        is_blind = not self.truth.sees() and logins == self._logins
        self._logins = logins
        if is_blind and self._blind_since is None:
            self._blind_since = now
        elif not is_blind and self._blind_since is not None:
            # It may have seen again right after the last look.
            self.blind.append((self._blind_since, self._looked_at))
            self._blind_since = None
        self._looked_at = now

    def note_book(self) -> None:
        """Record the quantities that the gateway holds from now on; called at each look and after each trade."""
        book, now = self.truth.book(), self.world.now
        for key in book.keys() | self.quantities.keys():
            story, quantity = self.quantities[key], book.get(key, 0.0)
            if not story or story[-1][1] != quantity:
                story.append((now, quantity))

    # Values

    def _check_values_once(self) -> None:
        """Once in a calm: one last tick, then none for longer than a flush, then the lake must have it."""
        now = self.world.loop.time()
        if self._values_due is None:
            self.world.gateway.tick_once()
            self._values_due = now + _STILL_SECONDS
            self.world.still_until = self._values_due + QUIET_LOOK_SECONDS
        elif self._values_due <= now < self.world.still_until:
            self.check_values()

    def check_values(self) -> None:
        """The newest row of each streamed contract is what the gateway last sent. No tick for over a flush."""
        newest = latest_positions([self.world.lake.table(STREAMED_POSITIONS)])
        rows = {(row["account"], row["conid"]): row for row in newest.to_dicts()}
        sent = self.world.gateway.statistics.last_values
        streamed = self.truth.streamed()
        # One stream that dies without a word while others of its kind tick is a contract that does not trade.
        troubled = self._troubled("kill_streams")
        for (account, conid), quantity in self.truth.book().items():
            if conid not in streamed or conid in troubled or conid not in sent:
                continue
            if self.world.now - self.delivered[conid][-1] < timedelta(seconds=_STILL_SECONDS - LOOK_SECONDS):
                continue  # subscribed again since: its first ticks wait for the next flush
            row = rows.get((account, conid))
            if row is None:
                self.wrong(f"{conid} of {account} is streamed, and has no row")
                continue
            if row["position"] != quantity:
                self.wrong(f"{conid} of {account}: position {row['position']} in the lake, {quantity} in the book")
            magnifier = self.world.gateway.universe.contracts[conid].price_magnifier
            for name in ("bid", "ask", "last"):
                quoted = sent[conid].get(name)
                true = quoted if quoted in {None, -1} else round(quoted / magnifier, 9)
                if true is not None and true != row[name] and not (true == -1 and row[name] is None):
                    self.wrong(f"{name} of {conid}: {row[name]} in the lake, {true} was sent last")
