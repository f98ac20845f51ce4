"""Feeds are proven by ticks: what is believed after which event, what is subscribed again, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from v6_pipeline.model import SecType
from v6_pipeline.streaming import competing_session as competing
from v6_pipeline.streaming.feed_health import (
    FARM_TIMEOUT,
    FIRST_BURST,
    OPENING,
    SILENT_RETRY,
    VERIFY_WITHIN,
    FeedHealth,
)
from v6_pipeline.streaming.streamed_contracts import CONTRACT_VERIFY_WITHIN, RETRY_MAX, Feed, StreamedContracts
from v6_pipeline.streaming.tick_rate import MOST_QUICK, QUICK_WITHIN, SILENT_AFTER, SUSPICIOUS_AFTER

STOCK, OTHER_STOCK, OPTION = 1, 2, 3
TYPES = {STOCK: SecType.STOCK, OTHER_STOCK: SecType.STOCK, OPTION: SecType.OPTION}
SECOND = timedelta(seconds=1)


class Rig:
    """Two stocks and an option, subscribed at the open, and a clock."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 2, 15, tzinfo=UTC)
        self.open = True
        self.contracts = StreamedContracts()
        self.health = FeedHealth(self.contracts, lambda _: self.open)
        self.health.begin_session()
        self.track(TYPES)
        self.health.due(self.now)
        self.tick(STOCK, OTHER_STOCK, OPTION)

    def track(self, subscribed: dict[int, SecType]) -> None:
        """Make these the contracts that are subscribed."""
        before = {contract.conid for contract in self.contracts.subscribed_ones()}
        for conid in before - subscribed.keys():
            self.contracts.cancelled(conid, self.now)
        for conid in subscribed.keys() - before:
            self.contracts.subscribed(conid, subscribed[conid], self.now)

    def tick(self, *conids: int) -> None:
        for conid in conids:
            self.health.ticked(conid, self.now)

    def pass_time(self, span: timedelta, *ticking: int) -> list[set[int]]:
        """Second by second; the contracts of each renewal."""
        renewed = []
        end = self.now + span
        while self.now < end:
            self.now += SECOND
            self.tick(*ticking)
            renewed += [set(renewal.conids) for renewal in self.health.due(self.now)]
        return renewed


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_all_flows_while_all_ticks(rig: Rig) -> None:
    assert rig.pass_time(timedelta(hours=1), STOCK, OTHER_STOCK, OPTION) == []
    assert rig.health.stale_since is None
    assert rig.health.describe() == {}


# The link


def test_from_the_loss_of_the_link_on_everything_is_stale_and_nothing_is_asked_for(rig: Rig) -> None:
    lost_at = rig.now
    rig.health.link_lost(lost_at)
    rig.now += timedelta(minutes=20)
    rig.health.link_lost(rig.now)  # IB repeats it
    assert rig.health.due(rig.now) == []
    assert rig.health.stale_since == lost_at
    assert all(rig.health.is_blind(conid) for conid in (STOCK, OTHER_STOCK, OPTION))


def test_data_said_to_be_kept_is_believed_once_it_ticks_and_not_for_the_first_burst(rig: Rig) -> None:
    rig.health.link_lost(rig.now)
    rig.now += timedelta(seconds=30)
    rig.health.link_restored(rig.now)
    rig.now += FIRST_BURST
    rig.tick(STOCK)
    assert rig.health.is_blind(STOCK)

    rig.now += SECOND
    rig.tick(STOCK)
    assert not rig.health.is_blind(STOCK)
    assert not rig.health.is_blind(OTHER_STOCK), "one tick proves the farm"
    assert rig.health.is_blind(OPTION), "and no other farm"


def test_a_feed_that_does_not_tick_after_1102_is_subscribed_again_and_ever_more_rarely(rig: Rig) -> None:
    rig.health.link_lost(rig.now)
    rig.health.link_restored(rig.now)
    assert rig.pass_time(VERIFY_WITHIN - SECOND, OPTION) == []
    assert rig.pass_time(SECOND, OPTION) == [{STOCK, OTHER_STOCK}]
    assert rig.pass_time(timedelta(minutes=2), OPTION) == [{STOCK, OTHER_STOCK}] * 2
    assert rig.pass_time(timedelta(hours=2), OPTION)[-1] == {STOCK, OTHER_STOCK}
    assert rig.pass_time(RETRY_MAX, OPTION) == [{STOCK, OTHER_STOCK}]

    rig.tick(STOCK)
    assert rig.health.stale_since is None, "the first tick of a new subscription is proof"


