"""The streamer and the worker through a reset of IB's servers, in which both feeds may be empty."""

from __future__ import annotations

import pytest

from v6_pipeline.errors import AccountFeedError
from v6_pipeline.refresh.worker import RefreshScope
from v6_pipeline.state.account import holdings as holdings_store
from v6_pipeline_tests.integration import test_worker
from v6_pipeline_tests.integration.conftest import eventually
from v6_pipeline_tests.integration.streamer_rig import Rig

pytestmark = pytest.mark.usefixtures("quick_flush")


def open_keys(rig: Rig) -> set[tuple[str, int]]:
    with rig.database.read() as connection:
        return {item.key for item in holdings_store.list_open(connection)}


async def test_streams_come_back_after_a_reset_with_an_empty_position_feed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message follows the end of an empty feed: the streamer asks again while known positions are missing."""
    monkeypatch.setattr("v6_pipeline.streaming.holdings.RECHECK_SECONDS", 0.05)
    conids = rig.held()[:4]
    rig.registry.add_active("s", conids)
    async with rig.streaming() as streamer:
        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1))
        held = open_keys(rig)
        rig.gateway.perform("account_not_ready", feeds="empty")
        rig.gateway.perform("link_lost")
        rig.gateway.perform("link_restored")
        await eventually(lambda: rig.subscribed() == {}, "no position, no line")
        worker = test_worker.Rig(rig.gateway, rig.settings, rig.database, rig.lake, rig.clock)
        with pytest.raises(AccountFeedError, match="AccountReady=false"):
            await worker.refresh(RefreshScope(everything=True))
        assert open_keys(rig) == held, "nothing is closed"

        rig.gateway.perform("account_ready")

        await eventually(lambda: rig.subscribed() == dict.fromkeys(conids, 1), "streams again")
        await eventually(lambda: streamer._holdings.recheck_seconds is None, "nothing is missing")
