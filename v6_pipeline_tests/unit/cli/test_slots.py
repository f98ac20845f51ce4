"""``v6 slots``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from v6_pipeline.model import SlotPurpose
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import utc_now
from v6_pipeline.state.pacing import messages as pacing
from v6_pipeline_tests.step_ledger import StepLedger
from v6_pipeline_tests.unit.cli.conftest import Run


@pytest.fixture
def ledger(settings: Settings) -> Iterator[StepLedger]:
    """Two streams and a batch line that is not confirmed yet."""
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    ledger = StepLedger(database, ceiling=90, batch_floor=10)
    ledger.acquire([11, 12], holder="streamer/1", purpose=SlotPurpose.STREAM, ttl_seconds=60, priorities={11: 5, 12: 7})
    ledger.confirm("streamer/1", [11, 12])
    ledger.acquire([13], holder="run", purpose=SlotPurpose.BATCH, ttl_seconds=60)
    yield ledger
    database.close()


def test_lines_in_use_and_those_left(v6: Run, ledger: StepLedger) -> None:
    found = v6("slots", "--json").document
    slots = found.pop("slots")
    assert found == {
        "used": 3,
        "streams": 2,
        "batches": 1,
        "unconfirmed": 1,
        "free": 87,
        "free_for_streams": 78,
        "ceiling": 90,
        "configured_ceiling": 90,
        "learned": None,
        "batch_floor": 10,
        "stream_demand": 0,
        "demands": [],
        "market_data_lines": 100,
        "reserved_lines": 10,
        "message_rates": [],
    }
    assert [(slot["conid"], slot["holder"], slot["purpose"], slot["priority"], slot["state"]) for slot in slots] == [
        (11, "streamer/1", "stream", 5, "confirmed"),
        (12, "streamer/1", "stream", 7, "confirmed"),
        (13, "run", "batch", None, "unconfirmed"),
    ]
    shown = v6("slots").out
    assert "3 of 90 lines in use (2 stream, 1 batch, 1 of them unconfirmed); 87 free, 78 of them for streams" in shown
    assert "streamer/1" in shown
    assert "learned" not in shown


def test_a_learned_ceiling_says_since_when_why_and_what_comes_next(v6: Run, ledger: StepLedger) -> None:
    ledger.report_exhausted("run", 13)

    learned = v6("slots", "--json").document["learned"]

    assert (learned["ceiling"], learned["errors_101"], learned["probing"]) == (2, 1, False)
    assert learned["reason"] == "error 101 for contract 13 with 2 lines in use"
    shown = v6("slots").out
    assert "learned ceiling: 2 instead of 90, for " in shown
    assert "1 error 101 since, more lines are tried in " in shown


def test_who_waits(v6: Run, settings: Settings) -> None:
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    ledger = StepLedger(database, ceiling=1, batch_floor=0)
    ledger.acquire([11], holder="run", purpose=SlotPurpose.BATCH, ttl_seconds=60)
    ledger.confirm("run", [11])
    ledger.acquire([12], holder="streamer/1", purpose=SlotPurpose.STREAM, ttl_seconds=60)
    database.close()

    demands = v6("slots", "--json").document["demands"]

    assert [(item["holder"], item["purpose"], item["wanted"]) for item in demands] == [("streamer/1", "stream", 1)]
    assert "waits for lines" in v6("slots").out


def test_none_in_use(v6: Run, settings: Settings) -> None:
    assert v6("slots").out.startswith("0 of 90 lines in use")


def test_the_message_rate_and_what_slowed_it(v6: Run, settings: Settings) -> None:
    gateway = "127.0.0.1:4002"
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    pacing.take(database, gateway, 1, configured_rate=45, clock=utc_now)
    assert f"45 messages a second to {gateway}, for all processes together" in v6("slots").out
    pacing.back_off(database, gateway, reason="100 Max rate exceeded", configured_rate=45, clock=utc_now)
    database.close()

    [rate] = v6("slots", "--json").document["message_rates"]
    assert (rate["current_rate"], rate["configured_rate"]) == (22.5, 45)
    assert "22.5 messages a second" in v6("slots").out
