"""Findings on home, state, lake and calendar; the examination creates and changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.doctor import places as place_examination
from v6_pipeline.doctor.findings import Finding, Verdict
from v6_pipeline.doctor.places import examine_places, examine_settings
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import QUEUED_POSITIONS
from v6_pipeline.settings import Settings, StreamerMode, load_settings
from v6_pipeline.state import engines
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import utc_now
from v6_pipeline_tests.unit.lake.object_store import object_store

NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
NEWEST = "date=2026-11-20"
PLAIN_USER = 65534
"""Nobody."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "home").mkdir()
    return load_settings(tmp_path / "home")


@pytest.fixture
def with_state(settings: Settings) -> Settings:
    StateDatabase.open(settings.state_database_url, name_for_messages="state").close()
    return settings


def find(settings: Settings, what: str, now: datetime = NOW) -> Finding:
    [finding] = [finding for finding in examine_places(settings, now) if finding.what == what]
    return finding


def test_a_home_that_is_ready(with_state: Settings) -> None:
    before = sorted(with_state.home.rglob("*"))

    found = list(examine_places(with_state, NOW))

    assert [(finding.what, finding.verdict) for finding in found] == [
        (what, Verdict.OK) for what in ("home", "state", "lake", "calendar")
    ]
    assert "empty so far" in found[2].says
    assert sorted(with_state.home.rglob("*")) == before


