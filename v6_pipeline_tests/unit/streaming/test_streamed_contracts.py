"""The record of a streamed contract: what each event changes, what outlives what, and who is silent or unvalued."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from v6_pipeline.ib.codes import Reaction
from v6_pipeline.ib.market_data import Refusal
from v6_pipeline.model import SecType
from v6_pipeline.streaming.streamed_contracts import (
    BACK_OFF,
    CONTRACT_VERIFY_WITHIN,
    COOLDOWN,
    COOLDOWN_MAX,
    FIRST_TICK_WITHIN,
    SILENT_AFTER,
    StreamedContract,
    StreamedContracts,
)

NOW = datetime(2026, 11, 20, 15, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def subscribe(contracts: StreamedContracts, conid: int, now: datetime) -> StreamedContract:
    contracts.subscribed(conid, SecType.STOCK, now)
    record = contracts.get(conid)
    assert record is not None
    return record


@pytest.fixture
def contracts() -> StreamedContracts:
    """Contract 1 has been mute for a minute, while 2 ticks."""
    contracts = StreamedContracts()
    subscribe(contracts, 1, NOW - SILENT_AFTER)
    subscribe(contracts, 2, NOW - SILENT_AFTER)
    contracts.ticked(2, NOW)
    return contracts


# Silence


def test_a_stream_without_any_tick_is_silent_after_a_while(contracts: StreamedContracts) -> None:
    assert contracts.silent(NOW - SECOND) == frozenset()
    assert contracts.silent(NOW) == frozenset({1})


def test_while_nothing_ticks_nothing_is_silent(contracts: StreamedContracts) -> None:
    """The exchange is closed."""
    assert contracts.silent(NOW + SILENT_AFTER) == frozenset()


def test_a_stream_that_ticked_once_is_not_silent(contracts: StreamedContracts) -> None:
    contracts.ticked(1, NOW)

    assert contracts.silent(NOW) == frozenset()


def test_one_that_lost_its_line_cools_down_and_is_tried_again_later(contracts: StreamedContracts) -> None:
    contracts.cancelled(1, NOW)
    contracts.cancelled(2, NOW)

    assert contracts.silent(NOW + COOLDOWN - SECOND) == frozenset({1})
    assert contracts.silent(NOW + COOLDOWN) == frozenset()


def test_one_that_was_refused_a_line_is_not_silent(contracts: StreamedContracts) -> None:
    contracts.lost(1)

    assert contracts.silent(NOW) == frozenset()


def test_the_silence_of_one_that_was_refused_begins_with_its_next_line(contracts: StreamedContracts) -> None:
    contracts.lost(1)
    subscribe(contracts, 1, NOW)
    contracts.ticked(2, NOW + SILENT_AFTER - SECOND)

    assert contracts.silent(NOW + SILENT_AFTER - SECOND) == frozenset()
    contracts.ticked(2, NOW + SILENT_AFTER)
    assert contracts.silent(NOW + SILENT_AFTER) == frozenset({1})


def test_one_that_ticks_during_its_cooldown_is_not_silent(contracts: StreamedContracts) -> None:
    """No other contract needed the line, so that it got one during its cooldown."""
    contracts.cancelled(1, NOW)
    subscribe(contracts, 1, NOW)
    contracts.ticked(1, NOW)

    assert contracts.silent(NOW) == frozenset()


def test_a_new_session_knows_nothing_of_silence(contracts: StreamedContracts) -> None:
    contracts.begin_session()

    assert contracts.silent(NOW) == frozenset()


def miss(contracts: StreamedContracts, conid: int, now: datetime, *, is_open: bool = True) -> None:
    record = contracts.get(conid)
    assert record is not None
    contracts.missed(record, now, is_open=is_open)


def test_a_contract_is_silent_after_its_second_request_without_a_tick() -> None:
    contracts = StreamedContracts()
    subscribe(contracts, 1, NOW)
    miss(contracts, 1, NOW)
    assert contracts.silent(NOW) == frozenset()

    miss(contracts, 1, NOW + SECOND)

    assert contracts.silent(NOW + SECOND) == {1}
    assert contracts.silences() == {1: "no tick since 2026-11-20 15:00 UTC"}


def test_while_its_exchange_is_closed_only_one_that_ib_remarked_on_is_silent() -> None:
    contracts = StreamedContracts()
    for conid in (1, 2):
        subscribe(contracts, conid, NOW)
    contracts.remarked(2, "10089 not subscribed")
    for conid in (1, 1, 2, 2):
        miss(contracts, conid, NOW, is_open=False)

    assert contracts.silent(NOW) == {2}


def test_a_future_at_night_is_silent_if_another_future_ticks() -> None:
    contracts = StreamedContracts()
    for conid, sec_type in ((1, SecType.FUTURE), (2, SecType.FUTURE), (3, SecType.STOCK)):
        contracts.subscribed(conid, sec_type, NOW)
    contracts.ticked(2, NOW)
    for conid in (1, 1, 3, 3):
        miss(contracts, conid, NOW, is_open=False)

    assert contracts.silent(NOW) == {1}, "stocks have no hours now"


def test_the_open_ends_the_cooldown_of_a_contract_that_lost_its_line_before_it() -> None:
    """It came last for two hours after the open, as another contract of its feed had ticked before."""
    contracts = StreamedContracts()
    for conid in (1, 2, 3):
        contracts.subscribed(conid, SecType.OPTION, NOW)
    contracts.remarked(3, "10089 not subscribed")
    contracts.ticked(2, NOW)
    for conid in (1, 3):
        miss(contracts, conid, NOW, is_open=False)
        miss(contracts, conid, NOW, is_open=False)
        contracts.cancelled(conid, NOW)
    assert contracts.silent(NOW) == {1, 3}

    contracts.opened(NOW + SECOND)

    assert contracts.silent(NOW + SECOND) == {3}
    record = subscribe(contracts, 1, NOW + SECOND)
    assert (record.retries, record.losses) == (0, 0), "two fair requests"


def test_one_with_a_line_and_no_tick_before_the_open_is_not_silent_at_it(contracts: StreamedContracts) -> None:
    assert contracts.silent(NOW) == {1}

    contracts.opened(NOW)

    assert contracts.silent(NOW) == frozenset()
    contracts.ticked(2, NOW + SILENT_AFTER)
    assert contracts.silent(NOW + SILENT_AFTER) == {1}


def test_each_line_lost_for_silence_doubles_the_cooldown_and_then_one_request_is_enough() -> None:
    contracts = StreamedContracts()
    now, cooldowns = NOW, []
    for requests in (2, 1, 1, 1, 1, 1):
        subscribe(contracts, 1, now)
        assert contracts.silent(now) == frozenset(), "a fair try"
        for _ in range(requests):
            miss(contracts, 1, now)
        contracts.cancelled(1, now)
        record = contracts.get(1)
        assert record is not None
        assert record.cooldown_until is not None
        cooldowns.append(record.cooldown_until - now)
        now = record.cooldown_until

    assert cooldowns == [COOLDOWN, 2 * COOLDOWN, 4 * COOLDOWN, 8 * COOLDOWN, COOLDOWN_MAX, COOLDOWN_MAX]
    assert len(contracts.take_losses()) == 6
    assert contracts.take_losses() == []


def test_a_silence_that_all_contracts_shared_is_forgotten_with_the_first_tick() -> None:
    """The market data were away; IB's remarks on single contracts stand."""
    contracts = StreamedContracts()
    for conid in (1, 2, 3):
        subscribe(contracts, conid, NOW)
    contracts.remarked(2, "10089 not subscribed")
    for conid in (1, 1, 2, 2):
        miss(contracts, conid, NOW)
    contracts.cancelled(1, NOW)
    contracts.cancelled(2, NOW)

    contracts.ticked(3, NOW)

    assert contracts.silent(NOW) == {2}


