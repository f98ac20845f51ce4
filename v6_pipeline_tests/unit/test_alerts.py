"""Alerts: which are due, how often, and how they are delivered; a webhook against a real server."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr, TypeAdapter

from v6_pipeline.alerts import (
    QUIET_TIME,
    REPEAT_AFTER,
    UNDELIVERED_AT_MOST,
    Alert,
    Incident,
    Level,
    LogNotifier,
    NotificationState,
    Stage,
    WebhookNotifier,
    deliver,
    load_notifiers,
    undelivered,
)
from v6_pipeline.errors import AlertError, SettingsError
from v6_pipeline.settings import Settings, load_settings

NOON = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
STATES = TypeAdapter(dict[str, NotificationState])
CHECK = Incident(key="check/a", title="check a", says="stale for 90 s", level=Level.WARNING, lasting=True)
RUN = Incident(key="run/a", title="run 1 of a", says="no gateway", level=Level.ERROR, lasting=False)


@dataclass
class Listener:
    """A notifier that remembers, and one that fails on demand."""

    received: list[Alert] = field(default_factory=list)
    states: dict[str, NotificationState] = field(default_factory=dict)
    error: Exception | None = None

    def notify(self, alert: Alert) -> None:
        if self.error is not None:
            raise self.error
        self.received.append(alert)

    def look(self, *incidents: Incident, at: datetime) -> list[tuple[str, Stage]]:
        """Return the alerts of one look; the memory passes through JSON, like a cursor."""
        self.received.clear()
        _, states, self.failures = deliver(self, incidents, self.states, at)
        self.states = STATES.validate_json(STATES.dump_json(states, by_alias=True))
        return [(alert.key, alert.stage) for alert in self.received]

    failures: list[str] = field(default_factory=list)


@pytest.fixture
def listener() -> Listener:
    return Listener()


def test_a_lasting_incident_is_reported_once_and_when_it_is_over(listener: Listener) -> None:
    assert listener.look(CHECK, at=NOON) == [("check/a", Stage.NEW)]
    assert [listener.look(CHECK, at=NOON + number * MINUTE) for number in range(1, 4)] == [[], [], []]
    assert listener.look(at=NOON + 5 * MINUTE) == [("check/a", Stage.OVER)]
    assert listener.received[0].line() == "over: check a (since 2026-11-20 17:00 UTC)"
    assert listener.look(at=NOON + 6 * MINUTE) == []
    assert listener.look(CHECK, at=NOON + 7 * MINUTE) == [("check/a", Stage.NEW)], "it came back"


def test_an_incident_that_lasts_a_day_is_reported_again(listener: Listener) -> None:
    listener.look(CHECK, at=NOON)

    assert listener.look(CHECK, at=NOON + REPEAT_AFTER - MINUTE) == []
    assert listener.look(CHECK, at=NOON + REPEAT_AFTER) == [("check/a", Stage.STILL)]
    assert "still, since 2026-11-20 17:00 UTC" in listener.received[0].line()
    assert listener.look(CHECK, at=NOON + REPEAT_AFTER + MINUTE) == []


def test_a_warning_that_becomes_an_error_is_reported_and_not_the_reverse(listener: Listener) -> None:
    serious = replace(CHECK, level=Level.ERROR)
    listener.look(CHECK, at=NOON)

    assert listener.look(serious, at=NOON + MINUTE) == [("check/a", Stage.NEW)]
    assert listener.look(CHECK, at=NOON + 2 * MINUTE) == []
    assert listener.look(serious, at=NOON + 3 * MINUTE) == []


def test_a_run_that_fails_each_minute_is_reported_once(listener: Listener) -> None:
    assert listener.look(RUN, at=NOON) == [("run/a", Stage.NEW)]
    for number in range(1, 200):
        assert listener.look(RUN, at=NOON + number * MINUTE) == []
    quiet_from = NOON + 199 * MINUTE

    assert listener.look(at=quiet_from + QUIET_TIME) == [], "an event has no end"
    assert listener.look(RUN, at=quiet_from + QUIET_TIME + MINUTE) == [("run/a", Stage.NEW)]


def test_an_undelivered_alert_is_delivered_later(listener: Listener) -> None:
    listener.error = AlertError("the webhook at example.org did not accept an alert: it answered 503")
    assert listener.look(CHECK, RUN, at=NOON) == []
    assert listener.failures == [str(listener.error)] * 2
    listener.error = None

    assert listener.look(CHECK, RUN, at=NOON + MINUTE) == [("check/a", Stage.NEW), ("run/a", Stage.NEW)]

    listener.error = AlertError("again")
    assert listener.look(RUN, at=NOON + 2 * MINUTE) == []
    listener.error = None
    assert listener.look(RUN, at=NOON + 3 * MINUTE) == [("check/a", Stage.OVER)], "its end, too"


def test_of_undelivered_events_the_newest_of_each_kind_is_kept(listener: Listener) -> None:
    listener.look(RUN, at=NOON)
    assert undelivered([RUN], listener.states, NOON) == ()
    listener.error = AlertError("no answer")
    later = NOON + QUIET_TIME + MINUTE
    again, new = replace(RUN, title="run 2 of a"), replace(RUN, key="run/b")

    listener.look(CHECK, RUN, new, again, at=later)

    assert undelivered([CHECK, RUN, new, again], listener.states, later) == (new, again), (
        "checks are found again anyway"
    )


def test_no_more_events_are_kept_than_a_cursor_can_hold() -> None:
    events = [replace(RUN, key=f"run/{number}") for number in range(UNDELIVERED_AT_MOST + 2)]

    kept = undelivered([*events, events[2]], {}, NOON)

    assert kept == (*events[3:], events[2])
    assert len(replace(RUN, says="no gateway\n  " * 1_000).says) <= 1_000


def test_a_users_notifier_that_breaks_does_no_harm_and_its_message_is_not_shown(listener: Listener) -> None:
    listener.error = RuntimeError("https://hooks.example.org/secret")

    listener.look(CHECK, at=NOON)

    assert listener.failures == ["it failed: RuntimeError"]


def test_a_notifier_that_hangs_leaves_the_tick_its_time(listener: Listener) -> None:
    incidents = [replace(CHECK, key=f"check/{number}") for number in range(5)]
    seconds = iter(range(0, 100, 10))  # each alert takes ten

    count, states, failures = deliver(listener, incidents, {}, NOON, monotonic=lambda: next(seconds))

    assert (count, len(failures), list(states)) == (1, 4, ["check/0"])
    assert set(failures) == {"out of time, sent with the next look"}
    assert len(deliver(listener, incidents, states, NOON + MINUTE)[1]) == 5


def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    notifier = LogNotifier(logging.getLogger("alerts"))
    deliver(notifier, [CHECK, RUN], {}, NOON)

    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "warning: check a: stale for 90 s"),
        ("ERROR", "error: run 1 of a: no gateway"),
    ]


@dataclass
class Hook:
    """A web server that accepts alerts."""

    port: int
    status: int = 200
    location: str | None = None
    documents: list[object] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/secret-token"


@pytest.fixture
def hook() -> Iterator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.documents.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(taken.status)
            if taken.location:
                self.send_header("Location", taken.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        taken = Hook(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield taken
        server.shutdown()
        thread.join()


def test_a_webhook_gets_the_line_and_its_parts(hook: Hook) -> None:
    count, states, failures = deliver(WebhookNotifier(SecretStr(hook.url)), [CHECK], {}, NOON)

    assert (count, failures, list(states)) == (1, [], ["check/a"])
    assert hook.documents == [
        {
            "text": "v6_pipeline: warning: check a: stale for 90 s",
            "key": "check/a",
            "title": "check a",
            "says": "stale for 90 s",
            "level": "warning",
            "stage": "new",
            "since": "2026-11-20T17:00:00+00:00",
        }
    ]


@pytest.mark.parametrize(("status", "location"), [(500, None), (404, None), (302, None), (302, "http://127.0.0.1:1/x")])
def test_a_webhook_that_refuses(
    hook: Hook, status: int, location: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    hook.status, hook.location = status, location
    with caplog.at_level(logging.DEBUG), pytest.raises(AlertError) as raised:
        WebhookNotifier(SecretStr(hook.url)).notify(
            Alert(key="k", title="t", says="s", level=Level.ERROR, stage=Stage.NEW, since=NOON)
        )
    assert str(raised.value) == f"the webhook at 127.0.0.1 did not accept an alert: it answered {status}"
    assert "secret-token" not in caplog.text
    assert len(hook.documents) == 1, "a redirect is not followed"


def test_a_webhook_that_is_not_there(unused_tcp_port: int, caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}/services/secret-token"
    with caplog.at_level(logging.DEBUG):
        _, states, failures = deliver(WebhookNotifier(SecretStr(url)), [CHECK], {}, NOON)

    assert (failures, states) == (["the webhook at 127.0.0.1 did not accept an alert: ConnectionError"], {})
    assert "secret-token" not in caplog.text


def make_listener(_settings: Settings) -> Listener:
    return Listener()


def make_nothing(_settings: Settings) -> str:
    return "no notifier"


def test_the_notifiers_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V6_ALERT_WEBHOOK", "https://hooks.example.org/secret-token")
    monkeypatch.setenv("V6_NOTIFIERS", f"{__name__}:make_listener")
    settings = load_settings(tmp_path)

    made = load_notifiers(settings, logging.getLogger("alerts"))

    assert list(made) == ["log", "webhook", f"{__name__}:make_listener"]
    assert "secret-token" not in repr(settings)


@pytest.mark.parametrize(
    ("spec", "said"),
    [("make_nothing", "made a str without notify"), ("no_such", "cannot load")],
)
def test_a_notifier_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, said: str) -> None:
    monkeypatch.setenv("V6_NOTIFIERS", f"{__name__}:{spec}")
    with pytest.raises(SettingsError, match=f"V6_NOTIFIERS: .*{said}"):
        load_notifiers(load_settings(tmp_path), logging.getLogger("alerts"))


@pytest.mark.parametrize("url", ["http://hooks.example.org/secret-token", "secret-token", "ftp://secret-token"])
def test_an_address_that_would_show_the_secret_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("V6_ALERT_WEBHOOK", url)
    with pytest.raises(SettingsError, match="V6_ALERT_WEBHOOK: must be an https:// address") as raised:
        load_settings(tmp_path)
    assert "secret-token" not in str(raised.value)
