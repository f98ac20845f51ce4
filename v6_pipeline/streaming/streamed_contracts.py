"""One record for each streamed contract: what is known of it, and the events that change it.

Pure: events and instants in, no I/O. The state of its line is in ``ib.subscriptions``, the state of its feed in
``feed_health``; which contracts get a line is decided in ``routing``.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from v6_pipeline.ib.codes import Reaction
from v6_pipeline.ib.market_data import Refusal
from v6_pipeline.model import SecType

SILENT_AFTER = timedelta(seconds=60)
"""A stream that brings no tick for this long, while others tick, is silent."""
SILENCES = 2
"""Requests in a row without a tick after which a contract gives its line to one that waits, whatever the code."""
FIRST_TICK_WITHIN = timedelta(seconds=10)
"""Deadline of each of these requests if IB remarked on it, or if others wait for a line while market data flows. IB
sends a contract's last values within a second or two."""
COOLDOWN = timedelta(minutes=10)
"""A silent contract that gave its line to another is tried again after this time, which doubles with each such loss."""
COOLDOWN_MAX = timedelta(hours=2)
BACK_OFF = timedelta(seconds=120)
"""Wait before requesting a contract again after a request that came too fast (100, 420)."""
CONTRACT_VERIFY_WITHIN = timedelta(seconds=30)
"""A contract that does not tick for this long, though its feed does, is subscribed again on its own."""
RETRY_MAX = timedelta(minutes=15)
"""Longest interval between two retries of a contract or a feed."""
MAX_DOUBLINGS = 10
"""More doublings exceed every limit here, and some forty exceed what a ``timedelta`` holds."""
_NEVER = datetime.min.replace(tzinfo=UTC)


class Feed(enum.StrEnum):
    """The contracts that one of IB's data farms serves."""

    STOCKS = "stocks"
    OPTIONS = "options"
    FUTURES = "futures"
    CURRENCIES = "currencies"

    @classmethod
    def of(cls, sec_type: SecType) -> Feed:
        """Return the feed of a contract: spreads of futures come with futures, spot metals with currencies."""
        if sec_type.is_option:
            return cls.OPTIONS
        if sec_type in {SecType.FUTURE, SecType.INTER_COMMODITY, SecType.INTER_COMMODITY_SPREAD}:
            return cls.FUTURES
        return cls.CURRENCIES if sec_type in {SecType.CURRENCY, SecType.CRYPTO, SecType.COMMODITY} else cls.STOCKS

    @classmethod
    def of_farm(cls, farm: str) -> frozenset[Feed]:
        """Return the feeds that a farm with a name such as ``usopt`` serves; all of them if the name is unknown."""
        name = farm.casefold()
        for part, feed in (("opt", cls.OPTIONS), ("fut", cls.FUTURES), ("cash", cls.CURRENCIES)):
            if part in name:
                return frozenset({feed})
        return frozenset({cls.STOCKS}) if "farm" in name else frozenset(cls)