def test_requests_are_given_ten_seconds_where_others_wait_and_data_flows_or_ib_remarked_on_them() -> None:
    contracts = StreamedContracts()
    record = subscribe(contracts, 1, NOW)
    assert contracts.deadline(record, NOW) == NOW + CONTRACT_VERIFY_WITHIN

    contracts.planned({1}, others_wait=True)
    assert contracts.deadline(record, NOW) == NOW + CONTRACT_VERIFY_WITHIN, "nothing ticks"
    subscribe(contracts, 2, NOW)
    contracts.ticked(2, NOW)
    assert contracts.deadline(record, NOW) == NOW + FIRST_TICK_WITHIN

    contracts.planned({1})
    assert contracts.deadline(record, NOW) == NOW + CONTRACT_VERIFY_WITHIN
    contracts.remarked(1, "10999 unknown")
    assert contracts.deadline(record, NOW) == NOW + FIRST_TICK_WITHIN


# Values


def look(contracts: StreamedContracts, valued: list[int], unvalued: list[int], now: datetime) -> None:
    for conid in valued:
        contracts.valued(conid, now, is_valued=True)
    for conid in unvalued:
        contracts.valued(conid, now, is_valued=False)


def test_one_without_a_value_for_long_is_due_and_again_after_the_same_time() -> None:
    contracts = StreamedContracts()
    look(contracts, [1], [2], NOW)
    assert contracts.unvalued(NOW + 4 * MINUTE, 5 * MINUTE) == []
    assert contracts.unvalued(NOW + 5 * MINUTE, 5 * MINUTE) == [2]
    assert contracts.unvalued(NOW + 6 * MINUTE, 5 * MINUTE) == [2], "until it is queued"
    contracts.queued([2], NOW + 6 * MINUTE)
    assert contracts.unvalued(NOW + 10 * MINUTE, 5 * MINUTE) == []
    assert contracts.unvalued(NOW + 11 * MINUTE, 5 * MINUTE) == [2]


