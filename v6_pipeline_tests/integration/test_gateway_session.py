"""The connection of a run keeps its client id for as long as it lives."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from v6_pipeline.ib.session import LEASE_SECONDS, leased_connection
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases import client_ids
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.unit.state.databases import ManualClock

pytestmark = pytest.mark.usefixtures("quiet_loop")


async def test_a_database_that_was_locked_for_a_moment_does_not_cost_a_run_its_client_id(
    settings: Settings,
    database: StateDatabase,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The id was free for others while this run still used it: each of them drew 326."""
    monkeypatch.setattr("v6_pipeline.ib.session.RENEW_EVERY_SECONDS", 0.01)
    impatient = StateDatabase.open(settings.state_database_url, name_for_messages="state", busy_seconds=0.01)

    def leased_until(client_id: int) -> datetime | None:
        with database.read() as transaction:
            return client_ids._read(transaction)[client_id].expires_at

    async with leased_connection(settings, impatient, owner="run", clock=clock) as connection:
        with database.write():  # another process writes
            await eventually(lambda: f"lease of client id {connection.client_id} is not renewed" in caplog.text)
        renewed = clock.advance(LEASE_SECONDS - 1) + timedelta(seconds=LEASE_SECONDS)

        await eventually(lambda: leased_until(connection.client_id) == renewed, "the next renewal")

    impatient.close()