@dataclass(slots=True)
class StreamedContract:
    """What is known of one contract, grouped by what ends it."""

    conid: int
    feed: Feed = Feed.STOCKS

    # Ends with the subscription. A renewal ends only the first, as ending the others would hide a feed's silence.
    subscribed_at: datetime | None = None
    streams_since: datetime | None = None
    last_tick_at: datetime | None = None
    expected_by: datetime | None = None
    """The contract is subscribed again unless it has ticked by then."""
    is_renewing: bool = False
    """True while the contract is cancelled, to be subscribed again in the same routing pass."""

    # Ends with the session; a tick ends the first two as well.
    retries: int = 0
    """Subscriptions in a row that brought no tick by their deadline."""
    silent_since: datetime | None = None
    """Start of the first of the requests without a tick, once there were enough to count the contract as silent."""
    losses: int = 0
    """How often in a row it lost its line for its silence: one request without a tick then counts as silence."""
    cooldown_until: datetime | None = None
    """Until then the contract, which was silent and lost its line, comes after all others."""
    remark: str = ""
    """IB's code and text for its request, which that did not end, such as 10089."""
    tries: int = 0
    """Subscriptions made to see whether another login still has the data."""
    refusal: Refusal | None = None
    refused_until: datetime | None = None

    # Outlives the session. The first ends if the contract has no line and gets none, the second if nothing wants it.
    unvalued_since: datetime | None = None
    """Since when it has had a line but no value, or when it was last queued for one."""
    wanted_since: datetime | None = None

    @property
    def quiet_since(self) -> datetime:
        """Time of the last tick; before the first tick, start of the stream."""
        return self.last_tick_at or self.streams_since or _NEVER

    def end_subscription(self) -> None:
        """Forget what belongs to the subscription."""
        self.subscribed_at = self.streams_since = self.last_tick_at = self.expected_by = None
        self.is_renewing = False

    def end_session(self) -> None:
        """Forget what belongs to the session: data that was not subscribed (354) may be after a new login."""
        self.end_subscription()
        self.retries = self.tries = 0
        self.remark = ""
        self.forget_silence()
        self.refusal = self.refused_until = None

    def forget_silence(self) -> None:
        """Count the contract as one that ticks."""
        self.silent_since = self.cooldown_until = None
        self.losses = 0

    @property
    def has_ticked(self) -> bool:
        """True if the present request brought a tick of any kind: a size, a greek or a close is no silence."""
        return (
            self.last_tick_at is not None and self.subscribed_at is not None and self.last_tick_at >= self.subscribed_at
        )


