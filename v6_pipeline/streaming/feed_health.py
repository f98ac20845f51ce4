"""Whether market data really flows: proven by ticks, not assumed from what the gateway says.

Pure: events and ticks in, a verdict per feed and what to subscribe again out; no sockets, no clock of its own. A feed
is what one of IB's data farms serves: stocks, options, futures, currencies. The broker's own word does not suffice:
streams were seen dead for hours after "connectivity restored, data maintained", and after a farm that was away for
three seconds, with every heartbeat answered. So after each such event, and when a feed falls silent while the exchange
is open, its contracts are watched, and subscribed again until they tick. No canary contract takes a line for it: asking
anew for what is subscribed costs messages only, and its first ticks are the same proof.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from v6_pipeline.model import SecType
from v6_pipeline.streaming.competing_session import CompetingSession
from v6_pipeline.streaming.status import FeedStatus
from v6_pipeline.streaming.tick_rate import Rhythm

FIRST_BURST = timedelta(seconds=2)
"""Ticks this soon after an event may be what the gateway had kept: they prove nothing."""
VERIFY_WITHIN = timedelta(seconds=10)
"""A feed that did not tick by then, while the exchange is open, is subscribed again."""
SILENT_RETRY = timedelta(seconds=160)
"""A feed that fell silent and was subscribed again in vain is asked for again after that, then ever more rarely."""
OPENING = timedelta(seconds=1)
"""What a subscription brings so soon says nothing of what follows."""
LIVELY = timedelta(seconds=60)
"""A contract that ticked this shortly before an event is expected to tick after it."""
CONTRACT_VERIFY_WITHIN = timedelta(seconds=30)
"""It is subscribed again, by itself, if it has not by then, though its feed ticks."""
FARM_PATIENCE = timedelta(minutes=5)
"""A broken farm is IB's to mend for that long; then its contracts are asked for again, for a notice may be lost."""
RETRY_MAX = timedelta(minutes=15)
_DOUBLINGS = 10
"""More are beyond every limit here, and after some forty beyond what a ``timedelta`` holds."""


class Feed(enum.StrEnum):
    """What one farm serves."""

    STOCKS = "stocks"
    OPTIONS = "options"
    FUTURES = "futures"
    CURRENCIES = "currencies"

    @classmethod
    def of(cls, sec_type: SecType) -> Feed:
        """The feed of a contract."""
        if sec_type.is_option:
            return cls.OPTIONS
        if sec_type is SecType.FUTURE:
            return cls.FUTURES
        return cls.CURRENCIES if sec_type in {SecType.CURRENCY, SecType.CRYPTO} else cls.STOCKS

    @classmethod
    def of_farm(cls, farm: str) -> frozenset[Feed]:
        """The feeds that a farm serves, by its name such as ``usopt``; all of them where the name says nothing."""
        name = farm.casefold()
        for part, feed in (("opt", cls.OPTIONS), ("fut", cls.FUTURES), ("cash", cls.CURRENCIES)):
            if part in name:
                return frozenset({feed})
        return frozenset({cls.STOCKS}) if "farm" in name else frozenset(cls)


