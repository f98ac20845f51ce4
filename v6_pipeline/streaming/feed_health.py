"""Health of the market-data feeds: proven by ticks, not by what the gateway says.

Pure. Streams have stayed dead for hours after "connectivity restored, data maintained", and after a farm was away for
three seconds, with every heartbeat answered. So after each such event, and when a feed falls silent while the
exchange is open, its contracts are subscribed again until they tick. No line is spent on a canary contract: renewing
a subscription costs only messages, and its first ticks prove as much.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from v6_pipeline.streaming.competing_session import CompetingSession
from v6_pipeline.streaming.status import FeedStatus
from v6_pipeline.streaming.streamed_contracts import (
    CONTRACT_VERIFY_WITHIN,
    MAX_DOUBLINGS,
    RETRY_MAX,
    Feed,
    StreamedContract,
    StreamedContracts,
)
from v6_pipeline.streaming.tick_rate import TickRate

FIRST_BURST = timedelta(seconds=2)
"""Ticks this soon after an event may come from the gateway's cache, so they prove nothing."""
VERIFY_WITHIN = timedelta(seconds=10)
"""A feed that does not tick for this long while the exchange is open is subscribed again."""
SILENT_RETRY = timedelta(seconds=160)
"""Wait after the first resubscription of a silent feed; it doubles with each one that brings no tick."""
OPENING = timedelta(seconds=1)
"""Ticks this soon after a subscription do not count towards the feed's tick rate."""
LIVELY = timedelta(seconds=60)
"""A contract that ticked this shortly before an event is expected to tick after it."""
FARM_TIMEOUT = timedelta(minutes=5)
"""IB has this long to repair a broken farm; then its contracts are subscribed again, as a notice may be lost."""