def test_a_value_restarts_the_time() -> None:
    contracts = StreamedContracts()
    look(contracts, [], [2], NOW)
    look(contracts, [2], [], NOW + 3 * MINUTE)
    look(contracts, [], [2], NOW + 4 * MINUTE)
    assert contracts.unvalued(NOW + 8 * MINUTE, 5 * MINUTE) == []
    assert contracts.unvalued(NOW + 9 * MINUTE, 5 * MINUTE) == [2]


def test_one_that_is_subscribed_again_stays_without_a_value() -> None:
    contracts = StreamedContracts()
    look(contracts, [], [2], NOW)
    contracts.cancelled(2, NOW + MINUTE)
    contracts.begin_session()
    contracts.planned({2})
    subscribe(contracts, 2, NOW + 2 * MINUTE)
    assert contracts.unvalued(NOW + 5 * MINUTE, 5 * MINUTE) == [2]


def test_one_that_gets_no_line_is_not_due() -> None:
    contracts = StreamedContracts()
    look(contracts, [], [2, 3], NOW)
    contracts.planned({3})
    assert contracts.unvalued(NOW + 5 * MINUTE, 5 * MINUTE) == [3]


# Deadlines, refusals, and what ends when


def test_a_subscription_begins_with_a_deadline_that_retries_double(contracts: StreamedContracts) -> None:
    record = subscribe(contracts, 3, NOW)
    assert record.expected_by == NOW + CONTRACT_VERIFY_WITHIN

    record.retries = 2
    subscribe(contracts, 3, NOW)
    assert record.expected_by == NOW + 4 * CONTRACT_VERIFY_WITHIN

    contracts.ticked(3, NOW)
    assert record.retries == 0
    assert contracts.get(3) == StreamedContract(3, subscribed_at=NOW, streams_since=NOW, last_tick_at=NOW)


def test_what_belongs_to_a_subscription_ends_with_it_and_its_retries_do_not(contracts: StreamedContracts) -> None:
    record = subscribe(contracts, 3, NOW)
    contracts.ticked(3, NOW)
    record.retries = 1

    contracts.lost(3)

    assert record == StreamedContract(3, retries=1)
    assert contracts.ticked(3, NOW) is None, "a tick that was under way"


def test_a_request_that_came_too_fast_is_refused_for_a_while_and_what_is_not_sold_for_the_session() -> None:
    contracts = StreamedContracts()
    contracts.refused(Refusal(1, 420, "too fast", Reaction.BACK_OFF), NOW)
    contracts.refused(Refusal(2, 354, "not subscribed", Reaction.FAIL_REQUEST), NOW)
    contracts.refused(Refusal(3, 101, "max tickers", Reaction.LINES_EXHAUSTED), NOW)

    assert contracts.refused_ones(NOW + BACK_OFF - SECOND) == {1, 2}
    assert contracts.refused_ones(NOW + BACK_OFF) == {2}
    assert contracts.refusals() == {2: "354 not subscribed"}
    contracts.begin_session()
    assert contracts.refused_ones(NOW) == frozenset()


def test_a_contract_is_wanted_since_it_was_so_without_a_break() -> None:
    contracts = StreamedContracts()
    contracts.wanted([1, 2], NOW)
    contracts.wanted([2], NOW + SECOND)
    contracts.begin_session()

    assert contracts.wanted([1, 2], NOW + 2 * SECOND) == {1: NOW + 2 * SECOND, 2: NOW}


def test_a_contract_of_which_nothing_is_known_any_more_has_no_record(contracts: StreamedContracts) -> None:
    contracts.wanted([1, 2, 3], NOW)
    contracts.wanted([], NOW)
    assert {record.conid for record in contracts} == {1, 2}, "they are subscribed"

    contracts.lost(2)
    contracts.cancelled(1, NOW)
    contracts.wanted([], NOW)

    assert {record.conid for record in contracts} == {1}, "its cooldown lasts"
