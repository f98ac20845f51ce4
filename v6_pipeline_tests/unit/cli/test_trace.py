"""``v6 trace``: shown to a person and to a program; what it leads to is tested in ``unit/history/test_trace.py``."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.context import HistoryContext, Made
from v6_pipeline.history.snapshot_days import snapshot_days
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.recovery.durability import log_file
from v6_pipeline.lake.rows import account_rows, position_rows
from v6_pipeline.lake.tables import ACCOUNT_VALUES, QUEUED_POSITIONS
from v6_pipeline.model import AccountValues, UpdateSource
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests import traced_week as week
from v6_pipeline_tests.unit.cli.conftest import Run
from v6_pipeline_tests.unit.lake.builders import no_fsync, update


@pytest.fixture
def lake(settings: Settings, tmp_path: Path) -> Lake:
    """Thursday and Friday from the queue, and Monday from Flex."""
    statements = tmp_path / "statements"
    statements.mkdir()
    return week.make_week(settings, statements)


@pytest.mark.usefixtures("lake")
def test_a_contract_leads_to_row_commit_run_account_and_gateway(v6: Run, settings: Settings) -> None:
    shown = v6("trace", 1, "--date", "2026-11-12", "--account", "SIM0000001").out

    assert "S1 (1) of SIM0000001, 2026-11-12, final" in shown
    assert "position 7, price 12, value 84.00 USD; position from queue, price from portfolio" in shown
    assert "position, price, exchange rate, realized P&L, value: queued_positions at version 2" in shown
    assert "market_price 12: agrees" in shown
    assert "market_value 84: agrees" in shown
    assert "unrealized_pnl 7: agrees" in shown
    assert "unknown" not in shown.replace("gateway unknown", "")
    assert "queued_positions version 1, " in shown
    assert "6 rows, by Dagster run seed, v6_pipeline 0\n" in shown
    assert "account SIM0000001, gateway unknown: the commit names none\n" in shown
    assert "all numbers agree" in shown
    assert "DIFFERS" not in shown
    streamed = v6("trace", 1, "--date", "2026-11-11").out
    assert "by streamer epoch 7" in streamed
    assert "value: computed: unrealized_pnl is value - position x average cost" in streamed
    assert "unrealized_pnl 70: agrees" in streamed
    assert f"account SIM0000001, gateway {week.GATEWAY}\n" in streamed
    assert settings.ib_address not in streamed, "the settings may have changed since"
    by_flex = v6("trace", 1, "--date", "2026-11-09").out
    assert by_flex.count("account SIM0000001, Flex statement statements.xml") == 2
    assert "realized P&L: flex_activity at version 2" in by_flex
    assert "realized_pnl 19.9: agrees" in by_flex
    assert "trade of 2026-11-09: -3 at 60, realized 30.10 USD" in by_flex
    assert "trade of 2026-11-09: -2 at 60, realized -10.20 USD" in by_flex


@pytest.mark.usefixtures("lake")
def test_a_contract_as_one_document(v6: Run) -> None:
    found = v6("trace", 1, "--json").document

    assert (found["conid"], found["date"]) == (1, "2026-11-13")
    assert [item["snapshot"]["row"]["account"] for item in found["traces"]] == ["SIM0000001", "SIM0000002"]
    first = found["traces"][0]
    assert first["agrees"] is True
    assert first["snapshot"]["commit"]["commit"]["run_id"] == "week"
    [source] = first["sources"]
    assert source["table"] == "queued_positions"
    assert source["gateway"] is None
    assert source["commit"]["commit"]["gateway"] is None
    assert source["commit"]["commit"]["run_id"] == source["row"]["run_id"] == "seed"
    assert source["commit"]["confirmed"] is True
    assert {"name": "position", "snapshot": 7.0, "source": 7.0, "agrees": True} in source["numbers"]


@pytest.mark.usefixtures("lake")
def test_a_sum_lists_its_rows(v6: Run) -> None:
    [first, _] = v6("trace", 1, "--date", "2026-11-09", "--json").document["traces"]
    [position, realized] = first["sources"]
    assert position["summed"] == []
    assert [row["realized_pnl"] for row in realized["summed"]] == [30.1, -10.2]
    assert (realized["gateway"], realized["origin"]) == (None, "statements.xml")


@pytest.mark.usefixtures("lake")
def test_a_source_of_the_stream_has_the_gateway_of_its_commit(v6: Run) -> None:
    [first, _] = v6("trace", 1, "--date", "2026-11-11", "--json").document["traces"]
    gateways = {source["table"]: source["gateway"] for source in first["sources"]}
    assert gateways == {"streamed_positions": week.GATEWAY, "account_values": None}


@pytest.mark.usefixtures("lake")
def test_a_run_leads_to_its_commits(v6: Run) -> None:
    found = v6("trace", "--run", "week", "--json").document
    tables = {item["table"]: item["commits"] for item in found["tables"]}
    assert set(tables) == {"flex_activity", "flex_positions", "flex_statements", "position_snapshots"}
    assert [commit["partition"] for commit in tables["position_snapshots"]] == [day.isoformat() for day in week.WEEK]
    assert [commit["rows"] for commit in tables["flex_positions"]] == [6, 6]

    shown = v6("trace", "--run", "week").out
    assert "2026-11-09" in shown
    assert shown.endswith("run week: 11 commits, 62 rows, 4 tables\n")


@pytest.mark.usefixtures("lake")
def test_what_is_not_there_is_one_line_and_an_exit_code(v6: Run) -> None:
    for arguments, said in (
        (["99"], "contract 99 is in no snapshot"),
        (["1", "--date", "2026-11-16"], "there is no snapshot of 2026-11-16"),
        (["1", "--date", "2026-11-15"], "2026-11-15 is not a trading day"),
        (["--run", "unknown"], "no commit of the lake names run unknown"),
    ):
        result = v6("trace", *arguments, "--json")
        assert (result.code, result.out) == (1, "")
        assert said in result.error


def test_a_damaged_table_is_one_line_and_an_exit_code(v6: Run, lake: Lake) -> None:
    log_file(Path(lake.uri(QUEUED_POSITIONS)), 2).write_text("")
    result = v6("trace", 1)
    assert result.code == 1
    assert "'v6 lake repair queued_positions'" in result.error


def test_an_older_observation_is_looked_for_on_the_day_of_the_settings_time_zone(
    v6: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 02:00 in Los Angeles Thursday goes on, while in New York it is Friday."""
    monkeypatch.setenv("V6_TIMEZONE", "America/Los_Angeles")
    calendar, lake = TradingCalendar("America/Los_Angeles"), Lake(settings.lake_root, fsync=no_fsync)
    night, noon = datetime(2026, 11, 13, 10, tzinfo=UTC), datetime(2026, 11, 13, 17, tzinfo=UTC)
    common: dict[str, Any] = {"trading_day": calendar.trading_day, "source": UpdateSource.QUEUE, "run_id": "seed"}
    held = update(account="SIM0000001", timestamp=night)
    values = AccountValues(account="SIM0000001", base_currency="USD", timestamp=noon)
    for spec, frame in (
        (QUEUED_POSITIONS, position_rows([held], spec=QUEUED_POSITIONS, ingested_at=night, **common)),
        (ACCOUNT_VALUES, account_rows([values], spec=ACCOUNT_VALUES, ingested_at=noon, **common)),
    ):
        lineage = CommitLineage(asset=spec.name, source="queue", code_version="0", run_id="seed")
        lake.table(spec).append(frame, lineage)
    with closing(StateDatabase.open(settings.state_database_url, name_for_messages="state")) as database:
        context = HistoryContext(
            settings=settings,
            database=database,
            lake=lake,
            calendar=calendar,
            run_id="week",
            now=lambda: week.NOW,
            say=lambda _: None,
        )
        [friday] = snapshot_days(context, [week.FRIDAY])
    assert isinstance(friday, Made)
    assert friday.numbers["positions_carried_forward"] == 1

    shown = v6("trace", 1, "--date", "2026-11-13").out

    assert "queued_positions at version 1, row of 2026-11-13 10:00:00" in shown
    assert "all numbers agree" in shown


@pytest.mark.parametrize(
    "arguments",
    [[], ["1", "--run", "r"], ["--run", "r", "--date", "2026-11-09"], ["1", "--date", "yesterday"], ["0"], ["AAPL"]],
)
def test_wrong_use(v6: Run, arguments: list[str]) -> None:
    result = v6("trace", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.error