def test_a_contract_that_stays_dead_while_its_feed_ticks_is_subscribed_again_by_itself(rig: Rig) -> None:
    rig.health.link_lost(rig.now)
    rig.pass_time(timedelta(minutes=10))
    rig.health.link_restored(rig.now)
    assert rig.pass_time(CONTRACT_VERIFY_WITHIN - SECOND, STOCK, OPTION) == []
    assert rig.pass_time(SECOND, STOCK, OPTION) == [{OTHER_STOCK}]
    assert rig.pass_time(timedelta(minutes=10), STOCK, OPTION) == [], "once"


def test_a_contract_that_hardly_ticks_is_not_taken_for_dead(rig: Rig) -> None:
    rig.pass_time(timedelta(minutes=2), STOCK, OPTION)
    rig.health.link_lost(rig.now)
    rig.health.link_restored(rig.now)
    assert rig.pass_time(timedelta(minutes=10), STOCK, OPTION) == []


def test_ticks_prove_the_link_though_no_notice_came(rig: Rig) -> None:
    rig.health.link_lost(rig.now)
    rig.now += FIRST_BURST + SECOND
    rig.tick(STOCK)
    assert not rig.health.is_blind(STOCK)


def test_after_market_data_was_lost_the_first_tick_is_proof(rig: Rig) -> None:
    rig.health.link_lost(rig.now)
    rig.health.resubscribed(rig.now)
    assert rig.health.is_blind(STOCK)
    rig.tick(STOCK, OPTION)
    assert rig.health.stale_since is None


def test_farms_that_1102_leaves_out_stay_stale(rig: Rig) -> None:
    rig.health.link_lost(rig.now)
    rig.health.link_restored(rig.now, farms_away=("usopt",))
    assert rig.pass_time(timedelta(minutes=1), STOCK, OTHER_STOCK) == []
    assert rig.health.is_blind(OPTION)
    rig.health.farm_ok("usopt", rig.now)
    assert rig.pass_time(VERIFY_WITHIN, STOCK, OTHER_STOCK) == [{OPTION}]


# Farms


@pytest.mark.parametrize(
    ("farm", "feeds"),
    [
        ("usfarm", {Feed.STOCKS}),
        ("usfarm.nj", {Feed.STOCKS}),
        ("usopt", {Feed.OPTIONS}),
        ("usfuture", {Feed.FUTURES}),
        ("cashfarm", {Feed.CURRENCIES}),
        ("zz", set(Feed)),
        ("", set(Feed)),
    ],
)
def test_a_farms_name_says_what_it_serves(farm: str, feeds: set[Feed]) -> None:
    assert Feed.of_farm(farm) == feeds


@pytest.mark.parametrize(
    ("sec_type", "feed"),
    [
        (SecType.STOCK, Feed.STOCKS),
        (SecType.OPTION, Feed.OPTIONS),
        (SecType.FUTURE_OPTION, Feed.OPTIONS),
        (SecType.FUTURE, Feed.FUTURES),
        (SecType.CURRENCY, Feed.CURRENCIES),
        (SecType.BOND, Feed.STOCKS),
        (SecType.INTER_COMMODITY, Feed.FUTURES),
        (SecType.INTER_COMMODITY_SPREAD, Feed.FUTURES),
        (SecType.COMMODITY, Feed.CURRENCIES),
    ],
)
def test_each_contract_has_its_feed(sec_type: SecType, feed: Feed) -> None:
    assert Feed.of(sec_type) is feed


def test_a_farm_that_blinks_and_comes_back_dead_is_found_out(rig: Rig) -> None:
    rig.health.farm_broken("usopt", rig.now)
    assert rig.health.is_blind(OPTION)
    assert not rig.health.is_blind(STOCK)
    rig.now += timedelta(seconds=3)
    rig.health.farm_ok("usopt", rig.now)
    assert rig.pass_time(VERIFY_WITHIN, STOCK, OTHER_STOCK) == [{OPTION}]


def test_a_farm_that_was_never_broken_changes_nothing_when_it_is_ok(rig: Rig) -> None:
    rig.health.farm_ok("usopt", rig.now)
    assert rig.health.describe() == {}


