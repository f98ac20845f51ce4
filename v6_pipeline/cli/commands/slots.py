"""``v6 slots``: the use of market-data lines, and the message rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from v6_pipeline.cli import home, output
from v6_pipeline.cli.output import JsonOption

if TYPE_CHECKING:
    from v6_pipeline.settings import Settings
    from v6_pipeline.state.pacing.messages import PacingReport
    from v6_pipeline.state.slots.allocation import Slot, SlotUsage


def slots(*, as_json: JsonOption = False) -> None:
    """Show the market-data lines in use, by contract, holder and purpose, how many are left, and the message rate."""
    settings = home.load()
    from v6_pipeline.state.account import contracts
    from v6_pipeline.state.pacing import messages as pacing
    from v6_pipeline.state.slots.ledger import SlotLedger

    with home.open_state(settings, must_exist=True) as database:
        usage = SlotLedger.from_settings(settings, database).usage()
        known = contracts.get(database, [slot.conid for slot in usage.slots])
        rates = pacing.describe(database, now=usage.limit.at)
    names = {conid: cached.spec.local_symbol or cached.spec.symbol for conid, cached in known.items()}
    if as_json:
        output.document({**_document(usage, names, settings), "message_rates": [asdict(rate) for rate in rates]})
        return
    _show(usage, names)
    for line in (*_summary(usage, settings), *map(_pace, rates)):
        output.line(line)


def _document(usage: SlotUsage, names: Mapping[int, str], settings: Settings) -> dict[str, Any]:
    now = usage.limit.at
    learned = None
    if usage.limit.is_learned:
        learned = {
            "ceiling": usage.learned.learned,
            "since": usage.learned.learned_at,
            "reason": usage.learned.reason,
            "errors_101": usage.learned.exhaustions,
            "next_probe_at": usage.learned.probe_at,
            "probes": usage.learned.probes,
            "probing": usage.limit.is_probing,
        }
    return {
        "used": len(usage.slots),
        "streams": usage.streams,
        "batches": usage.batches,
        "unconfirmed": usage.unconfirmed,
        "free": usage.free,
        "free_for_streams": usage.free_for_streams,
        "ceiling": usage.ceiling,
        "configured_ceiling": usage.configured_ceiling,
        "learned": learned,
        "batch_floor": usage.batch_floor,
        "stream_demand": usage.stream_demand,
        "demands": [asdict(item) for item in usage.demands],
        "market_data_lines": settings.market_data_lines,
        "reserved_lines": settings.reserved_lines,
        "slots": [
            {
                **asdict(slot),
                "symbol": names.get(slot.conid),
                "state": _state(slot),
                "age_seconds": (now - slot.acquired_at).total_seconds(),
                "expires_in_seconds": (slot.expires_at - now).total_seconds(),
            }
            for slot in usage.slots
        ],
    }


def _show(usage: SlotUsage, names: Mapping[int, str]) -> None:
    now = usage.limit.at
    if usage.slots:
        output.table(
            ("conid", "contract", "purpose", "priority", "holder", "state", "held for", "expires in"),
            (
                (
                    slot.conid,
                    names.get(slot.conid),
                    slot.purpose,
                    slot.priority,
                    slot.holder,
                    _state(slot),
                    output.duration((now - slot.acquired_at).total_seconds()),
                    output.duration((slot.expires_at - now).total_seconds()),
                )
                for slot in usage.slots
            ),
            numbers=("conid", "priority", "held for", "expires in"),
        )
    if usage.demands:
        output.table(
            ("waits for lines", "purpose", "how many", "for"),
            (
                (item.holder, item.purpose, item.wanted, output.duration((now - item.since).total_seconds()))
                for item in usage.demands
            ),
            numbers=("how many", "for"),
        )


def _state(slot: Slot) -> str:
    if slot.closing_at is not None:
        return "closing"
    return "confirmed" if slot.confirmed_at is not None else "unconfirmed"


def _summary(usage: SlotUsage, settings: Settings) -> list[str]:
    used = (
        f"{len(usage.slots)} of {usage.ceiling} lines in use ({usage.streams} stream, {usage.batches} batch, "
        f"{usage.unconfirmed} of them unconfirmed); {usage.free} free, {usage.free_for_streams} of them for streams"
    )
    granted = (
        f"IB grants {settings.market_data_lines}, {settings.reserved_lines} are in reserve, "
        f"batches get at least {usage.batch_floor}"
    )
    lines = [used, granted]
    if usage.limit.is_learned:
        lines.append(_learned(usage, usage.limit.at))
    return lines


def _pace(rate: PacingReport) -> str:
    allowed = f"{rate.current_rate:g} messages a second to {rate.gateway}, for all processes together"
    if rate.since is None:
        return allowed
    return f"{allowed}; slowed by {rate.reason}, {rate.configured_rate:g} again after some minutes without errors"


def _learned(usage: SlotUsage, now: datetime) -> str:
    known = usage.learned
    since = output.duration((now - known.learned_at).total_seconds()) if known.learned_at else ""
    if usage.limit.is_probing or known.probe_at is None:
        next_step = "more lines are being tried now"
    else:
        next_step = f"more lines are tried in {output.duration((known.probe_at - now).total_seconds())}"
    return (
        f"learned ceiling: {known.learned} instead of {usage.configured_ceiling}, for {since}, by {known.reason}; "
        f"{output.counted(known.exhaustions, 'error 101', 'errors 101')} since, {next_step}: "
        "close TWS windows that show quotes, or lower V6_MARKET_DATA_LINES"
    )