class FeedState(enum.StrEnum):
    """What is known of a feed."""

    FLOWING = "flowing"
    VERIFYING = "verifying"
    """Said to be back; not believed before it ticks."""
    UNVERIFIED = "unverified"
    """Said to be back while the exchange was closed and nothing ticked; verified at the open."""
    STALE = "stale"
    """Known to be away."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """Contracts to subscribe again, and why."""

    conids: frozenset[int]
    reason: str


@dataclass(slots=True)
class _Record:
    state: FeedState = FeedState.FLOWING
    reason: str = ""
    since: datetime | None = None
    """Data is in doubt since; ``None`` while it flows."""
    event_at: datetime | None = None
    """Ticks prove something once they are ``FIRST_BURST`` later than this; ``None``: any tick does."""
    ask_at: datetime | None = None
    """When to subscribe again."""
    asked: int = 0
    retry: timedelta = 2 * VERIFY_WITHIN
    """When to subscribe again after that, should it be in vain; twice as late each time."""
    asked_at: datetime | None = None
    silences: int = 0
    """How often in a row it fell silent after it was asked for: contracts that hardly trade are asked for ever less."""
    farms: set[str] = field(default_factory=set)
    """Farms of this feed that are broken now."""


class FeedHealth:
    """The verdict on each feed of one connection.

    Args:
        is_open: whether the exchange is in session at an instant; silence says nothing while it is closed.
    """

    def __init__(self, is_open: Callable[[datetime], bool]) -> None:
        self._is_open = is_open
        self._records = {feed: _Record() for feed in Feed}
        self._rhythms = {feed: Rhythm() for feed in Feed}
        self._feed_of: dict[int, Feed] = {}
        self._rhythm_of_all = Rhythm()
        self._tracked_at: dict[int, datetime] = {}
        self._since: dict[int, datetime] = {}
        """When a contract last ticked; before its first tick, since when it has been subscribed."""
        self._expected: dict[int, datetime] = {}
        """By when a contract has to tick that was just subscribed, or that was lively before an event."""
        self._unheard: dict[int, int] = {}
        """How often in a row a contract was subscribed again without a tick: it is asked for ever less."""
        self._open_since: datetime | None = None
        self._competing = CompetingSession()
        self._tried: dict[int, int] = {}
        """How often each contract was asked for while another login had the data."""

    # What happened

    def begin_session(self) -> None:
        """A new connection: everything is subscribed anew, and no farm is known to be broken."""
        self._records = {feed: _Record() for feed in Feed}
        for feed in Feed:
            self._pause_rhythm(feed)
        self._feed_of.clear()
        self._tracked_at.clear()
        self._since.clear()
        self._expected.clear()
        self._unheard.clear()
        self._competing.clear()

    def track(self, contracts: Mapping[int, SecType], now: datetime) -> None:
        """The contracts that are subscribed now, each with its type."""
        for conid in self._feed_of.keys() - contracts.keys():
            del self._feed_of[conid], self._since[conid], self._tracked_at[conid]
            self._expected.pop(conid, None)
        for conid, sec_type in contracts.items():
            if conid not in self._feed_of:
                self._since[conid] = self._tracked_at[conid] = now
                # Whatever else happens, a subscription begins with the values that there are: without any it is dead.
                patience = min(CONTRACT_VERIFY_WITHIN * 2 ** self._unheard.get(conid, 0), RETRY_MAX)
                self._expected[conid] = now + patience
            self._feed_of[conid] = Feed.of(sec_type)

    def knows(self, conid: int) -> bool:
        """Whether a contract is tracked."""
        return conid in self._feed_of

    def ticked(self, conid: int, now: datetime) -> None:
        """A contract brought data."""
        feed = self._feed_of.get(conid)
        if feed is None:
            return
        self._since[conid] = now
        if now - self._tracked_at[conid] > OPENING:
            self._rhythms[feed].heard(now)
            self._rhythm_of_all.heard(now)
        self._expected.pop(conid, None)
        self._unheard.pop(conid, None)
        if self._competing.ticked(now):
            self._end_competing(conid, now)
        record = self._records[feed]
        if record.state is FeedState.FLOWING:
            if record.asked_at is not None and now - record.asked_at > FIRST_BURST:
                record.silences = 0
        elif self._competing.since is None and (record.event_at is None or now - record.event_at > FIRST_BURST):
            self._records[feed] = _Record(asked_at=record.asked_at, silences=record.silences, farms=record.farms)

    def link_lost(self, now: datetime) -> None:
        """The gateway lost IB: every feed is stale until it says otherwise, or ticks."""
        for feed in Feed:
            self._mark_stale(feed, now, "the gateway lost its link to IB")

    def link_restored(self, now: datetime, *, farms_away: Iterable[str] = ()) -> None:
        """The link is back and data is said to be kept, but for the farms that are still away."""
        for feed in Feed:
            self._records[feed].farms.clear()
            self._verify(feed, now, "the link to IB was lost")
        for farm in farms_away:
            self.farm_broken(farm, now)

    def resubscribed(self, now: datetime) -> None:
        """Market data was lost, and everything was asked for anew: the first ticks are the proof."""
        for feed in Feed:
            self._records[feed].farms.clear()
            self._verify(feed, now, "market data was lost")
            self._records[feed].event_at = None

    def farm_broken(self, farm: str, now: datetime) -> None:
        """A farm is away."""
        for feed in Feed.of_farm(farm):
            self._mark_stale(feed, now, f"farm {farm or '(unnamed)'} is broken")
            self._records[feed].farms.add(farm)
            self._records[feed].ask_at = now + FARM_PATIENCE

    def farm_ok(self, farm: str, now: datetime) -> None:
        """A farm is there; no news unless it was broken."""
        for feed in Feed.of_farm(farm):
            record = self._records[feed]
            if farm in record.farms:
                record.farms.discard(farm)
                if not record.farms:
                    self._verify(feed, now, f"farm {farm} was broken")

    def competing_session(self, now: datetime) -> bool:
        """Another login has the data; whether that is to be told now, once in a quarter of an hour."""
        if self._competing.since is None:
            self._tried.clear()
            for feed in Feed:
                self._mark_stale(feed, now, "another login of this username has the market data")
        return self._competing.heard(now)

    # What follows

    def due(self, now: datetime) -> list[Renewal]:
        """What to subscribe again now; asked about once a second. Each answer counts as carried out."""
        is_open = self._is_open(now)
        if is_open and self._open_since is None:
            self._open_since = now
            for feed, record in self._records.items():
                if record.state is FeedState.UNVERIFIED:
                    self._verify(feed, now, record.reason)
        elif not is_open:
            self._open_since = None
        if self._competing.since is not None:
            return self._try_one(now)
        if is_open:
            self._notice_silences(now)
        renewals = [renewal for feed in Feed if (renewal := self._feed_due(feed, now)) is not None]
        late = self._late(now).difference(*(renewal.conids for renewal in renewals))
        if late:
            renewals.append(Renewal(late, "no tick since they were subscribed, or since their feed came back"))
        return renewals

    @property
    def competing_since(self) -> datetime | None:
        """Another login has had the data since; nothing new is subscribed meanwhile."""
        return self._competing.since

    @property
    def stale_since(self) -> datetime | None:
        """Since when data of some subscribed contract is away or in doubt; ``None`` if all of it flows."""
        records = (self._records[feed] for feed in set(self._feed_of.values()))
        return min((record.since for record in records if record.since and _is_blind(record)), default=None)

    def is_blind(self, conid: int) -> bool:
        """Whether a contract's data is away, or said to be back and not believed yet: no row is made without a tick."""
        feed = self._feed_of.get(conid)
        return feed is not None and _is_blind(self._records[feed])

    def describe(self) -> dict[str, FeedStatus]:
        """Return the feeds that do not flow, for the status."""
        return {
            feed.value: FeedStatus(state=record.state.value, since=record.since, reason=record.reason)
            for feed, record in self._records.items()
            if record.state is not FeedState.FLOWING
        }

    def _mark_stale(self, feed: Feed, now: datetime, reason: str) -> None:
        record = self._records[feed]
        self._pause_rhythm(feed)
        self._expect(feed, now)
        record.state, record.reason, record.since = FeedState.STALE, reason, record.since or now
        record.event_at, record.ask_at, record.asked, record.retry = now, None, 0, 2 * VERIFY_WITHIN

    def _verify(self, feed: Feed, now: datetime, reason: str) -> None:
        record = self._records[feed]
        self._pause_rhythm(feed)
        self._expect(feed, now)
        # What ticked until the event, such as a future at night, is expected to tick after it at any hour.
        lively = any(self._feed_of[conid] is feed for conid in self._expected)
        ticks = lively or self._is_open(now)
        record.state = FeedState.VERIFYING if ticks else FeedState.UNVERIFIED
        record.reason, record.since = reason, record.since or now
        record.event_at, record.asked, record.retry = now, 0, 2 * VERIFY_WITHIN
        record.ask_at = now + VERIFY_WITHIN if ticks else None

    def _end_competing(self, ticked: int, now: datetime) -> None:
        # Whether the other requests have come back to life with the one that was tried is not known.
        self._expected = dict.fromkeys(self._feed_of.keys() - {ticked}, now)
        for feed in Feed:
            self._verify(feed, now, "another login had the market data")
            self._records[feed].event_at = None
        self._expected = dict.fromkeys(self._expected.keys() - {ticked}, now + VERIFY_WITHIN)

    def _expect(self, feed: Feed, now: datetime) -> None:
        """Each contract that was alive at an event has to tick after it; those already awaited get the new deadline."""
        for conid, known in self._feed_of.items():
            if known is feed and (conid in self._expected or now - self._since[conid] <= LIVELY):
                self._expected[conid] = now + CONTRACT_VERIFY_WITHIN

    def _feed_due(self, feed: Feed, now: datetime) -> Renewal | None:
        conids = frozenset(conid for conid, known in self._feed_of.items() if known is feed)
        if not conids:
            return None
        record = self._records[feed]
        if record.ask_at is None or now < record.ask_at:
            return None
        reason = f"no {feed.value}: {record.reason}"
        record.asked_at, record.ask_at = now, now + min(record.retry * 2**record.asked, RETRY_MAX)
        record.asked = min(record.asked + 1, _DOUBLINGS)
        if not record.farms:
            # What a new subscription brings is proof at once: it was asked for, not kept.
            record.state, record.event_at = FeedState.VERIFYING, None
        return Renewal(conids, reason)

    def _notice_silences(self, now: datetime) -> None:
        """Each feed for itself, or all of them together: the silence of all tells more than that of two stocks."""
        newest: dict[Feed, datetime] = {}
        for conid, feed in self._feed_of.items():
            newest[feed] = max(self._since[conid], newest.get(feed, self._since[conid]))
        if not newest:
            return
        opened_at = self._open_since or now
        of_all, silence_of_all = self._rhythm_of_all.patience(now), now - max(*newest.values(), opened_at)
        for feed, heard_at in newest.items():
            record, rhythm = self._records[feed], self._rhythms[feed]
            patience, silence = rhythm.patience(now), now - max(heard_at, opened_at)
            is_silent = any(
                lasted >= min(limit * 2**record.silences, RETRY_MAX)
                for lasted, limit in ((silence, patience), (silence_of_all, of_all))
            )
            if is_silent and record.state is FeedState.FLOWING:
                self._doubt(record, heard_at, now)
                rhythm.acted(now, after=silence)
                self._rhythm_of_all.pause()
        if silence_of_all >= of_all:
            self._rhythm_of_all.acted(now, after=silence_of_all)

    def _doubt(self, record: _Record, heard_at: datetime, now: datetime) -> None:
        record.state, record.reason, record.since = FeedState.VERIFYING, "it fell silent", heard_at
        record.event_at, record.ask_at, record.asked, record.retry = None, now, 0, SILENT_RETRY
        record.silences = min(record.silences + 1, _DOUBLINGS)

    def _pause_rhythm(self, feed: Feed) -> None:
        self._rhythms[feed].pause()
        self._rhythm_of_all.pause()

    def _late(self, now: datetime) -> frozenset[int]:
        late = frozenset(
            conid
            for conid, deadline in self._expected.items()
            if now >= deadline and self._records[self._feed_of[conid]].state is FeedState.FLOWING
        )
        for conid in late:
            del self._expected[conid]
            self._unheard[conid] = min(self._unheard.get(conid, 0) + 1, _DOUBLINGS)
        return late

    def _try_one(self, now: datetime) -> list[Renewal]:
        if not self._feed_of or not self._competing.is_retry_due(now):
            return []
        # Each in its turn: the liveliest may be silent by now for reasons of its own, and keep the others waiting.
        fewest = min(self._tried.get(conid, 0) for conid in self._feed_of)
        left = [conid for conid in self._feed_of if self._tried.get(conid, 0) == fewest]
        liveliest = max(left, key=lambda conid: (self._since[conid], -conid))
        self._tried[liveliest] = fewest + 1
        return [Renewal(frozenset({liveliest}), "trying whether the other login still has the market data")]


def _is_blind(record: _Record) -> bool:
    return record.state in {FeedState.STALE, FeedState.VERIFYING}
