"""Leases: one owner at a time, epochs that only grow, and owners that learn that they are none any more."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from v6_pipeline.errors import FencedError
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.client_ids import ClientIds
from v6_pipeline.state.leases.named import NamedLease
from v6_pipeline.state.leases.process import ProcessIdentity, space_of
from v6_pipeline.state.leases.streamer import DesiredState, GrantedBy, StreamerLease
from v6_pipeline_tests.unit.state.databases import START, ManualClock

SENSOR, SELF = GrantedBy.SENSOR, GrantedBy.SELF


# Named leases


@pytest.fixture
def pair(database: StateDatabase, clock: ManualClock) -> tuple[NamedLease, NamedLease]:
    """Two owners that want the account feed."""
    return (
        NamedLease(database, "account_feed", "one", ttl_seconds=60, clock=clock),
        NamedLease(database, "account_feed", "two", ttl_seconds=60, clock=clock),
    )


def test_a_named_lease_has_one_owner(pair: tuple[NamedLease, NamedLease]) -> None:
    one, two = pair

    assert one.acquire() == 1
    assert two.acquire() is None
    assert one.read().owner == "one"


def test_leases_of_other_names_are_others(
    database: StateDatabase, clock: ManualClock, pair: tuple[NamedLease, NamedLease]
) -> None:
    pair[0].acquire()

    assert NamedLease(database, "refresh", "two", ttl_seconds=60, clock=clock).acquire() == 1


def test_the_epoch_grows_with_every_owner_and_not_with_renewals(
    pair: tuple[NamedLease, NamedLease], clock: ManualClock
) -> None:
    one, two = pair
    epochs = [one.acquire(), one.acquire(), one.renew()]
    one.release()
    epochs.append(two.acquire())
    clock.advance(60)
    epochs.append(two.acquire())

    assert epochs == [1, 1, 1, 2, 3]


def test_an_expired_lease_goes_to_the_next_and_its_owner_learns_of_it(
    pair: tuple[NamedLease, NamedLease], clock: ManualClock
) -> None:
    one, two = pair
    one.acquire()
    clock.advance(59)
    one.renew()
    clock.advance(59)
    assert two.acquire() is None
    clock.advance(1)

    assert two.acquire() == 2
    with pytest.raises(FencedError, match="two has it"):
        one.renew()
    assert one.release() is False
    assert two.read().owner == "two"


def test_an_expired_lease_cannot_be_renewed_even_if_it_is_free(
    pair: tuple[NamedLease, NamedLease], clock: ManualClock
) -> None:
    pair[0].acquire()
    clock.advance(60)

    with pytest.raises(FencedError, match="expired"):
        pair[0].renew()


def test_a_released_lease_is_free_at_once(pair: tuple[NamedLease, NamedLease]) -> None:
    one, two = pair
    one.acquire()

    assert one.release() is True
    assert two.acquire() == 2


# The streamer's lease


@pytest.fixture
def lease(database: StateDatabase, clock: ManualClock) -> StreamerLease:
    return StreamerLease(database, clock)


def test_a_lease_never_claimed_is_free(lease: StreamerLease) -> None:
    state = lease.read()

    assert (state.epoch, state.owner, state.is_live(START)) == (0, None, False)


def test_only_one_claims(lease: StreamerLease, database: StateDatabase, clock: ManualClock) -> None:
    others = [StreamerLease(database, clock) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        epochs = list(pool.map(lambda other: other.claim(str(id(other)), granted_by=SENSOR, ttl_seconds=120), others))

    assert sorted(epochs, key=str) == [1, None, None, None]


def test_the_sensor_starts_a_streamer_that_then_says_who_it_is(lease: StreamerLease, clock: ManualClock) -> None:
    epoch = lease.claim("token", granted_by=SENSOR, ttl_seconds=120)
    assert epoch == 1
    process = ProcessIdentity("host", 42, START)

    lease.attach(epoch, process)
    beat_at = clock.advance(1)
    answer = lease.heartbeat(epoch, {"streams": 3, "nested": {"gap": None}})

    state = lease.read()
    assert state == answer
    assert (state.owner, state.host, state.pid, state.pid_started_at) == ("token", "host", 42, START)
    assert (state.heartbeat_at, state.status) == (beat_at, {"streams": 3, "nested": {"gap": None}})
    assert (state.granted_by, state.desired_state) == (SENSOR, DesiredState.RUN)


def test_a_renewed_lease_lives_on_and_an_unrenewed_one_ends(lease: StreamerLease, clock: ManualClock) -> None:
    lease.claim("a", granted_by=SENSOR, ttl_seconds=120)
    clock.advance(119)
    assert lease.renew(1, ttl_seconds=120)
    clock.advance(119)
    lease.heartbeat(1, {})
    clock.advance(1)

    with pytest.raises(FencedError, match="not renewed in time"):
        lease.heartbeat(1, {})


def test_an_expired_epoch_never_lives_again(lease: StreamerLease, clock: ManualClock) -> None:
    """Its streamer may be stopping, or stalled in the middle of a write."""
    lease.claim("a", granted_by=SENSOR, ttl_seconds=120)
    clock.advance(120)

    assert not lease.renew(1, ttl_seconds=120)
    lease.grant(ttl_seconds=120)
    with pytest.raises(FencedError):
        lease.heartbeat(1, {})
    assert lease.claim("a", granted_by=SENSOR, ttl_seconds=120) == 2


def test_an_old_owner_cannot_write_over_the_new_one(lease: StreamerLease, clock: ManualClock) -> None:
    lease.claim("old", granted_by=SENSOR, ttl_seconds=120)
    lease.heartbeat(1, {"who": "old"})
    clock.advance(120)
    lease.claim("new", granted_by=SENSOR, ttl_seconds=120)
    lease.heartbeat(2, {"who": "new"})

    with pytest.raises(FencedError, match="epoch 2 of new has it"):
        lease.heartbeat(1, {"who": "old"})
    with pytest.raises(FencedError):
        lease.attach(1, ProcessIdentity("host", 1, START))
    assert not lease.release(1)
    assert not lease.renew(1, ttl_seconds=999)

    state = lease.read()
    assert (state.owner, state.status, state.pid) == ("new", {"who": "new"}, None)
    assert state.expires_at == clock.now + timedelta(seconds=120)


def test_a_released_lease_is_free_and_keeps_the_last_report(lease: StreamerLease) -> None:
    lease.claim("a", granted_by=SENSOR, ttl_seconds=120)
    lease.heartbeat(1, {"ended": "by Ctrl-C"})

    assert lease.release(1)

    assert lease.read().status == {"ended": "by Ctrl-C"}
    assert not lease.release(1)
    assert lease.claim("b", granted_by=SELF, ttl_seconds=120) == 2
    assert lease.read().status == {}


def test_a_stop_is_seen_with_the_next_heartbeat_and_lasts_until_someone_streams_by_hand(lease: StreamerLease) -> None:
    lease.claim("a", granted_by=SENSOR, ttl_seconds=120)
    lease.request_stop()

    assert lease.heartbeat(1, {}).desired_state is DesiredState.STOP
    lease.release(1)
    assert lease.read().desired_state is DesiredState.STOP
    # A tick that had looked before the request must not undo it.
    assert lease.claim("b", granted_by=SENSOR, ttl_seconds=120) is None
    assert lease.claim("by hand", granted_by=SELF, ttl_seconds=120) == 2
    assert lease.read().desired_state is DesiredState.RUN


def test_a_supervised_streamer_waits_for_a_grant(lease: StreamerLease, clock: ManualClock) -> None:
    assert lease.claim_grant("a") is None

    lease.grant(ttl_seconds=120)
    clock.advance(60)

    assert lease.claim_grant("a", ProcessIdentity("host", 42, START)) == 1
    assert lease.claim_grant("b") is None
    state = lease.read()
    assert (state.owner, state.pid, state.granted_by) == ("a", 42, SENSOR)
    assert state.expires_at == START + timedelta(seconds=120)


def test_a_grant_that_expired_is_none(lease: StreamerLease, clock: ManualClock) -> None:
    lease.grant(ttl_seconds=120)
    clock.advance(120)

    assert lease.claim_grant("a") is None


def test_ticks_prolong_the_lease_of_a_supervised_streamer(lease: StreamerLease, clock: ManualClock) -> None:
    lease.grant(ttl_seconds=120)
    lease.claim_grant("a")
    for _ in range(5):
        clock.advance(100)
        assert lease.grant(ttl_seconds=120).owner == "a"

    lease.heartbeat(1, {})


def test_a_dead_streamers_lease_is_revoked_and_granted_again(lease: StreamerLease) -> None:
    lease.grant(ttl_seconds=120)
    lease.claim_grant("dead")
    lease.release(1)
    assert lease.claim_grant("next") is None
    lease.grant(ttl_seconds=120)

    assert lease.claim_grant("next") == 2


def test_a_streamer_without_dagster_is_left_be(lease: StreamerLease, clock: ManualClock) -> None:
    lease.claim("alone", granted_by=SELF, ttl_seconds=120)
    before = lease.read()
    clock.advance(60)

    assert lease.grant(ttl_seconds=120) == before
    assert lease.claim("sensor's", granted_by=SENSOR, ttl_seconds=120) is None
    assert lease.read() == before


def test_nobody_claims_a_grant_while_a_stop_is_asked_for(lease: StreamerLease) -> None:
    lease.grant(ttl_seconds=120)
    lease.request_stop()
    assert lease.claim_grant("a") is None

    lease.request_run()

    assert lease.claim_grant("a") == 1


# Processes


def test_an_owner_names_host_pid_and_start() -> None:
    me = ProcessIdentity.current()

    assert me.owner.startswith(f"{me.host}:{os.getpid()}:")
    assert me is ProcessIdentity.current()
    assert me.owner != replace(me, started_at=me.started_at + timedelta(seconds=1)).owner


def test_a_process_is_alive_only_with_its_own_start() -> None:
    me = ProcessIdentity.current()

    assert me.is_alive() is True
    assert replace(me, started_at=me.started_at - timedelta(minutes=1)).is_alive() is False
    assert replace(me, host="elsewhere").is_alive() is None


@pytest.mark.parametrize(
    "space",
    ["3f2a9c1d0e4b-4026531999", "000000000000-4026531836"],
    ids=["a container of this machine", "a machine with the same host name"],
)
def test_a_pid_that_counts_elsewhere_proves_nothing(space: str) -> None:
    gone = replace(ProcessIdentity.current(), pid=2**22 - 1, space=space)

    assert gone.is_alive() is None
    assert replace(gone, space="").is_alive() is False, "as recorded by a version that did not note it"
    assert space_of(gone.owner) == space


def test_an_owner_of_an_older_version_names_no_space() -> None:
    assert space_of("host:42:20260302T143000.000000Z") == space_of("sensor/host") == space_of(None) == ""


def test_a_process_that_ended_is_not_alive_even_before_it_is_reaped() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(child.pid)
    assert identity.is_alive() is True

    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie

    assert identity.is_alive() is False
    assert child.stdin is not None
    child.stdin.close()
    child.wait()
    assert identity.is_alive() is False


# Client ids


@pytest.fixture
def ids(database: StateDatabase, clock: ManualClock) -> ClientIds:
    return ClientIds(database, range(61, 63), clock)


def test_each_owner_gets_an_id_of_its_own(ids: ClientIds) -> None:
    assert [ids.acquire(owner, ttl_seconds=60) for owner in ("a", "b", "c")] == [61, 62, None]
    assert ids.leased() == {61: "a", 62: "b"}


def test_a_released_id_is_free_and_only_its_owner_releases_it(ids: ClientIds) -> None:
    ids.acquire("a", ttl_seconds=60)

    assert not ids.release(61, "b")
    assert not ids.release(62, "a")
    assert ids.release(61, "a")
    assert ids.acquire("b", ttl_seconds=60) == 61


def test_the_id_of_a_dead_run_is_free_when_its_lease_ends(ids: ClientIds, clock: ManualClock) -> None:
    ids.acquire("dead", ttl_seconds=60)
    clock.advance(59)
    assert ids.acquire("b", ttl_seconds=60) == 62
    clock.advance(1)

    assert not ids.renew(61, "dead", ttl_seconds=60)
    assert ids.acquire("c", ttl_seconds=60) == 61
    assert not ids.renew(61, "dead", ttl_seconds=60)


def test_a_renewed_id_stays_leased(ids: ClientIds, clock: ManualClock) -> None:
    ids.acquire("a", ttl_seconds=60)
    clock.advance(59)
    assert ids.renew(61, "a", ttl_seconds=60)
    clock.advance(59)

    assert ids.leased() == {61: "a"}


def test_an_id_that_the_gateway_refused_is_left_alone_for_a_while(ids: ClientIds, clock: ManualClock) -> None:
    assert ids.acquire("a", ttl_seconds=60) == 61
    ids.mark_busy(61, "a", seconds=300)

    assert ids.acquire("a", ttl_seconds=600) == 62
    assert ids.acquire("b", ttl_seconds=60) is None
    clock.advance(300)
    assert ids.acquire("b", ttl_seconds=60) == 61


def test_an_id_that_was_leased_to_another_since_is_not_taken_from_it(ids: ClientIds, clock: ManualClock) -> None:
    ids.acquire("slow", ttl_seconds=60)
    clock.advance(60)
    ids.acquire("b", ttl_seconds=60)

    ids.mark_busy(61, "slow", seconds=300)

    assert ids.leased() == {61: "b"}
