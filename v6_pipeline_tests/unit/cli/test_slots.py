"""``v6 slots``."""

from __future__ import annotations

from v6_pipeline.model import SlotPurpose
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.sync.slots import SlotLedger
from v6_pipeline_tests.unit.cli.conftest import Run


def test_lines_in_use_and_those_left(v6: Run, settings: Settings) -> None:
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    ledger = SlotLedger(database, ceiling=90, batch_floor=10)
    ledger.acquire([11, 12], holder="streamer/1", purpose=SlotPurpose.STREAM, ttl_seconds=60)
    ledger.acquire([13], holder="run", purpose=SlotPurpose.BATCH, ttl_seconds=60)
    database.close()
    found = v6("slots", "--json").document
    slots = found.pop("slots")
    assert found == {
        "used": 3,
        "streams": 2,
        "batches": 1,
        "free": 87,
        "free_for_streams": 78,
        "ceiling": 90,
        "batch_floor": 10,
        "market_data_lines": 100,
        "reserved_lines": 10,
    }
    assert [(slot["conid"], slot["holder"], slot["purpose"]) for slot in slots] == [
        (11, "streamer/1", "stream"),
        (12, "streamer/1", "stream"),
        (13, "run", "batch"),
    ]
    shown = v6("slots").out
    assert "3 of 90 lines in use (2 stream, 1 batch); 87 free, 78 of them for streams" in shown
    assert "streamer/1" in shown


def test_none_in_use(v6: Run, settings: Settings) -> None:
    assert v6("slots").out.startswith("0 of 90 lines in use")
