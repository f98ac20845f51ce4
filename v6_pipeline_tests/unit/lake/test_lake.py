"""Addresses of tables, and the separation of simulated and real rows."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import polars as pl
import pytest
from pydantic import SecretStr

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.lake import DEADLINES, AccountKind, Lake
from v6_pipeline.lake.tables import QUEUED_POSITIONS, STREAMED_POSITIONS, TABLES
from v6_pipeline.settings import Settings
from v6_pipeline_tests.unit.lake.builders import by_epoch, by_run, no_fsync, queued, streamed, update


def lake(folder: Path) -> Lake:
    """Return the lake as a new process sees it."""
    return Lake(str(folder), fsync=no_fsync)


def append(to: Lake, *accounts: str) -> None:
    to.table(QUEUED_POSITIONS).append(queued([update(1, account) for account in accounts]), by_run())


@pytest.mark.parametrize(("first", "second"), [("SIM1", "DU1"), ("DU1", "SIM1")])
def test_a_lake_used_with_one_kind_is_refused_to_the_other(first: str, second: str, tmp_path: Path) -> None:
    append(lake(tmp_path), first)
    with pytest.raises(LakeError, match=rf"holds \w+ accounts, {second} is \w+: use another V6_LAKE_URI") as caught:
        append(lake(tmp_path), second)
    assert "\n" not in str(caught.value)
    append(lake(tmp_path), first)


def test_the_refusal_holds_for_every_table(tmp_path: Path) -> None:
    append(lake(tmp_path), "DU1")
    with pytest.raises(LakeError, match="holds real accounts"):
        lake(tmp_path).table(STREAMED_POSITIONS).append(streamed([update(1, "SIM1")]), by_epoch())
    assert not (tmp_path / "streamed_positions").exists()


def test_the_refusal_holds_within_a_process(tmp_path: Path) -> None:
    used = lake(tmp_path)
    append(used, "SIM1")
    with pytest.raises(LakeError, match="holds simulated accounts"):
        append(used, "DU1")


def test_both_kinds_in_one_commit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="never share a lake"):
        append(lake(tmp_path), "SIM1", "DU1")
    assert lake(tmp_path).kind() is None


class LookedTooEarly(Lake):
    """A process that looked for the marker before another made it."""

    def kind(self) -> AccountKind | None:
        return None


def test_of_two_first_writers_one_wins(tmp_path: Path) -> None:
    append(LookedTooEarly(str(tmp_path), fsync=no_fsync), "SIM1")
    with pytest.raises(LakeError, match="holds simulated accounts"):
        append(LookedTooEarly(str(tmp_path), fsync=no_fsync), "DU1")


def test_first_writers_at_the_same_instant_agree(tmp_path: Path) -> None:
    """By default delta-rs retries a lost creation, and it replaces the winner: 8 of 60 lakes were mixed."""
    barrier = Barrier(3)

    def claim(account: str) -> list[bool]:
        admitted = []
        for number in range(40):
            mine = lake(tmp_path / str(number))
            barrier.wait(30)
            try:
                mine.admit([account])
            except LakeError:
                admitted.append(False)
            else:
                admitted.append(True)
        return admitted

    with ThreadPoolExecutor(3) as pool:
        simulated, *real = pool.map(claim, ["SIM1", "DU1", "DU2"])
    for number, (sim, one, other) in enumerate(zip(simulated, *real, strict=True)):
        assert one == other == (not sim), f"lake {number}"


def test_reading_decides_nothing(tmp_path: Path) -> None:
    assert lake(tmp_path).kind() is None
    lake(tmp_path).admit([])
    assert not any(tmp_path.iterdir())


def test_the_kind_can_be_asked(tmp_path: Path) -> None:
    append(lake(tmp_path), "SIM1")
    assert lake(tmp_path).kind() is AccountKind.SIMULATED


def test_a_damaged_marker_admits_no_account(tmp_path: Path) -> None:
    append(lake(tmp_path), "DU1")
    (tmp_path / "v6_lake" / "_delta_log" / f"{0:020}.json").write_text("{")
    with pytest.raises(LakeError, match="v6_lake"):
        append(lake(tmp_path), "SIM1")


def test_settings_name_the_lake(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, lake_uri="s3://bucket/lake/", lake_options={"AWS_SECRET_ACCESS_KEY": SecretStr("s")}
    )
    made = Lake.from_settings(settings)
    assert made.uri(QUEUED_POSITIONS) == "s3://bucket/lake/queued_positions"
    assert made.table(QUEUED_POSITIONS).storage_options == DEADLINES | {"AWS_SECRET_ACCESS_KEY": "s"}
    assert Lake.from_settings(Settings(home=tmp_path)).uri(QUEUED_POSITIONS) == str(
        tmp_path / "lake" / "queued_positions"
    )


def test_importing_the_lake_brings_no_more_than_polars_and_deltalake() -> None:
    """The streamer is up in two seconds: pandas, pyarrow, Dagster or SQLAlchemy must not be imported."""
    code = "import sys, v6_pipeline.lake.lake, v6_pipeline.lake.fencing, v6_pipeline.lake.reader; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    heavy = {"pandas", "pyarrow", "dagster", "sqlalchemy", "ib_async", "numpy", "pydantic"}
    assert not heavy & set(loaded.split())


def test_an_object_store_has_deadlines_and_a_users_own_take_precedence() -> None:
    """By default delta-rs repeats a request that is not answered for three minutes."""
    table = Lake("s3://bucket/lake", {"AWS_REGION": "x", "Timeout": "90s"}).table(TABLES[0])
    assert table.storage_options == {
        "connect_timeout": "5s",
        "retry_timeout": "30s",
        "AWS_REGION": "x",
        "Timeout": "90s",
    }
    assert Lake("/somewhere", {}).table(TABLES[0]).storage_options == {}


def test_polars_reads_with_the_same_deadlines() -> None:
    """It refuses ``max_retries`` as text, which delta-rs needs."""
    pl.scan_parquet("s3://bucket/lake/file.parquet", storage_options=DEADLINES)
