"""``v6 slots``: who uses the market-data lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from v6_pipeline.cli import home, output
from v6_pipeline.cli.output import JsonOption

if TYPE_CHECKING:
    from v6_pipeline.sync.slots import Slot


def slots(*, as_json: JsonOption = False) -> None:
    """Show the market-data lines in use, by contract, holder and purpose, and how many are left."""
    settings = home.load()
    from v6_pipeline.state import contracts
    from v6_pipeline.state.instants import utc_now
    from v6_pipeline.sync.slots import SlotLedger

    with home.open_state(settings, must_exist=True) as database:
        usage = SlotLedger.from_settings(settings, database).usage()
        with database.read() as connection:
            known = contracts.get(connection, [slot.conid for slot in usage.slots])
    names = {conid: cached.spec.local_symbol or cached.spec.symbol for conid, cached in known.items()}
    totals = {
        "used": len(usage.slots),
        "streams": usage.streams,
        "batches": usage.batches,
        "free": usage.free,
        "free_for_streams": usage.free_for_streams,
        "ceiling": usage.ceiling,
        "batch_floor": usage.batch_floor,
        "market_data_lines": settings.market_data_lines,
        "reserved_lines": settings.reserved_lines,
    }
    if as_json:
        output.document(
            {**totals, "slots": [{**asdict(slot), "symbol": names.get(slot.conid)} for slot in usage.slots]}
        )
        return
    _show(usage.slots, names, utc_now())
    output.line(
        f"{len(usage.slots)} of {usage.ceiling} lines in use ({usage.streams} stream, {usage.batches} batch); "
        f"{usage.free} free, {usage.free_for_streams} of them for streams"
    )
    output.line(
        f"IB grants {settings.market_data_lines}, {settings.reserved_lines} are kept in reserve, "
        f"{usage.batch_floor} are left to batches"
    )


def _show(slots: Sequence[Slot], names: Mapping[int, str], now: datetime) -> None:
    if not slots:
        return
    output.table(
        ("conid", "contract", "purpose", "holder", "held for", "expires in"),
        (
            (
                slot.conid,
                names.get(slot.conid),
                slot.purpose,
                slot.holder,
                output.duration((now - slot.acquired_at).total_seconds()),
                output.duration((slot.expires_at - now).total_seconds()),
            )
            for slot in slots
        ),
        numbers=("conid", "held for", "expires in"),
    )