def test_what_settings_name_must_be_there(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_me.py").write_text("def make(settings):\n    raise RuntimeError('not to be called')\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    wrong = {"handlers": ("nomod:make", "beside_me:make"), "flex_dir": tmp_path / "none"}

    handler, folder = examine_settings(settings.model_copy(update=wrong))

    assert (handler.what, handler.verdict) == ("settings", Verdict.FAULT)
    assert handler.says.startswith("V6_HANDLERS: cannot load nomod:make: ModuleNotFoundError")
    assert "correct V6_HANDLERS" in handler.remedy
    assert (folder.what, folder.verdict) == ("settings", Verdict.WARNING)
    assert f"there is no folder {tmp_path / 'none'}" in folder.says
    assert folder.remedy.startswith("create the folder")
    assert [finding.verdict for finding in examine_settings(settings)] == [Verdict.OK]
    assert sys.path == path

    # The program v6, which a supervisor starts, has no working folder on its path.
    monkeypatch.delitem(sys.modules, "beside_me")
    supervised = settings.model_copy(update={"handlers": ("beside_me:make",), "streamer": StreamerMode.SUPERVISED})
    assert [finding.verdict for finding in examine_settings(supervised)] == [Verdict.FAULT]


def test_a_folder_that_cannot_be_looked_at_is_a_finding(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(folder: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", forbidden)

    [folder] = examine_settings(settings.model_copy(update={"flex_dir": Path("/there")}))

    assert (folder.verdict, folder.says) == (
        Verdict.WARNING,
        "V6_FLEX_DIR: /there: Permission denied, so no statement is found",
    )


def test_no_home(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "none")

    found = {finding.what: finding for finding in examine_places(settings, NOW)}

    assert {what for what, finding in found.items() if finding.verdict is Verdict.FAULT} == {"home", "state"}
    assert found["home"].remedy.startswith("run 'v6 init'")
    assert found["state"].remedy == "run 'v6 init'"
    assert not (tmp_path / "none").exists()


@pytest.fixture
def as_plain_user(with_state: Settings) -> Iterator[Settings]:
    """Permissions do not bind root: as another user then, in a home that is that user's."""
    if not hasattr(os, "geteuid"):
        pytest.skip("permissions of a folder do not keep files out on this system")
    if os.geteuid() != 0:
        yield with_state
        return
    with tempfile.TemporaryDirectory() as folder:  # that of pytest is closed to others
        home = Path(shutil.copytree(with_state.home, Path(folder) / "home"))
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, PLAIN_USER, PLAIN_USER)
        os.seteuid(PLAIN_USER)
        try:
            yield load_settings(home)
        finally:
            os.seteuid(0)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def test_a_home_that_cannot_be_written(as_plain_user: Settings) -> None:
    home = as_plain_user.home

    with read_only(home):
        found = [find(as_plain_user, what) for what in ("home", "lake")]

    assert [(finding.verdict, finding.says) for finding in found] == [
        (Verdict.FAULT, f"{home} cannot be written: Permission denied")
    ] * 2
    assert {find(as_plain_user, what).verdict for what in ("home", "lake")} == {Verdict.OK}


@pytest.mark.parametrize("part", [".", "queued_positions", "queued_positions/_delta_log", f"queued_positions/{NEWEST}"])
def test_a_part_of_the_lake_that_cannot_be_written(as_plain_user: Settings, part: str) -> None:
    """One run as root created a table, a version of it or the day's partition."""
    lake = Path(as_plain_user.lake_root)
    Lake.from_settings(as_plain_user).table(QUEUED_POSITIONS).open()
    for partition in ("date=2026-11-19", NEWEST):
        (lake / QUEUED_POSITIONS.name / partition).mkdir()
    assert find(as_plain_user, "lake").verdict is Verdict.OK
    before = sorted(lake.rglob("*"))

    with read_only(lake / part):
        finding = find(as_plain_user, "lake")

    assert (finding.verdict, finding.says) == (
        Verdict.FAULT,
        f"{lake / part} cannot be written: Permission denied",
    )
    assert "make this user the owner of the lake and all files in it" in finding.remedy
    assert sorted(lake.rglob("*")) == before


def test_several_parts_that_cannot_be_written_are_one_fault(as_plain_user: Settings) -> None:
    table = Path(as_plain_user.lake_root) / QUEUED_POSITIONS.name
    Lake.from_settings(as_plain_user).table(QUEUED_POSITIONS).open()

    with read_only(table), read_only(table / "_delta_log"):
        finding = find(as_plain_user, "lake")

    assert finding.says == f"{table} cannot be written: Permission denied, nor can 1 more of its folders"


def test_what_makes_a_folder_unwritable_is_what_the_disk_says(tmp_path: Path) -> None:
    assert place_examination._unwritable(tmp_path) is None
    assert place_examination._unwritable(tmp_path / "none") == "No such file or directory"


def test_a_lake_that_is_a_file(with_state: Settings) -> None:
    Path(with_state.lake_root).write_text("no folder")

    finding = find(with_state, "lake")

    assert (finding.verdict, finding.says) == (Verdict.FAULT, f"{with_state.lake_root} is a file")
    assert "V6_LAKE_URI" in finding.remedy


def in_object_store(settings: Settings, options: dict[str, str]) -> Settings:
    secret = {name: SecretStr(value) for name, value in options.items()}
    return settings.model_copy(update={"lake_uri": "s3://bucket/lake", "lake_options": secret})


def test_an_object_store_is_written_to_and_nothing_is_left(with_state: Settings) -> None:
    with object_store() as (options, log):
        finding = find(in_object_store(with_state, options), "lake")

    assert (finding.verdict, finding.says) == (Verdict.OK, "s3://bucket/lake, empty so far")
    put, delete = log
    assert put.startswith("put lake/_v6_probe_")
    assert delete == put.replace("put", "delete")


@pytest.mark.parametrize(("denied", "words"), [("put", "403 Forbidden"), ("delete", "AccessDenied")])
def test_an_object_store_that_refuses_writes(with_state: Settings, denied: str, words: str) -> None:
    with object_store(denied) as (options, log):
        finding = find(in_object_store(with_state, options), "lake")

    assert finding.verdict is Verdict.FAULT
    assert "s3://bucket/lake/_v6_probe_" in finding.says, "by which to delete it"
    assert words in finding.says
    assert "secret-of-the-store" not in finding.says
    assert "V6_LAKE_OPTIONS" in finding.remedy
    assert len(log) == (denied == "delete")


def test_state_of_a_newer_version(with_state: Settings) -> None:
    with sqlite3.connect(with_state.home / "state.db") as database:
        database.execute("UPDATE v6_schema_version SET version_num = '9999'")

    finding = find(with_state, "state")

    assert finding.verdict is Verdict.FAULT
    assert "schema 9999, newer than" in finding.says
    assert "upgrade v6_pipeline" in finding.says


def test_state_of_an_older_version_is_not_migrated_by_looking(with_state: Settings) -> None:
    with sqlite3.connect(with_state.home / "state.db") as database:
        database.execute("UPDATE v6_schema_version SET version_num = '0001'")

    for _ in range(2):
        finding = find(with_state, "state")
        assert finding.verdict is Verdict.WARNING
        assert "has schema 0001" in finding.says
        assert finding.remedy.startswith("run 'v6 init', which migrates it")


@pytest.mark.parametrize(("seconds", "words"), [(-150, "150 s ahead of"), (40, "40 s behind")])
def test_a_machine_whose_clock_differs_from_the_databases(
    with_state: Settings, monkeypatch: pytest.MonkeyPatch, seconds: int, words: str
) -> None:
    monkeypatch.setattr(engines, "utc_now", lambda: utc_now() + timedelta(seconds=seconds))

    finding = find(with_state, "state clock")

    assert finding.verdict is Verdict.WARNING
    assert f"this machine's clock is {words} that of " in finding.says


def test_clocks_that_agree_are_no_finding(with_state: Settings) -> None:
    assert "state clock" not in {finding.what for finding in examine_places(with_state, NOW)}


def test_state_that_is_something_else(settings: Settings) -> None:
    (settings.home / "state.db").write_text("this is no database, and long enough to be read as one: " + "x" * 200)

    assert find(settings, "state").verdict is Verdict.FAULT


def test_a_calendar_that_ends(with_state: Settings) -> None:
    last = TradingCalendar().last
    in_its_last_year = datetime(last.year, 2, 1, tzinfo=UTC)

    assert find(with_state, "calendar", in_its_last_year).verdict is Verdict.WARNING
    assert find(with_state, "calendar", datetime(last.year + 1, 2, 1, tzinfo=UTC)).verdict is Verdict.FAULT
