"""The ceiling learned from 101 errors, and the time of the next attempt to raise it. Pure functions.

IB does not report how many lines TWS windows and the phone use; it answers 101 once all are in use. So the ceiling is
learned: down at a 101, and up again by trying one line at a time after 2, then 4, then every 8 minutes. Each attempt
ends with the first 101, or at the configured ceiling, where the learned one is deleted.

A line is *standing* while the gateway is known to have it. The gateway keeps lines that it granted before its limit
fell, so the first 101 proves only that there is no line beyond the standing ones; a second one, with no line granted in
between, proves that there are far fewer: then the ceiling is halved. Half is a guess, so after the first halving an
attempt follows soon, so that available lines are not left unused for minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

PROBE_AFTER = (timedelta(minutes=2), timedelta(minutes=4), timedelta(minutes=8))
"""Times from a 101 to the next attempt to use one line more; the last applies to all further attempts."""
PROBE_AFTER_HALVING = timedelta(seconds=20)
"""The same after the first halving of the ceiling; by then the released lines are free at the gateway."""
RETRY_AFTER = timedelta(seconds=2)
"""Pause of all processes after a 101 before they request a new line; doubles with each 101 in a row."""
RETRY_AFTER_MAX = timedelta(minutes=2)
ALARMED_FOR = timedelta(seconds=30)
"""Time after a 101 in which only one line at a time is unconfirmed: each that is on its way may draw another 101."""
CAREFUL_FOR = timedelta(minutes=5)
"""Time after a 101 in which fewer lines are unconfirmed than a long wire takes, even if no ceiling is in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedLimit:
    """The limit learned from 101 errors.

    ``learned`` is the ceiling, ``None`` while none is in force, and ``reason`` its cause. ``exhaustions`` counts the
    101s since a ceiling was last deleted, ``strikes`` those in a row without a line granted in between, the last of
    them at ``exhausted_at``. No new line before ``retry_at``. From ``probe_at`` on one line more is tried at a time;
    ``probes`` counts the attempts that ended in a 101, ``proven`` is the most lines used at once in the present one.
    """

    learned: int | None = None
    learned_at: datetime | None = None
    reason: str | None = None
    exhaustions: int = 0
    strikes: int = 0
    exhausted_at: datetime | None = None
    retry_at: datetime | None = None
    probes: int = 0
    probe_at: datetime | None = None
    proven: int = 0


@dataclass(frozen=True, slots=True)
class LineLimit:
    """Limits of the lines in use at the instant ``at``.

    By the settings streams and batches may use ``configured`` lines together, ``batch_floor`` of which streams cannot
    take.
    """

    configured: int
    batch_floor: int
    known: LearnedLimit
    at: datetime

    @property
    def is_learned(self) -> bool:
        """True while a learned ceiling below the configured one is in force."""
        return self.known.learned is not None and self.known.learned < self.configured

    @property
    def ceiling(self) -> int:
        """Lines that streams and batches may use together now."""
        return min(self.known.learned, self.configured) if self.known.learned is not None else self.configured

    @property
    def floor(self) -> int:
        """Lines that streams leave to batches. Never more than half of a learned ceiling, or nothing would stream."""
        return min(self.batch_floor, self.ceiling // 2) if self.is_learned else self.batch_floor

    @property
    def stream_capacity(self) -> int:
        """Lines that streams may use in all, including those that others use now."""
        return min(self.ceiling - self.floor, self.configured - self.batch_floor)

    @property
    def is_probing(self) -> bool:
        """True when it is time to try more lines than the learned ceiling."""
        return self.is_learned and self.known.probe_at is not None and self.at >= self.known.probe_at

    @property
    def probe(self) -> int:
        """Number of lines beyond the ceiling that may be tried: one while probing."""
        return 1 if self.is_probing else 0

    @property
    def stream_target(self) -> int:
        """Lines that a streamer should request in all: while probing all configured ones, granted one at a time."""
        return self.configured - self.batch_floor if self.is_probing else self.stream_capacity

    @property
    def is_alarmed(self) -> bool:
        """True while the gateway has just refused a line."""
        exhausted_at = self.known.exhausted_at
        return exhausted_at is not None and self.at - exhausted_at < ALARMED_FOR

    @property
    def is_careful(self) -> bool:
        """True while a further 101 is likely."""
        exhausted_at = self.known.exhausted_at
        return self.is_learned or (exhausted_at is not None and self.at - exhausted_at < CAREFUL_FOR)

    @property
    def is_paused(self) -> bool:
        """True while no new line may be requested."""
        return self.known.retry_at is not None and self.at < self.known.retry_at

    def ceiling_for_streams(self, streams: int) -> int:
        """Smallest learned ceiling whose capacity for streams is ``streams``."""
        return streams + min(self.batch_floor, max(streams - 1, 0))


def after_exhausted(limit: LineLimit, *, conid: int, granted_at: datetime | None, standing: int) -> LearnedLimit:
    """Return the limit learned from a 101 for contract ``conid``.

    ``granted_at`` is when the ledger granted its line, ``None`` if it has none; ``standing`` is the number of standing
    lines.
    """
    known, now = limit.known, limit.at
    if known.exhausted_at is not None and granted_at is not None and granted_at <= known.exhausted_at:
        # Requested before the last 101 was known: it proves only that its own line does not stand either.
        return replace(known, exhaustions=known.exhaustions + 1, learned=_lesser(known.learned, standing))
    strikes = known.strikes + 1
    if strikes > 1:
        learned = min(limit.ceiling, standing) // 2
    elif limit.is_probing:
        learned = min(limit.ceiling, max(standing, known.proven))
    else:
        learned = min(limit.ceiling, standing)
    # A fall outside of an attempt is new: attempts to raise the ceiling begin with the shortest interval again.
    probes = known.probes + 1 if limit.is_probing else 0
    return LearnedLimit(
        learned=learned,
        learned_at=now,
        reason=f"error 101 for contract {conid} with {standing} lines in use"
        + (f", {strikes} in a row" if strikes > 1 else ""),
        exhaustions=known.exhaustions + 1,
        strikes=strikes,
        exhausted_at=now,
        retry_at=now + min(RETRY_AFTER * 2 ** min(strikes - 1, 10), RETRY_AFTER_MAX),
        probes=probes,
        probe_at=now + (PROBE_AFTER_HALVING if strikes == 2 else PROBE_AFTER[min(probes, len(PROBE_AFTER) - 1)]),
    )


def after_confirmed(limit: LineLimit, *, granted_at: datetime, standing: int, used: int, streams: int) -> LearnedLimit:
    """Return the limit learned from lines that the gateway granted.

    ``granted_at`` is when the ledger granted the newest of the confirmed lines; ``used`` counts the lines in use, the
    unconfirmed included, and ``streams`` those of them that stream.
    """
    known = limit.known
    if known.exhausted_at is not None and granted_at <= known.exhausted_at:
        # The gateway may have granted it before its limit fell: no proof of anything now.
        return known
    if not limit.is_probing or known.learned is None:
        return known if known.strikes == 0 else replace(known, strikes=0, retry_at=None)
    needed = max(used, limit.ceiling_for_streams(streams))
    if needed >= limit.configured:
        return LearnedLimit(exhausted_at=known.exhausted_at)
    return replace(
        known,
        strikes=0,
        retry_at=None,
        learned=max(known.learned, needed),
        proven=max(known.proven, standing),
    )


def _lesser(learned: int | None, standing: int) -> int:
    return standing if learned is None else min(learned, standing)