def test_a_broken_farm_is_given_time_and_then_asked(rig: Rig) -> None:
    rig.health.farm_broken("usopt", rig.now)
    assert rig.pass_time(FARM_TIMEOUT - SECOND, STOCK, OTHER_STOCK) == []
    assert rig.pass_time(SECOND, STOCK, OTHER_STOCK) == [{OPTION}]


def test_another_continents_farm_does_not_blind_what_ticks(rig: Rig) -> None:
    rig.health.farm_broken("hfarm", rig.now)
    rig.pass_time(FIRST_BURST + SECOND, STOCK, OTHER_STOCK)
    assert not rig.health.is_blind(STOCK)


# Silence


def test_a_feed_that_falls_silent_without_any_notice_is_subscribed_again(rig: Rig) -> None:
    last_tick = rig.now
    assert rig.pass_time(SILENT_AFTER - SECOND, OPTION) == []
    assert rig.pass_time(SECOND, OPTION) == [{STOCK, OTHER_STOCK}]
    assert rig.health.stale_since == last_tick
    rig.tick(STOCK)
    assert rig.health.stale_since is None


def test_a_feed_that_ticked_each_second_is_missed_after_twenty(rig: Rig) -> None:
    rig.pass_time(timedelta(minutes=1), STOCK, OTHER_STOCK, OPTION)
    assert rig.pass_time(SUSPICIOUS_AFTER - SECOND, OPTION) == []
    assert rig.pass_time(SECOND, OPTION) == [{STOCK, OTHER_STOCK}]


def test_the_opening_ticks_of_a_subscription_do_not_count_for_the_tick_rate(rig: Rig) -> None:
    """Two options that hardly trade bring their values when they are subscribed, in some packets, and then nothing."""
    rig.pass_time(OPENING, OPTION)
    assert rig.pass_time(SILENT_AFTER - SECOND, STOCK, OTHER_STOCK) == []


@pytest.mark.parametrize("sec_type", [SecType.STOCK, SecType.BOND, SecType.FUTURE])
def test_a_request_made_after_all_streams_died_does_not_hide_their_death(rig: Rig, sec_type: SecType) -> None:
    new = 4
    rig.pass_time(timedelta(minutes=1), STOCK, OTHER_STOCK, OPTION)
    rig.pass_time(2 * SECOND)
    rig.track(TYPES | {new: sec_type})
    renewed = rig.pass_time(SUSPICIOUS_AFTER, new)
    assert set.union(*renewed) >= {STOCK, OTHER_STOCK, OPTION}


def test_a_single_stream_requested_again_does_not_hide_the_death_of_the_others(rig: Rig) -> None:
    rig.pass_time(timedelta(minutes=1), STOCK, OTHER_STOCK, OPTION)
    rig.contracts.begin_renewal([STOCK])
    rig.contracts.cancelled(STOCK, rig.now)
    rig.contracts.subscribed(STOCK, SecType.STOCK, rig.now)
    renewed = rig.pass_time(SUSPICIOUS_AFTER + SECOND, STOCK)
    assert set.union(*renewed) >= {OTHER_STOCK, OPTION}


def test_ticks_of_a_new_stream_count_once_it_is_old_enough(rig: Rig) -> None:
    lively = 4
    rig.track(TYPES | {lively: SecType.STOCK})
    rig.pass_time(timedelta(minutes=2), STOCK, OTHER_STOCK, OPTION, lively)
    assert rig.pass_time(timedelta(hours=1), lively, OPTION) == []


def test_a_feed_that_stays_silent_is_asked_for_once_in_some_minutes(rig: Rig) -> None:
    rig.pass_time(timedelta(minutes=1), STOCK, OTHER_STOCK, OPTION)
    assert rig.pass_time(SUSPICIOUS_AFTER, OPTION) == [{STOCK, OTHER_STOCK}]
    assert rig.pass_time(SILENT_RETRY - SECOND, OPTION) == []
    assert rig.pass_time(SECOND, OPTION) == [{STOCK, OTHER_STOCK}]
    assert rig.pass_time(2 * SILENT_RETRY - SECOND, OPTION) == []


def test_a_market_that_calmed_down_is_asked_for_once_in_some_minutes(rig: Rig) -> None:
    """Each new subscription brings its values at once, and nothing after them."""
    rig.pass_time(timedelta(minutes=1), STOCK, OTHER_STOCK, OPTION)
    renewals = 0
    for _ in range(int(timedelta(minutes=12) / SECOND)):
        rig.now += SECOND
        rig.tick(OPTION)
        for renewal in rig.health.due(rig.now):
            renewals += 1
            rig.tick(*renewal.conids)
    assert renewals <= 3


