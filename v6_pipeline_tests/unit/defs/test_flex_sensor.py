"""``flex_statements_sensor``: what is dropped becomes partitions, once, and only when it is complete."""

from __future__ import annotations

import gzip
import os
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from v6_pipeline.defs import flex_sensor
from v6_pipeline.defs.flex_sensor import LEFT_OUT, _of_one_tick, flex_statements_sensor, tick
from v6_pipeline.defs.partitions import RANGE_END, RANGE_START
from v6_pipeline.errors import FlexError
from v6_pipeline.flex.files import FileState
from v6_pipeline_tests.history_days import CALENDAR, drop
from v6_pipeline_tests.unit.defs.conftest import FRIDAY_NOON, Clock, ClockedPipeline

WEEK = CALENDAR.sessions_between(date(2026, 11, 9), date(2026, 11, 13))


@pytest.fixture
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = home / "statements"
    made.mkdir()
    monkeypatch.setenv("V6_FLEX_DIR", str(made))
    monkeypatch.setenv("V6_START_DATE", "2026-10-01")
    return made


def put(folder: Path, name: str, days: list[date], *, age: timedelta = timedelta(minutes=1)) -> Path:
    """A file that was last written that long before now, by the test's clock."""
    drop(folder / name, days, quantity=1, made="210000")
    return touch(folder / name, age)


def touch(path: Path, age: timedelta) -> Path:
    written = (Clock.instant - age).timestamp()
    os.utime(path, (written, written))
    return path


def ranges(result: dg.SensorResult) -> list[tuple[str, str]]:
    return [(request.tags[RANGE_START], request.tags[RANGE_END]) for request in result.run_requests or ()]


def said(result: dg.SensorResult) -> str:
    assert result.skip_reason is not None
    return str(result.skip_reason.skip_message)


def test_a_new_file_is_one_run_per_unbroken_range_and_is_not_asked_for_again(
    folder: Path, pipeline: ClockedPipeline
) -> None:
    put(folder, "some.xml", [WEEK[0], WEEK[1], WEEK[3]])

    first = tick(None, pipeline)
    second = tick(first.cursor, pipeline)

    assert ranges(first) == [("2026-11-09", "2026-11-10"), ("2026-11-12", "2026-11-12")]
    assert said(second) == f"nothing new among 1 files in {folder}"


def test_a_range_goes_on_over_a_weekend(folder: Path, pipeline: ClockedPipeline) -> None:
    put(folder, "some.xml", [date(2026, 11, 13), date(2026, 11, 16)])
    assert ranges(tick(None, pipeline)) == [("2026-11-13", "2026-11-16")]


def test_a_file_that_is_still_being_written_waits_and_a_changed_one_is_read_again(
    folder: Path, pipeline: ClockedPipeline
) -> None:
    path = put(folder, "some.xml", WEEK[:1], age=timedelta(seconds=2))

    waiting = tick(None, pipeline)
    Clock.forward(4)
    ready = tick(waiting.cursor, pipeline)
    put(folder, "some.xml", WEEK[:2])
    changed = tick(ready.cursor, pipeline)

    assert said(waiting).endswith("1 still being written")
    assert ranges(ready) == [("2026-11-09", "2026-11-09")]
    assert ranges(changed) == [("2026-11-09", "2026-11-10")]
    assert path.exists()


def test_a_file_that_cannot_be_read_is_said_once_and_hides_no_other(folder: Path, pipeline: ClockedPipeline) -> None:
    torn = folder / "torn.xml"
    torn.write_text("<FlexQueryResponse>")
    touch(torn, timedelta(minutes=1))

    alone = tick(None, pipeline)
    again = tick(alone.cursor, pipeline)
    put(folder, "good.xml", WEEK[:1])
    beside = tick(None, pipeline)

    assert said(alone).startswith("torn.xml: ends early at line 1")
    assert said(again) == f"nothing new among 1 files in {folder}"
    assert ranges(beside) == [("2026-11-09", "2026-11-09")]


