"""``v6 queue``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.queue.queue import PositionQueue
from v6_pipeline_tests.unit.cli.conftest import Run


@pytest.fixture
def filled(settings: Settings) -> None:
    """AAPL 1 is dead, SPX 2 open, both of DU1."""
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    earlier = datetime.now(UTC) - timedelta(seconds=90)
    queue = PositionQueue(database, lambda: earlier, max_attempts=1)
    queue.insert(1, "AAPL", account="DU1")
    batch = queue.get_batch(1)
    queue.mark_failed(batch.token, [("DU1", 1)], "no such contract")
    queue.insert(2, "SPX", 1, account="DU1")
    database.close()


@pytest.mark.usefixtures("filled")
def test_stats(v6: Run) -> None:
    found = v6("queue", "stats", "--json").document
    assert {name: found[name] for name in ("open", "leased", "waiting", "dead", "pending", "by_priority")} == {
        "open": 1,
        "leased": 0,
        "waiting": 0,
        "dead": 1,
        "pending": 1,
        "by_priority": {"1": 1},
    }
    assert found["oldest_age_seconds"] >= 90
    shown = v6("queue", "stats")
    assert "2 min" in shown.out or "9" in shown.out
    assert "priority 1: 1" in shown.out
    assert "v6 queue retry --all" in shown.err


@pytest.mark.usefixtures("filled")
def test_list(v6: Run) -> None:
    items = v6("queue", "list", "--json").document["items"]
    assert [(item["account"], item["conid"], item["state"]) for item in items] == [
        ("DU1", 2, "open"),
        ("DU1", 1, "dead"),
    ]
    assert "no such contract" in v6("queue", "list", "--state", "dead").out
    assert len(v6("queue", "list", "--limit", 1, "--json").document["items"]) == 1
    assert v6("queue", "list", "--state", "leased").err == "the queue has no leased item\n"


@pytest.mark.usefixtures("filled")
def test_dead_letters_are_retried_by_key(v6: Run) -> None:
    result = v6("queue", "retry", "DU1:1", "DU1:2", "--json")
    assert result.document == {"retried": 1, "not_dead": ["DU1:2"]}
    assert v6("queue", "stats", "--json").document["open"] == 2
    nothing = v6("queue", "retry", "DU1:2")
    assert (nothing.code, nothing.out, nothing.err) == (1, "", "DU1:2 is not a dead letter\n")


@pytest.mark.usefixtures("filled")
def test_all_dead_letters_are_retried(v6: Run) -> None:
    assert v6("queue", "retry", "--all").out == "1 dead letter returned to the queue for the next refresh\n"


@pytest.mark.usefixtures("filled")
def test_purge_deletes_dead_letters_by_default(v6: Run) -> None:
    nothing = v6("queue", "purge", "DU1:2")
    assert (nothing.code, nothing.out, nothing.err) == (1, "", "DU1:2 is not a dead item\n")
    assert v6("queue", "purge", "--json").document == {"purged": 1, "state": "dead", "missing": []}
    assert v6("queue", "purge").out == "0 dead items deleted\n"
    assert v6("queue", "purge", "DU1:2", "--state", "open").out == "1 open item deleted\n"
    assert v6("queue", "list").err == "the queue is empty\n"