def test_a_market_that_stutters_makes_no_storm(rig: Rig) -> None:
    """It ticks for a minute and holds its breath for half of one, all day."""
    renewed = []
    for _ in range(int(QUICK_WITHIN / timedelta(seconds=90))):
        renewed += rig.pass_time(timedelta(minutes=1), STOCK, OTHER_STOCK, OPTION)
        renewed += rig.pass_time(timedelta(seconds=30), OPTION)
    assert renewed == [{STOCK, OTHER_STOCK}] * MOST_QUICK


def test_a_feed_that_dies_right_after_an_outage_is_missed_as_soon_as_ever(rig: Rig) -> None:
    rig.pass_time(timedelta(minutes=1), STOCK, OTHER_STOCK, OPTION)
    rig.health.link_lost(rig.now)
    rig.pass_time(timedelta(minutes=5))
    rig.health.resubscribed(rig.now)
    rig.tick(STOCK, OTHER_STOCK, OPTION)
    assert rig.pass_time(SUSPICIOUS_AFTER - SECOND, OPTION) == []
    assert rig.pass_time(SECOND, OPTION) == [{STOCK, OTHER_STOCK}]


def test_what_never_ticked_since_it_was_subscribed_is_silent_too() -> None:
    rig = Rig()
    rig.health.begin_session()
    rig.track({STOCK: SecType.STOCK})
    assert rig.pass_time(CONTRACT_VERIFY_WITHIN) == [{STOCK}], "by itself"
    assert rig.pass_time(SILENT_AFTER - CONTRACT_VERIFY_WITHIN) == [{STOCK}], "with its feed"


def test_contracts_that_hardly_trade_are_asked_for_ever_more_rarely(rig: Rig) -> None:
    renewals = 0
    for _ in range(4 * 3600):
        rig.now += SECOND
        rig.tick(STOCK, OTHER_STOCK)
        if rig.health.due(rig.now):
            renewals += 1
            rig.tick(OPTION)  # what the new subscription brings at once, and nothing after it
    assert 4 <= renewals <= 20


def test_silence_while_the_exchange_is_closed_says_nothing(rig: Rig) -> None:
    rig.open = False
    assert rig.pass_time(timedelta(hours=10)) == []
    assert rig.health.stale_since is None


def test_the_open_gives_a_feed_time_to_begin(rig: Rig) -> None:
    rig.open = False
    rig.pass_time(timedelta(hours=10))
    rig.open = True
    assert rig.pass_time(SILENT_AFTER - SECOND) == []
    assert rig.pass_time(2 * SECOND) == [{STOCK, OTHER_STOCK}, {OPTION}]


def test_what_ticked_until_the_link_was_lost_is_verified_at_any_hour(rig: Rig) -> None:
    rig.open = False
    rig.pass_time(timedelta(hours=1), OPTION)
    rig.health.link_lost(rig.now)
    rig.health.link_restored(rig.now)
    assert rig.pass_time(VERIFY_WITHIN) == [{OPTION}]


def test_after_another_login_at_night_all_are_asked_for_again(rig: Rig) -> None:
    rig.open = False
    rig.pass_time(timedelta(hours=1))
    rig.health.competing_session(rig.now)
    [tried] = rig.pass_time(competing.RETRY)
    rig.tick(*tried)
    renewed = rig.pass_time(VERIFY_WITHIN)
    assert set().union(*renewed) == {STOCK, OTHER_STOCK, OPTION} - tried


def test_while_another_login_has_the_data_the_contracts_are_tried_in_turn_the_liveliest_first(rig: Rig) -> None:
    """One that has fallen silent for reasons of its own would keep all others from coming back."""
    rig.tick(STOCK)
    rig.pass_time(SECOND)
    rig.tick(OPTION)
    rig.health.competing_session(rig.now)

    def tries(count: int) -> list[set[int]]:
        return [set(tried) for _ in range(count) for tried in rig.pass_time(competing.RETRY)]

    assert tries(1) == [{OPTION}]
    assert sorted(map(sorted, tries(2))) == sorted([[STOCK], [OTHER_STOCK]])
    assert set().union(*tries(3)) == {STOCK, OTHER_STOCK, OPTION}


