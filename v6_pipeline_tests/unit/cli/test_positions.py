"""``v6 positions``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline.settings import Settings
from v6_pipeline_tests.traced_week import make_week
from v6_pipeline_tests.unit.cli.conftest import Run
from v6_pipeline_tests.unit.lake.builders import NOON, by_epoch, by_run, queued, store, streamed, update


@pytest.fixture
def filled(settings: Settings) -> None:
    """Contract 1 queued, then streamed a day later; 2 in another account."""
    folder = Path(settings.lake_root)
    store(folder).append(queued([update(1), update(2, "DU2", market_price=5.25)]), by_run())
    later = update(1, timestamp=NOON + timedelta(days=1), strategy_ids=("condors",))
    store(folder, STREAMED_POSITIONS).append(streamed([later]), by_epoch())


@pytest.mark.usefixtures("filled")
def test_the_newest_row_of_each_with_source_and_age(v6: Run) -> None:
    found = v6("positions", "--json").document
    assert found["total"] == 2
    assert found["note"] is None
    first, second = found["positions"]
    assert (first["account"], first["conid"], first["source"], first["epoch"]) == ("DU1", 1, "stream", 1)
    assert (second["account"], second["conid"], second["source"], second["run_id"]) == ("DU2", 2, "queue", "run-1")
    assert first["age_seconds"] > 0
    shown = v6("positions").out
    assert "condors" in shown
    assert "5.25" in shown
    assert shown.endswith("2 positions\n")


@pytest.mark.usefixtures("filled")
def test_as_of_a_day_what_came_later_is_not_known(v6: Run) -> None:
    found = v6("positions", "--as-of", "2026-03-04", "--json").document
    assert found["as_of"] == "2026-03-04"
    assert {row["source"] for row in found["positions"]} == {"queue"}


@pytest.mark.usefixtures("filled")
def test_before_the_first_partition_nothing_is_known(v6: Run) -> None:
    result = v6("positions", "--as-of", "2020-01-02", "--json")
    assert (result.code, result.out) == (1, "")
    assert result.error == (
        "no positions are known as of 2020-01-02: --as-of reads streamed_positions and queued_positions, "
        "which begin later or are empty; "
        "position_snapshots has no row of that day either"
    )


def test_a_day_that_only_snapshots_have_names_them(v6: Run, settings: Settings, tmp_path: Path) -> None:
    statements = tmp_path / "statements"
    statements.mkdir()
    make_week(settings, statements)
    result = v6("positions", "--as-of", "2026-11-10")
    assert result.code == 1
    assert "6 rows of 2026-11-10: 'v6 lake history position_snapshots', 'v6 trace CONID --date" in result.error


@pytest.mark.usefixtures("filled")
def test_on_a_sunday_what_was_known_is_of_the_session_before(v6: Run) -> None:
    friday, sunday = (v6("positions", "--as-of", day, "--json").document for day in ("2026-03-06", "2026-03-08"))
    assert [row["conid"] for row in sunday["positions"]] == [row["conid"] for row in friday["positions"]]
    assert sunday["positions"]


@pytest.mark.usefixtures("filled")
def test_a_day_in_the_future_is_refused(v6: Run) -> None:
    result = v6("positions", "--as-of", "2999-01-02")
    assert (result.code, result.out) == (2, "")
    assert result.error == "--as-of 2999-01-02 is in the future"


@pytest.mark.usefixtures("filled")
def test_account_and_limit(v6: Run) -> None:
    assert [row["conid"] for row in v6("positions", "--account", "DU2", "--json").document["positions"]] == [2]
    assert v6("positions", "--limit", 1).out.endswith("1 of 2 positions\n")
    unknown = v6("positions", "--account", "DU9")
    assert (unknown.code, unknown.error) == (1, "no positions of account DU9 are known: the lake has DU1, DU2")


def test_an_empty_lake_says_what_to_do(v6: Run, home: Path) -> None:
    result = v6("positions")
    assert result.code == 0
    assert "run 'v6 refresh --all'" in result.err
    assert not home.exists()
    assert v6("positions", "--json").document["positions"] == []


def test_tables_without_rows_are_an_empty_lake(v6: Run, settings: Settings) -> None:
    """Rows of the streamer on a day without ticks."""
    store(Path(settings.lake_root), STREAMED_POSITIONS).open()
    assert "has no positions yet" in v6("positions").err


def test_closed_positions_are_not_shown(v6: Run, settings: Settings) -> None:
    store(Path(settings.lake_root)).append(queued([update(1, position=0.0)]), by_run())
    assert "the newest row of every contract is a close" in v6("positions").err


def test_a_lake_that_is_a_file_is_one_line(v6: Run, settings: Settings) -> None:
    Path(settings.lake_root).write_text("")
    result = v6("positions")
    assert result.code == 1
    assert settings.lake_root in result.error