class StreamedContracts:
    """The records of all contracts that stream or are to stream, by conid; one method for each event."""

    def __init__(self) -> None:
        self._records: dict[int, StreamedContract] = {}
        self._last_tick_at: dict[Feed, datetime] = {}
        self._opened_at = _NEVER
        self._others_wait = False
        self._losses: list[StreamedContract] = []

    def __iter__(self) -> Iterator[StreamedContract]:
        return iter(self._records.values())

    def get(self, conid: int) -> StreamedContract | None:
        """Return what is known of a contract."""
        return self._records.get(conid)

    def subscribed_ones(self) -> list[StreamedContract]:
        """Return the records of the contracts that are subscribed or being renewed."""
        return [record for record in self if record.streams_since is not None]

    # Events

    def begin_session(self) -> None:
        """Begin a connection: nothing is subscribed, or known to be refused or silent."""
        for record in self:
            record.end_session()
        self._last_tick_at.clear()

    def subscribed(self, conid: int, sec_type: SecType, now: datetime) -> None:
        """Begin a subscription and expect its first tick, as IB sends a contract's last values at once."""
        record = self._of(conid)
        is_retry = record.is_renewing and record.expected_by is None and record.retries > 0
        if not record.is_renewing:
            record.end_subscription()
            record.streams_since = now
            if record.cooldown_until is None or now >= record.cooldown_until:
                record.silent_since = None
                record.retries = record.retries if record.cooldown_until is None else 0
        if is_retry or not record.is_renewing:
            record.expected_by = now + min(CONTRACT_VERIFY_WITHIN * 2**record.retries, RETRY_MAX)
        record.feed, record.subscribed_at, record.is_renewing = Feed.of(sec_type), now, False

    def ticked(self, conid: int, now: datetime) -> StreamedContract | None:
        """Record a tick; return the contract's record, ``None`` if it is not subscribed."""
        record = self._records.get(conid)
        if record is None or record.subscribed_at is None:
            return None
        if not self._flows(now):
            self._forgive()
        self._last_tick_at[record.feed] = record.last_tick_at = now
        record.expected_by = None
        record.retries = 0
        record.forget_silence()
        return record

    def remarked(self, conid: int, remark: str) -> None:
        """Record IB's code and text for a request that they did not end: it may never tick."""
        self._of(conid).remark = remark

    def cancelled(self, conid: int, now: datetime) -> None:
        """End a subscription that the streamer cancelled; a silent contract begins its cooldown."""
        record = self._of(conid)
        if self._is_silent(record, now):
            record.silent_since = record.silent_since or record.streams_since or now
        if record.is_renewing:
            record.subscribed_at = None
        else:
            self._lose(record, now)

    def begin_renewal(self, conids: Iterable[int]) -> None:
        """Treat cancels of these contracts as renewals until ``end_renewals``."""
        for conid in conids:
            self._of(conid).is_renewing = True

    def end_renewals(self, now: datetime) -> None:
        """End the subscriptions that were cancelled for a renewal but not made again."""
        for record in self:
            if record.is_renewing:
                self._lose(record, now)

    def take_losses(self) -> list[StreamedContract]:
        """Return the silent contracts that lost their line since the last call."""
        losses, self._losses = self._losses, []
        return losses

    def lost(self, conid: int) -> None:
        """End a subscription without a cooldown: the contract lost its line through no fault of its own."""
        self._of(conid).end_subscription()

    def refused(self, refusal: Refusal, now: datetime) -> None:
        """End a refused subscription: for ``BACK_OFF`` if messages came too fast, otherwise for the session.

        Error 101 says nothing about the contract: the ledger learns from it and limits further requests.
        """
        record = self._of(refusal.conid)
        record.end_subscription()
        if refusal.reaction is Reaction.BACK_OFF:
            record.refused_until = now + BACK_OFF
        elif refusal.reaction is not Reaction.LINES_EXHAUSTED:
            record.refusal = refusal

    def wanted(self, conids: Collection[int], now: datetime) -> dict[int, datetime]:
        """Record which contracts active strategies want; return since when each was wanted without a break."""
        since = {}
        for conid in conids:
            record = self._of(conid)
            record.wanted_since = since[conid] = record.wanted_since or now
        for record in list(self):
            if record.conid not in since:
                record.wanted_since = None
                if record == StreamedContract(record.conid, record.feed):
                    del self._records[record.conid]
        return since

    def valued(self, conid: int, now: datetime, *, is_valued: bool) -> None:
        """Record whether a subscribed contract's line gives it a value at this moment."""
        record = self._of(conid)
        record.unvalued_since = None if is_valued else record.unvalued_since or now

    def planned(self, conids: Collection[int], *, others_wait: bool = False) -> None:
        """Record which contracts have lines or are about to, and if others wait; the queue values the others."""
        self._others_wait = others_wait
        for record in self:
            if record.conid not in conids:
                record.unvalued_since = None

    def queued(self, conids: Iterable[int], now: datetime) -> None:
        """Record that these contracts were queued for a value; they are due again after the same time without one."""
        for conid in conids:
            self._of(conid).unvalued_since = now

    def missed(self, record: StreamedContract, now: datetime, *, is_open: bool) -> None:
        """Record that a contract brought no tick by its deadline.

        After ``SILENCES`` requests it is silent, unless its exchange is closed and IB made no remark: then it may have
        nothing to send, and stays where it is. ``is_open`` is about the exchange in session; a market of other hours
        counts as open while contracts of the same feed tick.
        """
        record.expected_by = None
        record.retries = min(record.retries + 1, MAX_DOUBLINGS)
        is_enough = record.retries >= SILENCES or record.losses > 0
        if is_enough and not record.has_ticked and (is_open or record.remark or self._ticks_lately(record.feed, now)):
            record.silent_since = record.silent_since or record.streams_since or now

    def opened(self, now: datetime) -> None:
        """Forget the silence before the exchange's open, with or without a line; IB's remarks go on to count.

        The exchange's contracts had nothing to send, although others of their feed ticked. Those that have a line and
        never ticked have a deadline from the open on.
        """
        self._opened_at = now
        for record in self:
            was_late = record.retries > 0
            if not record.remark:
                record.forget_silence()
                record.retries = 0
            if was_late and record.streams_since is not None and not record.has_ticked:
                record.retries, record.expected_by = 1, now + CONTRACT_VERIFY_WITHIN

    # Rules

    def deadline(self, record: StreamedContract, now: datetime) -> datetime | None:
        """Return by when a contract must have ticked, or it is subscribed again; ``None`` if no tick is due.

        It is earlier than ``expected_by`` for the first requests of a contract that may hold a line in vain.
        """
        due, asked = record.expected_by, record.subscribed_at
        if due is None or asked is None or record.has_ticked or record.retries >= SILENCES:
            return due
        if record.remark or (self._others_wait and self._flows(now)):
            return min(due, asked + FIRST_TICK_WITHIN)
        return min(due, asked + CONTRACT_VERIFY_WITHIN) if self._others_wait else due

    def silent(self, now: datetime) -> frozenset[int]:
        """Return the contracts to give lines to last: those silent while others tick, and those in their cooldown.

        A silent contract loses its line only to another one that waits.
        """
        return frozenset(record.conid for record in self if self._is_silent(record, now))

    def unvalued(self, now: datetime, after: timedelta) -> list[int]:
        """Return the contracts without a value for at least ``after``; the queue can value them from the account feed.

        Causes: another login has the data, a farm is broken, or IB gives no data for the contract without saying so.
        """
        return [
            record.conid
            for record in self
            if record.unvalued_since is not None and now - record.unvalued_since >= after
        ]

    def refused_ones(self, now: datetime) -> frozenset[int]:
        """Return the contracts that must not be requested at ``now``."""
        return frozenset(
            record.conid
            for record in self
            if record.refusal is not None or (record.refused_until is not None and now < record.refused_until)
        )

    def refusals(self) -> dict[int, str]:
        """Return the lasting refusals for the status: conid -> IB's code and text."""
        return {record.conid: f"{record.refusal.code} {record.refusal.text}" for record in self if record.refusal}

    def silences(self) -> dict[int, str]:
        """Return the silent contracts for the status: conid -> since when, and IB's remark."""
        return {
            record.conid: f"no tick since {record.silent_since:%Y-%m-%d %H:%M} UTC"
            + (f" ({record.remark})" if record.remark else "")
            for record in self
            if record.silent_since is not None
        }

    def _is_silent(self, record: StreamedContract, now: datetime) -> bool:
        if record.cooldown_until is not None and now < record.cooldown_until:
            return True
        if record.subscribed_at is None:
            return record.is_renewing and record.silent_since is not None
        if record.has_ticked:
            return False
        since = max(record.subscribed_at, self._opened_at)
        lasts = now - since >= SILENT_AFTER and self._ticks_lately(record.feed, now)
        return lasts or record.silent_since is not None

    def _ticks_lately(self, feed: Feed, now: datetime) -> bool:
        last_tick_at = self._last_tick_at.get(feed)
        return last_tick_at is not None and now - last_tick_at < SILENT_AFTER

    def _flows(self, now: datetime) -> bool:
        return any(self._ticks_lately(feed, now) for feed in self._last_tick_at)

    def _lose(self, record: StreamedContract, now: datetime) -> None:
        """End a subscription; a silent contract has lost its line to another, and begins its cooldown."""
        if record.silent_since is not None:
            record.cooldown_until = now + min(COOLDOWN * 2**record.losses, COOLDOWN_MAX)
            record.losses = min(record.losses + 1, MAX_DOUBLINGS)
            self._losses.append(record)
        record.end_subscription()

    def _forgive(self) -> None:
        """Forget the silence that all contracts had in common: market data was away, and is back."""
        for record in self:
            if not record.remark:
                record.forget_silence()

    def _of(self, conid: int) -> StreamedContract:
        return self._records.setdefault(conid, StreamedContract(conid))