def test_what_came_back_while_closed_is_unverified_until_the_open(rig: Rig) -> None:
    rig.open = False
    rig.pass_time(timedelta(hours=1))
    rig.health.link_lost(rig.now)
    rig.health.link_restored(rig.now)
    assert rig.pass_time(timedelta(hours=8)) == []
    assert rig.health.describe()["options"].state == "unverified"
    assert rig.health.stale_since is None, "nothing is expected to tick, so nothing is missing"
    rig.open = True
    assert rig.pass_time(VERIFY_WITHIN + SECOND, STOCK, OTHER_STOCK) == [{OPTION}]


# Another login


def test_another_login_is_alerted_once_in_a_quarter_of_an_hour(rig: Rig) -> None:
    alerts = sum(rig.health.competing_session(rig.now + number * SECOND) for number in range(3600))
    assert alerts == 4


def test_while_another_login_has_the_data_one_contract_is_tried_often_for_a_while_and_then_slowly(rig: Rig) -> None:
    began = rig.now
    rig.health.competing_session(rig.now)
    tried_at = []
    while rig.now - began < timedelta(hours=1):
        for renewal in rig.health.due(rig.now):
            assert len(renewal.conids) == 1
            tried_at.append(rig.now)
            rig.health.competing_session(rig.now)
        rig.now += SECOND
    gaps = [later - earlier for earlier, later in pairwise([began, *tried_at])]
    eager = int(competing.FREQUENT_RETRIES_FOR / competing.RETRY)
    assert gaps[:eager] == [competing.RETRY] * eager
    assert gaps[eager : eager + 3] == [2 * competing.RETRY, 4 * competing.RETRY, 8 * competing.RETRY]
    assert gaps[-1] == competing.RETRY_MAX


def test_the_next_login_that_takes_the_data_is_tried_as_often_again(rig: Rig) -> None:
    rig.health.competing_session(rig.now)
    rig.pass_time(timedelta(hours=1))
    rig.tick(STOCK)
    rig.pass_time(timedelta(minutes=1), STOCK, OTHER_STOCK, OPTION)
    rig.health.competing_session(rig.now)
    assert [len(tried) for tried in rig.pass_time(3 * competing.RETRY)] == [1, 1, 1]


def test_one_contracts_tick_ends_it_and_the_others_are_asked_for_unless_they_tick(rig: Rig) -> None:
    rig.health.competing_session(rig.now)
    rig.now += FIRST_BURST
    rig.tick(STOCK)  # it was under way before, and proves nothing
    [tried] = rig.pass_time(competing.RETRY)
    assert len(tried) == 1

    rig.tick(*tried)
    renewed = rig.pass_time(VERIFY_WITHIN, OPTION)
    assert set().union(*renewed) == {STOCK, OTHER_STOCK, OPTION} - tried - {OPTION}


def test_what_is_no_longer_subscribed_is_forgotten(rig: Rig) -> None:
    rig.health.link_lost(rig.now)
    rig.track({STOCK: SecType.STOCK})
    rig.health.link_restored(rig.now)
    assert rig.pass_time(VERIFY_WITHIN) == [{STOCK}]
    rig.tick(OPTION)
    assert not rig.health.is_blind(OPTION)


def test_a_new_session_begins_without_doubts(rig: Rig) -> None:
    rig.health.competing_session(rig.now)
    rig.health.begin_session()
    rig.track({STOCK: SecType.STOCK})
    assert rig.health.competing_since is None
    assert rig.health.stale_since is None


def test_a_contract_that_never_brought_a_tick_is_asked_for_again_ever_more_rarely(rig: Rig) -> None:
    """A message that the gateway dropped, or a request that died: no other sign of it exists."""
    contracts = {STOCK: SecType.STOCK, OTHER_STOCK: SecType.STOCK, OPTION: SecType.OPTION, 4: SecType.STOCK}
    rig.track(contracts)
    assert rig.pass_time(CONTRACT_VERIFY_WITHIN - SECOND, STOCK, OTHER_STOCK, OPTION) == []
    renewed_at = []
    for _ in range(2 * 3600):
        if rig.pass_time(SECOND, STOCK, OTHER_STOCK, OPTION) == [{4}]:
            renewed_at.append(rig.now)
            rig.track({conid: kind for conid, kind in contracts.items() if conid != 4})
            rig.track(contracts)
    gaps = [later - earlier for earlier, later in pairwise(renewed_at)]
    assert gaps[:3] == [CONTRACT_VERIFY_WITHIN * 2, CONTRACT_VERIFY_WITHIN * 4, CONTRACT_VERIFY_WITHIN * 8]
    assert gaps[-1] == RETRY_MAX


