"""A web service's rate is kept over all processes, whatever the clock does backwards."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from v6_pipeline.state import schema
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.pacing import web as request_rates
from v6_pipeline.state.pacing.web import LONGEST_PAUSE, Window
from v6_pipeline_tests.properties import examples
from v6_pipeline_tests.unit.state.databases import START, ManualClock, copy_of

WINDOWS = (Window(1, timedelta(seconds=1)), Window(10, timedelta(seconds=60)))


def take(database: StateDatabase, clock: ManualClock, name: str = "flex") -> float:
    with database.write() as connection:
        return request_rates.take(connection, name, WINDOWS, clock=clock).total_seconds()


def pause(database: StateDatabase, clock: ManualClock, seconds: float) -> None:
    with database.write() as connection:
        request_rates.pause(connection, "flex", timedelta(seconds=seconds), clock=clock)


def test_the_first_request_is_sent_at_once_and_the_next_a_second_later(
    database: StateDatabase, clock: ManualClock
) -> None:
    assert take(database, clock) == 0
    clock.advance(0.25)
    assert take(database, clock) == 0.75
    clock.advance(0.75)
    assert take(database, clock) == 0


def test_a_process_that_must_wait_uses_nothing_up(database: StateDatabase, clock: ManualClock) -> None:
    take(database, clock)
    for _ in range(50):
        assert take(database, clock) == 1
    clock.advance(1)
    assert take(database, clock) == 0


def test_the_eleventh_request_waits_for_the_minute_of_the_first(database: StateDatabase, clock: ManualClock) -> None:
    for _ in range(10):
        assert take(database, clock) == 0
        clock.advance(2)
    assert take(database, clock) == 40


def test_another_token_has_a_rate_of_its_own(database: StateDatabase, clock: ManualClock) -> None:
    take(database, clock)
    assert take(database, clock, "flex of another token") == 0


def test_a_pause_holds_for_everyone_and_a_shorter_one_does_not_end_it(
    database: StateDatabase, clock: ManualClock
) -> None:
    pause(database, clock, 30)
    clock.advance(5)
    pause(database, clock, 10)
    assert take(database, clock) == 25
    clock.advance(25)
    assert take(database, clock) == 0


def test_a_clock_set_back_by_an_hour_costs_a_window_and_not_the_hour(
    database: StateDatabase, clock: ManualClock
) -> None:
    for _ in range(10):
        take(database, clock)
        clock.advance(1)
    pause(database, clock, 60)
    clock.advance(-3_600)
    assert take(database, clock) == 60
    clock.advance(59)
    assert take(database, clock) == 1
    clock.advance(1)
    assert take(database, clock) == 0


def test_no_pause_is_longer_than_the_longest(database: StateDatabase, clock: ManualClock) -> None:
    pause(database, clock, 86_400)
    assert take(database, clock) == LONGEST_PAUSE.total_seconds()


def windowed(sent: list[int], length: int) -> int:
    """The most requests in any half-open window of this length."""
    return max(sum(start <= moment < start + length for moment in sent) for start in sent)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([0.0, 0.001, 0.4, 0.999, 1.0, 3.0, 17.0]),
        st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.0, 0.7, 20.0, 3_600.0]),
        st.booleans(),
    ),
    min_size=20,
    max_size=60,
)
"""(which process asks, seconds since the last ask, seconds that the clock is set back first, whether it keeps the wait
and asks again when that is over)."""


@settings(max_examples=examples(40), deadline=None)
@given(steps=STEPS)
def test_no_second_has_two_requests_and_no_minute_eleven(
    sqlite_template: Path, steps: list[tuple[int, float, float, bool]]
) -> None:
    true_time = 0  # microseconds, as the database keeps them: sums of floats are off by a hair
    clock = ManualClock()
    sent: list[int] = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        copy_of(sqlite_template, path).close()
        processes = [StateDatabase.open(f"sqlite:///{path}", name_for_messages="state") for _ in range(3)]

        def let_pass(seconds: float) -> None:
            nonlocal true_time
            true_time += round(seconds * 1_000_000)
            clock.advance(seconds)

        for process, gap, set_back, obeys in steps:
            let_pass(gap)
            clock.advance(-set_back)
            wait = take(processes[process], clock)
            assert wait <= 120, "no process waits longer than two windows"
            if wait and obeys:
                let_pass(wait)
                wait = take(processes[process], clock)
            if not wait:
                sent.append(true_time)
        for database in processes:
            database.close()

    assert sent
    assert windowed(sent, 1_000_000) == 1
    assert windowed(sent, 60_000_000) <= 10


def test_what_is_remembered_is_short(sqlite_database: StateDatabase, clock: ManualClock) -> None:
    for _ in range(40):
        while wait := take(sqlite_database, clock):
            clock.advance(wait)
    with sqlite_database.read() as connection:
        [row] = connection.execute(schema.request_rates.select())
    assert len(row.sent_at) == 10
    assert row.sent_at == sorted(row.sent_at)
    assert clock() - START >= timedelta(seconds=180)