class FeedState(enum.StrEnum):
    """State of a feed."""

    FLOWING = "flowing"
    VERIFYING = "verifying"
    """Reported to be back; not trusted before it ticks."""
    UNVERIFIED = "unverified"
    """Reported to be back while the exchange was closed and nothing ticked; verified at the open."""
    STALE = "stale"
    """The data is away."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """Contracts to subscribe again, and the reason."""

    conids: frozenset[int]
    reason: str
    is_repeated: bool = False
    """True if each of them was subscribed again before, without a tick since."""


@dataclass(slots=True)
class _FeedRecord:
    state: FeedState = FeedState.FLOWING
    reason: str = ""
    since: datetime | None = None
    """When its data was first in doubt; ``None`` while it flows."""
    event_at: datetime | None = None
    """Only ticks ``FIRST_BURST`` after this prove the feed; ``None``: any tick does."""
    renew_at: datetime | None = None
    """When to subscribe again."""
    renewals: int = 0
    """How often it was subscribed again since the event."""
    retry: timedelta = 2 * VERIFY_WITHIN
    """Interval before the second renewal; doubles with each further one that brings no tick."""
    renewed_at: datetime | None = None
    silences: int = 0
    """How often in a row it fell silent after a renewal: back off for feeds of illiquid contracts."""
    farms: set[str] = field(default_factory=set)
    """Farms of this feed that are broken now."""

    @property
    def is_blind(self) -> bool:
        """True while data is away, or back but not verified."""
        return self.state in {FeedState.STALE, FeedState.VERIFYING}


class FeedHealth:
    """The verdict on each feed of one connection; while ``is_open`` is False (no session), silence proves nothing."""

    def __init__(self, contracts: StreamedContracts, is_open: Callable[[datetime], bool]) -> None:
        self._contracts = contracts
        self._is_open = is_open
        self._records = {feed: _FeedRecord() for feed in Feed}
        self._tick_rates = {feed: TickRate() for feed in Feed}
        self._tick_rate_of_all = TickRate()
        self._open_since: datetime | None = None
        self._competing = CompetingSession()

    # Events

    def begin_session(self) -> None:
        """Begin a connection: everything is subscribed again, and no farm is known to be broken."""
        self._records = {feed: _FeedRecord() for feed in Feed}
        for feed in Feed:
            self._pause_tick_rate(feed)
        self._contracts.begin_session()
        self._competing.clear()

    def ticked(self, conid: int, now: datetime) -> None:
        """Take a contract's tick as proof of its feed."""
        contract = self._contracts.ticked(conid, now)
        if contract is None or contract.streams_since is None:
            return
        if now - contract.streams_since > OPENING:
            self._tick_rates[contract.feed].ticked(now)
            self._tick_rate_of_all.ticked(now)
        if self._competing.ticked(now):
            self._end_competing(contract, now)
        record = self._records[contract.feed]
        if record.state is FeedState.FLOWING:
            if record.renewed_at is not None and now - record.renewed_at > FIRST_BURST:
                record.silences = 0
        elif self._competing.since is None and (record.event_at is None or now - record.event_at > FIRST_BURST):
            self._records[contract.feed] = _FeedRecord(
                renewed_at=record.renewed_at, silences=record.silences, farms=record.farms
            )

    def link_lost(self, now: datetime) -> None:
        """Mark every feed stale, as the gateway lost its link to IB, until it reports otherwise or the feed ticks."""
        for feed in Feed:
            self._mark_stale(feed, now, "the gateway lost its link to IB")

    def link_restored(self, now: datetime, *, farms_away: Iterable[str] = ()) -> None:
        """Verify every feed, as the link is back and IB reports that data was kept, except for farms still away."""
        for feed in Feed:
            self._records[feed].farms.clear()
            self._verify(feed, now, "the link to IB was lost")
        for farm in farms_away:
            self.farm_broken(farm, now)

    def resubscribed(self, now: datetime) -> None:
        """Verify every feed, as market data was lost and all contracts are subscribed again; any tick is proof."""
        for feed in Feed:
            self._records[feed].farms.clear()
            self._verify(feed, now, "market data was lost")
            self._records[feed].event_at = None

    def farm_broken(self, farm: str, now: datetime) -> None:
        """Mark the feeds of a broken farm stale."""
        for feed in Feed.of_farm(farm):
            self._mark_stale(feed, now, f"farm {farm or '(unnamed)'} is broken")
            self._records[feed].farms.add(farm)
            self._records[feed].renew_at = now + FARM_TIMEOUT

    def farm_ok(self, farm: str, now: datetime) -> None:
        """Verify the feeds of a farm that was broken and is back."""
        for feed in Feed.of_farm(farm):
            record = self._records[feed]
            if farm in record.farms:
                record.farms.discard(farm)
                if not record.farms:
                    self._verify(feed, now, f"farm {farm} was broken")

    def competing_session(self, now: datetime) -> bool:
        """Mark every feed stale, as another login has the data; return True if an alert is due."""
        if self._competing.since is None:
            for contract in self._contracts:
                contract.tries = 0
            for feed in Feed:
                self._mark_stale(feed, now, "another login of this username has the market data")
        return self._competing.reported(now)

    # Verdicts

    def due(self, now: datetime) -> list[Renewal]:
        """Return what to subscribe again now. Call this about once a second; renewals that it returns count as made."""
        is_open = self._is_open(now)
        if is_open and self._open_since is None:
            self._open_since = now
            self._contracts.opened(now)
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
            reason = "no tick since they were subscribed, or since their feed came back"
            is_repeated = all(item.retries > 1 for item in self._contracts.subscribed_ones() if item.conid in late)
            renewals.append(Renewal(late, reason, is_repeated))
        return renewals

    @property
    def competing_since(self) -> datetime | None:
        """Start of another login's hold on the data; nothing new is subscribed during it."""
        return self._competing.since

    @property
    def stale_since(self) -> datetime | None:
        """When the data of any subscribed contract first went away or into doubt; ``None`` if all of it flows."""
        feeds = {contract.feed for contract in self._contracts.subscribed_ones()}
        records = (self._records[feed] for feed in feeds)
        return min((record.since for record in records if record.since and record.is_blind), default=None)

    def is_blind(self, conid: int) -> bool:
        """Return True if a contract's data is away, or back but not verified: then only ticks make rows."""
        contract = self._contracts.get(conid)
        return contract is not None and contract.streams_since is not None and self._records[contract.feed].is_blind

    def describe(self) -> dict[str, FeedStatus]:
        """Return the feeds that do not flow, for the status."""
        return {
            feed.value: FeedStatus(state=record.state.value, since=record.since, reason=record.reason)
            for feed, record in self._records.items()
            if record.state is not FeedState.FLOWING
        }

    def _mark_stale(self, feed: Feed, now: datetime, reason: str) -> None:
        record = self._records[feed]
        self._pause_tick_rate(feed)
        self._expect(feed, now)
        record.state, record.reason, record.since = FeedState.STALE, reason, record.since or now
        record.event_at, record.renew_at, record.renewals, record.retry = now, None, 0, 2 * VERIFY_WITHIN

    def _verify(self, feed: Feed, now: datetime, reason: str, *, all_expected: bool = False) -> None:
        record = self._records[feed]
        self._pause_tick_rate(feed)
        self._expect(feed, now)
        # A contract that ticked until the event, such as a future at night, should tick after it, whatever the hour.
        is_expected = any(all_expected or _is_expected(contract) for contract in self._subscribed_to(feed))
        ticks = is_expected or self._is_open(now)
        record.state = FeedState.VERIFYING if ticks else FeedState.UNVERIFIED
        record.reason, record.since = reason, record.since or now
        record.event_at, record.renewals, record.retry = now, 0, 2 * VERIFY_WITHIN
        record.renew_at = now + VERIFY_WITHIN if ticks else None

    def _end_competing(self, ticked: StreamedContract, now: datetime) -> None:
        # Only the retried contract is known to tick again; the other requests may not.
        for feed in Feed:
            self._verify(feed, now, "another login had the market data", all_expected=True)
            self._records[feed].event_at = None
        for contract in self._contracts.subscribed_ones():
            contract.expected_by = now + VERIFY_WITHIN
        ticked.expected_by = None

    def _expect(self, feed: Feed, now: datetime) -> None:
        """Expect a tick of each contract that was lively at an event; extend deadlines that are pending."""
        for contract in self._subscribed_to(feed):
            if _is_expected(contract) or now - contract.quiet_since <= LIVELY:
                contract.expected_by = now + CONTRACT_VERIFY_WITHIN

    def _feed_due(self, feed: Feed, now: datetime) -> Renewal | None:
        conids = frozenset(contract.conid for contract in self._subscribed_to(feed))
        record = self._records[feed]
        if not conids or record.renew_at is None or now < record.renew_at:
            return None
        reason = f"no {feed.value}: {record.reason}"
        record.renewed_at, record.renew_at = now, now + min(record.retry * 2**record.renewals, RETRY_MAX)
        record.renewals = min(record.renewals + 1, MAX_DOUBLINGS)
        if not record.farms:
            # Any tick of a new subscription is proof: the gateway cannot have cached it before the event.
            record.state, record.event_at = FeedState.VERIFYING, None
        return Renewal(conids, reason)

    def _notice_silences(self, now: datetime) -> None:
        """Examine each feed, and all of them together: silence everywhere says more than silence of two stocks."""
        subscribed = self._contracts.subscribed_ones()
        if not subscribed:
            return
        opened_at = self._open_since or now
        limit_of_all = self._tick_rate_of_all.timeout(now)
        silence_of_all = now - max(_last_tick(subscribed, now, limit_of_all), opened_at)
        for feed in {contract.feed for contract in subscribed}:
            record, tick_rate = self._records[feed], self._tick_rates[feed]
            limit = min(tick_rate.timeout(now) * 2**record.silences, RETRY_MAX)
            last_tick_at = _last_tick(self._subscribed_to(feed), now, limit)
            silence = now - max(last_tick_at, opened_at)
            is_silent = silence >= limit or silence_of_all >= min(limit_of_all * 2**record.silences, RETRY_MAX)
            if is_silent and record.state is FeedState.FLOWING:
                record.state, record.reason, record.since = FeedState.VERIFYING, "it fell silent", last_tick_at
                record.event_at, record.renew_at, record.renewals, record.retry = None, now, 0, SILENT_RETRY
                record.silences = min(record.silences + 1, MAX_DOUBLINGS)
                tick_rate.restart(now, after=silence)
                self._tick_rate_of_all.pause()
        if silence_of_all >= limit_of_all:
            self._tick_rate_of_all.restart(now, after=silence_of_all)

    def _pause_tick_rate(self, feed: Feed) -> None:
        self._tick_rates[feed].pause()
        self._tick_rate_of_all.pause()

    def _late(self, now: datetime) -> frozenset[int]:
        """Return the contracts of flowing feeds that missed their deadline, and count a retry for each."""
        late = [
            contract
            for contract in self._contracts.subscribed_ones()
            if (deadline := self._contracts.deadline(contract, now)) is not None
            and now >= deadline
            and self._records[contract.feed].state is FeedState.FLOWING
        ]
        for contract in late:
            self._contracts.missed(contract, now, is_open=self._open_since is not None)
        return frozenset(contract.conid for contract in late)

    def _try_one(self, now: datetime) -> list[Renewal]:
        subscribed = self._contracts.subscribed_ones()
        if not subscribed or not self._competing.is_retry_due(now):
            return []
        # In rotation: the liveliest contract may have gone quiet for its own reasons, and would hold up the rest.
        tried = min(subscribed, key=lambda contract: (contract.tries, now - contract.quiet_since, contract.conid))
        tried.tries += 1
        return [Renewal(frozenset({tried.conid}), "trying whether the other login still has the market data")]

    def _subscribed_to(self, feed: Feed) -> list[StreamedContract]:
        return [contract for contract in self._contracts.subscribed_ones() if contract.feed is feed]


def _is_expected(contract: StreamedContract) -> bool:
    """Return True if a tick is due. A contract whose last retry brought none may never tick, so none is due."""
    return contract.expected_by is not None and contract.retries == 0


def _last_tick(contracts: list[StreamedContract], now: datetime, limit: timedelta) -> datetime:
    """Return the time of the last tick of some contracts, by those requested more than ``limit`` ago, if any.

    The ticks of a newer request prove nothing of the older ones, which may have died together before it.
    """
    older = [item for item in contracts if item.subscribed_at is not None and now - item.subscribed_at > limit]
    return max(item.quiet_since for item in older or contracts)
