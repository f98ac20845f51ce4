"""A PostgreSQL server behind a proxy or pooler that stops to forward: every use of it ends within its deadline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from v6_pipeline.errors import StateError
from v6_pipeline.state import engines
from v6_pipeline.state.answers import ANSWER_SECONDS
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.leases.named import NamedLease
from v6_pipeline_tests.chaos.state_store import server_socket
from v6_pipeline_tests.stopping_proxy import StoppingProxy

DEADLINE = 0.5
AT_MOST = 10.0
"""Far above the deadline, and below the hours that the kernel would wait."""


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[StoppingProxy]:
    with StoppingProxy(lambda: server_socket(postgres_url)) as running:
        yield running


@pytest.fixture
def database(proxy: StoppingProxy, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateDatabase]:
    monkeypatch.setattr(engines, "ANSWER_SECONDS", DEADLINE)
    monkeypatch.setattr(engines, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(engines, "_WATCH_SECONDS", 0.05)
    url = make_url(postgres_url).set(host="127.0.0.1", port=proxy.port, query={})
    opened = StateDatabase.open(url.render_as_string(hide_password=False), name_for_messages="proxy")
    yield opened
    opened.close()


def lease(database: StateDatabase) -> NamedLease:
    return NamedLease(database, "l", "me", ttl_seconds=60)


def test_a_write_to_a_server_that_answers_nothing_fails_and_works_again_later(
    database: StateDatabase, proxy: StoppingProxy
) -> None:
    lease(database).acquire()
    proxy.stop()
    begun_at = time.monotonic()

    with pytest.raises(StateError, match=r"^the state database proxy failed: "):
        lease(database).acquire()

    assert time.monotonic() - begun_at < AT_MOST
    proxy.resume()
    assert lease(database).acquire() is not None


def test_a_read_fails_too(database: StateDatabase, proxy: StoppingProxy) -> None:
    lease(database).read()
    proxy.stop()
    with pytest.raises(StateError):
        lease(database).read()


def test_a_transaction_under_way_fails_at_its_next_statement_or_its_commit(
    database: StateDatabase, proxy: StoppingProxy
) -> None:
    def stop_within() -> Any:
        with database.write():
            proxy.stop()

    with pytest.raises(StateError):
        stop_within()


def test_all_idle_connections_together_cost_one_deadline(database: StateDatabase, proxy: StoppingProxy) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: lease(database).read(), range(64)))
    proxy.stop()
    begun_at = time.monotonic()
    with pytest.raises(StateError):
        lease(database).read()
    assert time.monotonic() - begun_at < AT_MOST


def test_a_slow_answer_within_the_deadline_is_waited_for(
    database: StateDatabase, proxy: StoppingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "ANSWER_SECONDS", 30.0)
    lease(database).read()
    proxy.stop()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(lease(database).acquire)
        assert not answer.done()
        proxy.resume()
        assert answer.result(20) is not None


def test_a_writer_that_stands_still_in_its_transaction_loses_the_lock_of_all(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process held up every other one for a minute."""
    assert engines.IDLE_TRANSACTION_SECONDS < ANSWER_SECONDS
    monkeypatch.setattr(engines, "IDLE_TRANSACTION_SECONDS", 1)
    stalled, other = (StateDatabase.open(postgres_url, name_for_messages=name) for name in ("stalled", "other"))
    begun_at = time.monotonic()

    with pytest.raises(StateError, match="stalled"), stalled.write():
        assert lease(other).acquire() is not None

    assert time.monotonic() - begun_at < AT_MOST
    stalled.close()
    other.close()