def test_days_before_the_first_partition_do_not_count(
    folder: Path, pipeline: ClockedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V6_START_DATE", "2026-11-11")
    put(folder, "some.xml", WEEK)
    part = tick(None, pipeline)
    put(folder, "some.xml", WEEK[:1])
    none = tick(None, pipeline)

    assert ranges(part) == [("2026-11-11", "2026-11-13")]
    [request] = part.run_requests or ()
    assert request.tags[LEFT_OUT] == (
        "left out, because before V6_START_DATE (2026-11-11): 2 trading days, 2026-11-09 to 2026-11-10; to have them, "
        "set start_date in v6.toml to 2026-11-09 or earlier, restart, and import them"
    )
    assert said(none).startswith(
        "no trading day since V6_START_DATE is in some.xml: left out, because before V6_START_DATE (2026-11-11): "
        "1 trading days, 2026-11-09 to 2026-11-09; to have them, set start_date"
    )


@pytest.mark.parametrize("name", ["some.xml.gz", "some.gz", "gzip_named.xml"])
def test_compressed_statements_are_read_whatever_their_name(folder: Path, pipeline: ClockedPipeline, name: str) -> None:
    drop(folder / "plain.xml", WEEK[:2], quantity=1, made="210000")
    (folder / name).write_bytes(gzip.compress((folder / "plain.xml").read_bytes()))
    (folder / "plain.xml").unlink()
    touch(folder / name, timedelta(minutes=1))

    assert ranges(tick(None, pipeline)) == [("2026-11-09", "2026-11-10")]


def test_reports_in_other_formats_are_named(folder: Path, pipeline: ClockedPipeline) -> None:
    for name in ("report.csv", "report.zip", "notes.md"):
        (folder / name).touch()
    assert said(tick(None, pipeline)) == (
        f"nothing new among 0 files in {folder}; not read in {folder}: report.csv, report.zip: set the format XML in "
        "the Flex query's delivery settings, unpack archives"
    )


def test_a_statement_that_cannot_be_read_is_named_in_the_run_of_the_others(
    folder: Path, pipeline: ClockedPipeline
) -> None:
    path = put(folder, "some.xml", WEEK[:2])
    path.write_text(path.read_text().replace('position="1"', 'position="one"', 1))
    touch(path, timedelta(minutes=1))

    [request] = tick(None, pipeline).run_requests or ()

    assert request.tags[RANGE_START] == "2026-11-09"
    assert "OpenPosition 1 (S1): position 'one' is no number" in request.tags[LEFT_OUT]


def test_a_statement_of_a_holiday_remakes_the_session_after_it_once_that_is_over(
    folder: Path, pipeline: ClockedPipeline
) -> None:
    trade = (
        '<Trades><Trade conid="1" symbol="S1" currency="USD" tradeDate="{day:%Y%m%d}" quantity="5" tradePrice="60" />'
        "</Trades>"
    )
    drop(folder / "holiday.xml", [date(2026, 11, 26)], quantity=1, made="210000", activity=trade)
    touch(folder / "holiday.xml", timedelta(minutes=1))

    early = tick(None, pipeline)
    Clock.forward(10 * 86_400)
    late = tick(None, pipeline)

    assert ranges(early) == []
    assert ranges(late) == [("2026-11-27", "2026-11-27")]


def read_in(ticks: int, folder: Path, pipeline: ClockedPipeline) -> list[tuple[str, str]]:
    """The ranges that a week's files, one a day, become in so many ticks; after them nothing is left."""
    for number, day in enumerate(WEEK):
        put(folder, f"{number}.xml", [day])
    cursor, found = None, []
    for _ in range(ticks):
        result = tick(cursor, pipeline)
        cursor = result.cursor
        found += ranges(result)
    assert said(tick(cursor, pipeline)).startswith("nothing new")
    return found


def test_many_files_are_read_over_several_ticks(
    folder: Path, pipeline: ClockedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex_sensor, "FILES_PER_TICK", 2)
    assert read_in(3, folder, pipeline) == [
        ("2026-11-09", "2026-11-10"),
        ("2026-11-11", "2026-11-12"),
        ("2026-11-13", "2026-11-13"),
    ]


@pytest.mark.parametrize(
    ("megabytes", "read"),
    [([], 0), ([60, 40, 1], 2), ([60, 41], 1), ([250, 1], 1), ([1, 250], 1), ([1] * 21, 20)],
)
def test_a_tick_takes_the_first_files_up_to_100_mb_and_at_least_one(megabytes: list[int], read: int) -> None:
    """Dagster ends a tick after 60 s: what it cannot finish it would begin again for ever."""
    names = [f"{number}.xml" for number in range(len(megabytes))]
    found = {name: FileState(size * 1_000_000, 0) for name, size in zip(names, megabytes, strict=True)}
    assert _of_one_tick(names, found) == names[:read]


def test_large_files_are_read_one_by_one(
    folder: Path, pipeline: ClockedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex_sensor, "BYTES_PER_TICK", 1)
    assert read_in(len(WEEK), folder, pipeline) == [(day.isoformat(), day.isoformat()) for day in WEEK]


@pytest.mark.parametrize("cursor", ["", "{", "[1]", '{"a": 1}'])
def test_an_unreadable_cursor_starts_over(folder: Path, pipeline: ClockedPipeline, cursor: str) -> None:
    put(folder, "some.xml", WEEK[:1])
    assert ranges(tick(cursor, pipeline)) == [("2026-11-09", "2026-11-09")]


def test_without_a_folder_it_says_so(pipeline: ClockedPipeline) -> None:
    assert said(tick(None, pipeline)) == "V6_FLEX_DIR is not set"


def test_a_folder_that_is_gone_is_one_red_line(
    folder: Path, pipeline: ClockedPipeline, instance: dg.DagsterInstance
) -> None:
    folder.rmdir()
    with pytest.raises(FlexError, match="cannot list the folder of Flex statements"):
        tick(None, pipeline)
    with pytest.raises(dg.Failure, match="cannot list the folder of Flex statements"):
        flex_statements_sensor()(dg.build_sensor_context(instance=instance, resources={"pipeline": pipeline}))


def test_the_clock_of_these_tests_is_a_friday() -> None:
    assert CALENDAR.trading_day(FRIDAY_NOON) == date(2026, 11, 20)
