"""The day that a statement covers, and the newest statement of each account and day."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import CalendarError, FlexError
from v6_pipeline.flex.index import IndexedStatement, by_day, choose_newest, index_file
from v6_pipeline.flex.model import covered_day
from v6_pipeline_tests.unit.flex.flex_builders import (
    FRIDAY,
    GENERATED,
    MONDAY,
    SATURDAY,
    SUNDAY,
    read,
    statement,
    write,
)

CALENDAR = TradingCalendar()
CARTER = date(2025, 1, 9)
"""A day of mourning: the exchange was closed."""


def indexed(
    *,
    file: str = "a.xml",
    sha256: str = "x",
    generated_at: datetime = GENERATED,
    account: str = "U1",
    day: date = MONDAY,
    ordinal: int = 0,
) -> IndexedStatement:
    return IndexedStatement(
        account=account, day=day, generated_at=generated_at, sha256=sha256, file=Path("/flex") / file, ordinal=ordinal
    )


@pytest.mark.parametrize(
    ("first", "last", "covered"),
    [
        (MONDAY, MONDAY, MONDAY),
        (date(2026, 1, 1), MONDAY, MONDAY),
        (FRIDAY, SATURDAY, FRIDAY),
        (date(2026, 2, 1), SUNDAY, FRIDAY),
        (CARTER - timedelta(days=1), CARTER, date(2025, 1, 8)),
        (SATURDAY, SUNDAY, None),
        (SUNDAY, SUNDAY, None),
        (CARTER, CARTER, None),
    ],
)
def test_a_statement_covers_the_last_session_of_its_period_if_it_ends_with_it(
    first: date, last: date, covered: date | None
) -> None:
    assert covered_day(first, last, CALENDAR) == covered


def test_a_day_outside_the_calendar_is_none_that_can_be_covered() -> None:
    with pytest.raises(CalendarError):
        covered_day(date(1999, 1, 4), date(1999, 1, 4), CALENDAR)


def test_each_statement_of_a_file_is_indexed_with_its_day(tmp_path: Path) -> None:
    file = write(tmp_path / "a.xml", statement(day=MONDAY), statement("U2", FRIDAY))

    found = index_file(file, CALENDAR, read)

    assert found.days == [FRIDAY, MONDAY]
    assert found.notes == ()
    assert found.statements == (
        IndexedStatement(account="U1", day=MONDAY, generated_at=GENERATED, sha256=f"U1 {MONDAY}", file=file, ordinal=0),
        IndexedStatement(account="U2", day=FRIDAY, generated_at=GENERATED, sha256=f"U2 {FRIDAY}", file=file, ordinal=1),
    )


def test_a_statement_without_a_session_is_noted_and_keeps_the_places_of_the_others(tmp_path: Path) -> None:
    file = write(tmp_path / "a.xml", statement(day=SUNDAY), statement(day=date(1999, 1, 4)), statement(day=MONDAY))

    found = index_file(file, CALENDAR, read)

    assert [(each.day, each.ordinal) for each in found.statements] == [(MONDAY, 2)]
    weekend, ancient = found.notes
    assert weekend == (
        "a.xml: the statement of U1 for 2026-03-01 to 2026-03-01 covers no trading day: "
        "no session of the exchange lies in its period"
    )
    assert "1999-01-04" in ancient
    assert "outside the calendar" in ancient


def test_accounts_that_are_not_kept_are_as_if_not_there(tmp_path: Path) -> None:
    file = write(tmp_path / "a.xml", statement("U2", SUNDAY), statement("U2"), statement("U1"))

    found = index_file(file, CALENDAR, read, {"U1"})

    assert [(each.account, each.ordinal) for each in found.statements] == [("U1", 2)]
    assert found.notes == ()


def test_no_statement_of_a_truncated_file_counts(tmp_path: Path) -> None:
    file = write(tmp_path / "a.xml", statement(), whole=False)
    with pytest.raises(FlexError, match=r"^a\.xml: the document breaks off$"):
        index_file(file, CALENDAR, read)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlexError, match=r"^gone\.xml: cannot be read from .*: No such file"):
        index_file(tmp_path / "gone.xml", CALENDAR, read)


def test_the_newest_statement_is_chosen() -> None:
    old = indexed(file="z.xml", sha256="old")
    new = indexed(file="a.xml", sha256="new", generated_at=GENERATED + timedelta(seconds=1))
    assert choose_newest([new, old]) == ({("U1", MONDAY): new}, ())


def test_the_same_statement_in_two_files_is_not_ambiguous() -> None:
    chosen, notes = choose_newest([indexed(file="a.xml"), indexed(file="b.xml")])
    assert len(chosen) == 1
    assert notes == ()


def test_of_two_contents_of_one_instant_the_later_file_is_used_and_noted() -> None:
    earlier, later = indexed(file="a.xml", sha256="x"), indexed(file="b.xml", sha256="y")

    chosen, notes = choose_newest([later, earlier])

    assert chosen == {("U1", MONDAY): later}
    (note,) = notes
    assert note == (
        "U1 on 2026-03-02: statements of different content were generated at the same time (2026-03-03 10:00:00 UTC); "
        "that of b.xml (statement 1) is used, not that of a.xml (statement 1)"
    )


def test_an_ambiguity_among_older_statements_is_not_noted() -> None:
    newest = indexed(sha256="z", generated_at=GENERATED + timedelta(hours=1))
    chosen, notes = choose_newest([newest, indexed(sha256="x"), indexed(file="b.xml", sha256="y")])
    assert chosen == {("U1", MONDAY): newest}
    assert notes == ()


def test_days_and_accounts_are_in_order() -> None:
    given = [indexed(account="U2"), indexed(account="U1"), indexed(account="U3", day=FRIDAY)]
    days = by_day({each.key: each for each in given})
    assert [(day, [each.account for each in each_day]) for day, each_day in days.items()] == [
        (FRIDAY, ["U3"]),
        (MONDAY, ["U1", "U2"]),
    ]


STATEMENTS = st.lists(
    st.builds(
        indexed,
        file=st.sampled_from(["a.xml", "b.xml", "c.xml"]),
        sha256=st.sampled_from("xy"),
        generated_at=st.sampled_from([GENERATED + timedelta(hours=hours) for hours in range(3)]),
        account=st.sampled_from(["U1", "U2"]),
        day=st.sampled_from([FRIDAY, MONDAY]),
        ordinal=st.integers(0, 2),
    ),
    max_size=12,
    unique_by=lambda each: (each.file, each.ordinal),
)


@given(statements=STATEMENTS, data=st.data())
def test_the_choice_is_the_newest_whatever_the_order_and_an_ambiguity_is_always_noted(
    statements: list[IndexedStatement], data: st.DataObject
) -> None:
    chosen, notes = choose_newest(statements)

    assert choose_newest(data.draw(st.permutations(statements))) == (chosen, notes)
    assert set(chosen) == {each.key for each in statements}
    guesses = 0
    for key, taken in chosen.items():
        rivals = [each for each in statements if each.key == key]
        newest = max(each.generated_at for each in rivals)
        ties = [each for each in rivals if each.generated_at == newest]
        assert taken in ties
        assert taken.file.name == max(each.file.name for each in ties)
        guesses += len({each.sha256 for each in ties}) > 1
    assert len(notes) == guesses
