"""Counters over a passed-in clock."""

import json
from datetime import UTC, datetime

from v6_pipeline.paper.statistics import KEPT_EVENTS, RollingCount, Statistics


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rolling_second_forgets_what_is_a_second_old() -> None:
    window = RollingCount()
    assert [window.add(moment) for moment in (0.0, 0.5, 0.999, 1.0, 1.4, 2.5)] == [1, 2, 3, 3, 4, 1]
    assert window.peak == 4


def test_a_cleared_window_keeps_its_peak() -> None:
    window = RollingCount()
    window.add(0.0)
    window.add(0.1)
    window.clear()
    assert window.add(0.2) == 1
    assert window.peak == 2


def test_the_peak_spans_the_border_of_two_calendar_seconds_and_all_clients() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    for moment, client_id in ((100.6, 1), (100.9, 2), (101.2, 1), (102.0, 2)):
        clock.now = moment
        statistics.message_received(client_id)
    assert statistics.peak_rate == 3
    assert statistics.peak_rate_by_client == {1: 2, 2: 1}
    assert statistics.messages == {1: 2, 2: 2}
    assert statistics.messages_total == 4


def test_lines_are_counted_by_contract_now_at_most_and_ever() -> None:
    statistics = Statistics(Clock())
    statistics.line_taken(5)
    statistics.line_taken(5)
    statistics.line_taken(6)
    statistics.line_released(5)
    statistics.line_released(6)
    assert (statistics.lines, statistics.peak_lines) == (1, 3)
    assert statistics.subscriptions == {5: 1}
    assert 6 not in statistics.subscriptions
    assert statistics.subscriptions_total == {5: 2, 6: 1}


def test_a_value_not_sent_again_keeps_its_last_one() -> None:
    statistics = Statistics(Clock())
    statistics.delivered(5, 0, {"bid": 1.0, "ask": 2.0}, 2)
    statistics.delivered(5, 1, {"ask": 2.5}, 1)
    assert statistics.last_values[5] == {"bid": 1.0, "ask": 2.5, "sequence": 1}
    assert statistics.ticks_sent == 3


def test_errors_are_kept_with_their_times_and_only_the_newest() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    for number in range(KEPT_EVENTS + 5):
        clock.now = 100.0 + number
        statistics.error_sent(101)
    statistics.error_sent(354)
    assert statistics.errors == {101: KEPT_EVENTS + 5, 354: 1}
    assert (statistics.error_times[101][0], len(statistics.error_times[101])) == (5.0, KEPT_EVENTS)
    assert list(statistics.error_times[354]) == [KEPT_EVENTS + 4.0]


def test_the_rate_is_that_of_the_last_second_and_peaks_can_be_reset() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    for client_id in (1, 1, 2):
        statistics.message_received(client_id)
    statistics.line_taken(5)
    statistics.line_taken(6)
    statistics.line_taken(6)
    statistics.line_released(6)
    assert (statistics.rate, statistics.rate_by_client) == (3, {1: 2, 2: 1})
    clock.now += 1.0
    assert statistics.rate == 0
    statistics.message_received(1)
    assert (statistics.peak_rate, statistics.peak_lines, statistics.peak_subscriptions[6]) == (3, 3, 2)
    statistics.reset_peaks()
    assert (statistics.peak_rate, statistics.peak_lines, statistics.peak_subscriptions) == (1, 2, {5: 1, 6: 1})
    assert statistics.peak_rate_by_client == {1: 1, 2: 0}


def test_a_delivery_is_dated_in_utc_and_counted_by_contract() -> None:
    moment = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)
    statistics = Statistics(Clock(), lambda: moment)
    statistics.delivered(5, 0, {"bid": 1.0}, 3)
    statistics.delivered(6, 0, {}, 0)
    assert statistics.ticks_by_contract == {5: 3}
    assert statistics.delivered_at == {5: moment}
    assert statistics.snapshot()["delivered_at"] == {"5": "2026-11-20T15:30:00+00:00"}


def test_the_report_is_json() -> None:
    statistics = Statistics(Clock())
    statistics.acted("drop", {"client_id": 5})
    statistics.error_sent(101)
    report = json.loads(json.dumps(statistics.snapshot()))
    assert report["actions"] == [[0.0, "drop", {"client_id": 5}]]
    assert report["error_times"] == {"101": [0.0]}