def test_what_is_asked_for_in_vain_for_days_is_asked_for_again_every_quarter_of_an_hour(rig: Rig) -> None:
    rig.pass_time(SUSPICIOUS_AFTER + SECOND)
    for _ in range(2000):  # 20 days
        rig.now += RETRY_MAX
        rig.health.due(rig.now)
    assert rig.pass_time(RETRY_MAX + SECOND)


def test_feeds_that_bring_their_opening_values_alone_are_asked_every_quarter_of_an_hour_for_days(rig: Rig) -> None:
    asked = []
    for _ in range(100):
        rig.now += RETRY_MAX
        asked.append({conid for renewal in rig.health.due(rig.now) for conid in renewal.conids})
        rig.now += SECOND
        rig.tick(STOCK, OTHER_STOCK, OPTION)
    assert all(found == {STOCK, OTHER_STOCK, OPTION} for found in asked)


# Renewals: a contract is cancelled and subscribed again in one pass, which proves nothing of its feed


def renewing(rig: Rig, conids: set[int]) -> None:
    rig.contracts.begin_renewal(conids)
    for conid in conids:
        rig.contracts.cancelled(conid, rig.now)
        rig.contracts.subscribed(conid, SecType.STOCK, rig.now)
    rig.contracts.end_renewals(rig.now)


def renew_whatever_is_due(rig: Rig, span: timedelta, *ticking: int, until_blind: bool = False) -> int:
    """Make every renewal, second by second; the number of contracts that were subscribed again."""
    renewed, end = 0, rig.now + span
    while rig.now < end and not (until_blind and rig.health.stale_since):
        rig.now += SECOND
        rig.tick(*ticking)
        for renewal in rig.health.due(rig.now):
            renewed += len(renewal.conids)
            renewing(rig, set(renewal.conids))
    return renewed


def test_retries_of_contracts_that_never_tick_do_not_hide_that_their_feed_died(rig: Rig) -> None:
    for number in range(20):
        rig.track({STOCK: SecType.STOCK} | dict.fromkeys(range(100, 101 + number), SecType.STOCK))
        renew_whatever_is_due(rig, timedelta(seconds=45), STOCK)
    died_at = rig.now

    renew_whatever_is_due(rig, timedelta(hours=1), until_blind=True)

    assert rig.now - died_at < timedelta(minutes=2)


def test_a_contract_that_never_ticks_does_not_blind_its_feed_while_the_exchange_is_closed(rig: Rig) -> None:
    rig.track({STOCK: SecType.STOCK, 100: SecType.STOCK})
    renew_whatever_is_due(rig, timedelta(minutes=5), STOCK)
    rig.open = False
    renew_whatever_is_due(rig, timedelta(hours=2))

    rig.health.link_lost(rig.now)
    rig.health.link_restored(rig.now)

    assert rig.health.stale_since is None
    assert rig.health.describe()["stocks"].state == "unverified"


def test_trials_during_another_login_keep_their_order_from_round_to_round(rig: Rig) -> None:
    for conid in (OPTION, OTHER_STOCK, STOCK):
        rig.now += SECOND
        rig.tick(conid)
    rig.health.competing_session(rig.now)
    tried: list[int] = []
    while len(tried) < 6:
        rig.now += SECOND
        for renewal in rig.health.due(rig.now):
            tried += renewal.conids
            renewing(rig, set(renewal.conids))

    assert tried == [STOCK, OTHER_STOCK, OPTION] * 2


def test_a_contract_that_is_not_subscribed_again_after_its_renewal_streams_no_more(rig: Rig) -> None:
    rig.contracts.begin_renewal({STOCK})
    rig.contracts.cancelled(STOCK, rig.now)
    assert STOCK in {record.conid for record in rig.contracts.subscribed_ones()}

    rig.contracts.end_renewals(rig.now)

    assert STOCK not in {record.conid for record in rig.contracts.subscribed_ones()}
    assert STOCK not in rig.contracts.silent(rig.now + timedelta(hours=1))
