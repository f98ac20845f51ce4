"""Rules of the stream checks, which read the streamer's lease, its report and the slot ledger.

Missing data raises no alarm while none is expected: outside the session, during IB's resets, after a requested stop.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from v6_pipeline.checks.verdict import Numbers, Verdict
from v6_pipeline.ib.resets import ExpectedOutage
from v6_pipeline.state.leases.streamer import DesiredState, StreamerLeaseState
from v6_pipeline.state.slots.allocation import SlotUsage
from v6_pipeline.streaming.status import StreamerStatus, StreamState

BLIND_FOR = timedelta(seconds=60)
"""A reconnect, or the verification of a feed, takes seconds; a longer gap is worth an alarm."""
REPORTS_WITHIN = timedelta(seconds=30)
"""A running streamer reports every second."""
FAILING_FOR = timedelta(seconds=60)
STARTS_WITHIN = timedelta(seconds=60)

_STOPPED = Verdict.warning("the streamer was stopped on request: start it with 'v6 stream --start'")
_STARTING = Verdict.ok("the streamer is starting")


def stream_fresh(lease: StreamerLeaseState, *, is_open: bool, outage: ExpectedOutage | None, now: datetime) -> Verdict:
    """Judge whether streamed contracts have fresh data in the lake, or a good reason not to.

    Args:
        lease: the streamer's lease with its newest report.
        is_open: True while the exchange is in session, so that prices are expected to move.
        outage: the window in which the broker may be away now, if any.
        now: UTC.
    """
    if lease.desired_state is DesiredState.STOP:
        return _STOPPED
    if lease.is_live(now) and lease.claimed_at is not None and now - lease.claimed_at < STARTS_WITHIN:
        return _STARTING
    status = StreamerStatus.parse(lease.status)
    fault = _fault(lease, status, now)
    numbers = _numbers(status, now)
    if fault is None:
        return Verdict.ok("every streamed feed has fresh data", numbers)
    if outage is not None:
        return Verdict.ok(f"{fault}; expected: {outage}", numbers)
    if not is_open:
        return Verdict.warning(f"{fault}; the exchange is closed", numbers)
    return Verdict.error(fault, numbers)


def slots_within_budget(usage: SlotUsage) -> Verdict:
    """Judge whether the lines in use stay within the ceiling, and whether IB grants as many as the settings say."""
    used = usage.streams + usage.batches
    numbers: Numbers = {
        "lines": used,
        "streams": usage.streams,
        "batches": usage.batches,
        "ceiling": usage.ceiling,
        "ceiling_by_settings": usage.configured_ceiling,
    }
    if used > usage.configured_ceiling:
        reason = f"{used} lines in use, {usage.configured_ceiling} allowed: 'v6 slots' lists their holders"
        return Verdict.error(reason, numbers)
    if usage.ceiling < usage.configured_ceiling:
        since = f" since {usage.learned.learned_at:%Y-%m-%d %H:%M} UTC" if usage.learned.learned_at else ""
        reason = (
            f"IB grants {usage.ceiling} of {usage.configured_ceiling} lines{since}: close windows with market data in "
            "TWS and on the phone; the ledger tries for more by itself"
        )
        return Verdict.warning(reason, numbers)
    return Verdict.ok(f"{used} of {usage.ceiling} lines in use", numbers)


def active_contracts_stream(lease: StreamerLeaseState, usage: SlotUsage, *, now: datetime) -> Verdict:
    """Judge whether all active contracts have a line; those without are refreshed at priority 1.

    ``lease`` has the streamer's newest report; ``now`` is in UTC.
    """
    if lease.desired_state is DesiredState.STOP:
        return _STOPPED
    if not lease.is_live(now):
        # The report of the last streamer is out of date.
        return Verdict.warning("no streamer runs, so no active contract streams: see stream_fresh")
    if not lease.status:
        return _STARTING
    status = StreamerStatus.parse(lease.status)
    streamed, overflow = status.streamed_contracts or 0, status.overflow_contracts
    sample = ", ".join(str(conid) for conid in status.overflow_sample)
    numbers: Numbers = {
        "active": streamed + overflow,
        "streamed": streamed,
        "active_without_line": overflow,
        "lines_for_streams": usage.limit.stream_capacity,
    }
    if status.silent:
        named = [f"{conid}: {why}" for conid, why in sorted(status.silent.items())]
        waiting = f"; {overflow} active contracts have no line and are refreshed at priority 1" if overflow else ""
        return Verdict.warning(
            f"requests for {len(named)} active contracts bring no tick{waiting}",
            numbers | {"active_silent": len(named)},
            named,
            "; they give their lines to contracts that wait, and are valued from the account: subscribe to their "
            "exchanges' data under Settings > Market Data Subscriptions in the Client Portal",
        )
    if not overflow:
        return Verdict.ok("every active contract that can stream has a line", numbers)
    more = ", …" if overflow > len(status.overflow_sample) else ""
    reason = (
        f"{overflow} active contracts have no line ({sample}{more}) and are "
        "refreshed at priority 1: deactivate some, or raise V6_MARKET_DATA_LINES if IB grants more"
    )
    return Verdict.warning(reason, numbers | {"sample": sample})


def _fault(lease: StreamerLeaseState, status: StreamerStatus, now: datetime) -> str | None:
    if status.state is StreamState.FAILED:
        return f"the streamer failed: {status.error}"
    if not lease.is_live(now):
        return "no streamer runs: is ib_streamer_sensor on?"
    if lease.heartbeat_at is None or now - lease.heartbeat_at > REPORTS_WITHIN:
        return f"the streamer has not reported for {REPORTS_WITHIN.total_seconds():.0f} s"
    since = status.blind_since
    if since is not None and now - since >= BLIND_FOR:
        why = "; ".join(f"{name}: {feed.reason}" for name, feed in status.feeds.items())
        return f"no fresh market data since {since:%Y-%m-%d %H:%M:%S} UTC ({why or status.connection})"
    failing = status.writer.failing_since
    if failing is not None and now - failing >= FAILING_FOR:
        return f"no row could be written since {failing:%Y-%m-%d %H:%M:%S} UTC: {status.writer.last_error}"
    return None


def _numbers(status: StreamerStatus, now: datetime) -> Numbers:
    counts = {
        "streamed_contracts": status.streamed_contracts,
        "queued_holdings": status.queued_holdings,
        "connects": status.connects,
        "ticks": status.ticks,
    }
    instants = {
        "blind_seconds": status.blind_since,
        "last_tick_seconds_ago": status.last_tick_at,
        "last_commit_seconds_ago": status.writer.last_commit_at,
    }
    numbers: Numbers = {name: count for name, count in counts.items() if count is not None}
    numbers |= {
        name: round((now - instant).total_seconds(), 1) for name, instant in instants.items() if instant is not None
    }
    if status.writer.last_compaction_error is not None:
        numbers["last_compaction_error"] = status.writer.last_compaction_error
    return numbers
