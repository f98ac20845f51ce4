"""The statements of folders: one per account and day, a day at a time, none from a file that changes."""

from __future__ import annotations

import stat
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import FlexError
from v6_pipeline.flex.files import FlexFiles
from v6_pipeline.flex.model import FlexStatement
from v6_pipeline_tests.unit.flex.flex_builders import (
    FRIDAY,
    GENERATED,
    MONDAY,
    SUNDAY,
    position,
    read,
    statement,
    write,
)

CALENDAR = TradingCalendar()
LATER = GENERATED + timedelta(hours=1)


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parent of temporary folders, apart from the statements."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    folder = tmp_path / "drop"
    folder.mkdir()
    return folder


def files(*folders: Path, **given: Any) -> FlexFiles:
    return FlexFiles(folders, CALENDAR, **{"read": read} | given)


def test_days_come_in_order_with_each_accounts_newest_statement(drop: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    old, new = statement(sha256="old"), statement(sha256="new", generated_at=LATER)
    write(drop / "a.xml", statement("U2"), new, statement("U1", FRIDAY))
    write(archive / "b.xml", statement("U2", FRIDAY), old)

    found = files(drop, archive)

    assert found.days() == [FRIDAY, MONDAY]
    assert list(found.statements([MONDAY, FRIDAY])) == [
        (FRIDAY, [statement("U1", FRIDAY), statement("U2", FRIDAY)]),
        (MONDAY, [new, statement("U2")]),
    ]
    assert found.index().origins(FRIDAY) == {"U1": "a.xml", "U2": "b.xml"}
    assert found.index().notes == ()


def test_only_requested_days_that_are_covered_are_returned(drop: Path) -> None:
    write(drop / "a.xml", statement(day=FRIDAY), statement(day=MONDAY))
    tuesday = MONDAY + timedelta(days=1)
    assert [day for day, _ in files(drop).statements([tuesday, MONDAY])] == [MONDAY]


def test_one_bad_file_hides_no_other(drop: Path) -> None:
    write(drop / "a.xml", statement(day=FRIDAY), whole=False)
    write(drop / "b.xml", statement(day=MONDAY))

    index = files(drop).index()

    assert list(index.days) == [MONDAY]
    assert index.unreadable == ("a.xml: the document breaks off",)
    assert [each.file.name for each in index.files] == ["b.xml"]


def test_what_covers_nothing_and_what_was_guessed_is_noted(drop: Path) -> None:
    write(drop / "a.xml", statement(day=SUNDAY), statement(sha256="x"))
    write(drop / "b.xml", statement(sha256="y"))

    weekend, guess = files(drop).index().notes

    assert "covers no trading day" in weekend
    assert "that of b.xml (statement 1) is used, not that of a.xml (statement 2)" in guess


def test_accounts_that_are_not_kept_are_not_given(drop: Path) -> None:
    write(drop / "a.xml", statement("U1"), statement("U2"))
    assert list(files(drop, accounts=("U2",)).statements([MONDAY])) == [(MONDAY, [statement("U2")])]


def test_a_folder_that_is_given_twice_is_read_once(drop: Path, tmp_path: Path) -> None:
    write(drop / "a.xml", statement())
    (tmp_path / "link").symlink_to(drop)
    assert len(files(drop, tmp_path / "link").index().files) == 1


def test_a_missing_folder_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FlexError, match="V6_FLEX_DIR"):
        files(tmp_path / "missing").days()


def test_files_are_indexed_once(drop: Path) -> None:
    opened: list[str] = []

    def counting(file: BinaryIO, name: str) -> Iterator[FlexStatement]:
        opened.append(name)
        return read(file, name)

    write(drop / "a.xml", statement(day=FRIDAY), statement(day=MONDAY))
    write(drop / "unused.xml", statement(day=SUNDAY))
    found = files(drop, read=counting)
    found.days()
    found.index()
    assert sorted(opened) == ["a.xml", "unused.xml"]

    list(found.statements([FRIDAY, MONDAY]))
    assert opened[2:] == ["a.xml"]


@pytest.mark.parametrize(
    ("now_there", "how"),
    [
        ((statement(sha256="other"),), "its statement 1 was replaced"),
        ((statement("U2"), statement()), "its statement 1 was replaced"),
        ((), "its statement 1 is missing"),
    ],
    ids=["content", "order", "fewer"],
)
def test_a_file_that_changed_since_it_was_indexed_is_refused(
    drop: Path, spool: Path, now_there: tuple[FlexStatement, ...], how: str
) -> None:
    found = files(drop)
    write(drop / "a.xml", statement())
    found.days()
    write(drop / "a.xml", *now_there)

    with pytest.raises(FlexError, match=rf"^a\.xml changed while it was being read \({how}\)") as failure:
        list(found.statements([MONDAY]))

    assert str(failure.value).count("changed") == 1
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("whole", [True, False], ids=["gone", "half"])
def test_a_file_that_went_or_broke_since_it_was_indexed_is_refused(drop: Path, whole: bool) -> None:
    found = files(drop)
    path = write(drop / "a.xml", statement(), statement("U2"))
    found.days()
    if whole:
        path.unlink()
    else:
        write(path, statement(), whole=False)

    with pytest.raises(FlexError, match=r"^a\.xml changed while it was being read"):
        list(found.statements([MONDAY]))


def test_statements_wait_in_a_folder_of_our_own_until_their_day_and_no_longer(drop: Path, spool: Path) -> None:
    write(drop / "a.xml", statement("U1", FRIDAY), statement("../U2", FRIDAY), statement(day=MONDAY))
    days = files(drop).statements([FRIDAY, MONDAY])

    assert next(days)[0] == FRIDAY
    (folder,) = spool.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.iterdir())) == 1

    days.close()  # type: ignore[attr-defined]
    assert list(spool.iterdir()) == []


def test_the_spool_goes_when_a_consumer_fails(drop: Path, spool: Path) -> None:
    write(drop / "a.xml", statement())

    def consume() -> None:
        for _ in files(drop).statements([MONDAY]):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        consume()
    assert list(spool.iterdir()) == []


def test_memory_holds_one_day_of_a_file_of_many(drop: Path) -> None:
    sessions = CALENDAR.sessions_between(MONDAY - timedelta(days=58), MONDAY)
    one_day = 200

    def generated(file: BinaryIO, name: str) -> Iterator[FlexStatement]:
        for day in reversed(sessions):
            held = tuple(position(conid, attributes=(("note", f"{day} {conid} " * 20),)) for conid in range(one_day))
            yield statement(day=day, positions=held)

    (drop / "a.xml").touch()
    found = files(drop, read=generated)

    whole = _peak(lambda: [only for _, (only,) in found.statements(sessions)])
    seen: list[tuple[date, int]] = []
    peak = _peak(lambda: seen.extend((day, len(only.positions)) for day, (only,) in found.statements(sessions)))

    assert seen == [(day, one_day) for day in sessions]
    assert peak < whole / 10


def _peak(act: Callable[[], object]) -> int:
    """Most bytes that Python held during it."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
