"""Alerts: notify people once of what is wrong, daily while it lasts, and once when it is over.

Belongs here: which incidents are due for an alert, given what each notifier has reported before, and the notifiers.
Does not belong here: finding incidents, and anything about Dagster (``defs.alert_sensor``).

A *lasting* incident (an asset check) is over once it is no longer found. An event (a failed run) has no end: another
event like it within the quiet time is the same incident, so that a schedule that fails each minute makes one alert.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Protocol, runtime_checkable
from urllib.parse import urlsplit

import requests
from pydantic import Field, SecretStr

from v6_pipeline.errors import AlertError, SettingsError
from v6_pipeline.flex.exchange import is_loopback
from v6_pipeline.plugins import make_all
from v6_pipeline.secrecy import without
from v6_pipeline.settings import Settings

REPEAT_AFTER = timedelta(hours=24)
"""An incident that stays open for this long is reported again."""
QUIET_TIME = timedelta(hours=1)
WEBHOOK_SECONDS = 10
NOTIFY_SECONDS = 15
"""Dagster ends a sensor's tick after 60 s, and the tick's cursor would be lost."""
UNDELIVERED_AT_MOST = 50
"""Number of events kept for a notifier that keeps failing; older ones are dropped."""
_LONGEST = 1_000


class Level(enum.StrEnum):
    """How urgent an incident is."""

    WARNING = "warning"
    ERROR = "error"


class Stage(enum.StrEnum):
    """Stage of an incident that an alert reports."""

    NEW = "new"
    STILL = "still"
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something that is wrong now.

    Attributes:
        key: identifies the incident from one look to the next.
        title: names it, such as ``check stream_fresh of streamed_positions``.
        says: the finding, cut to one line of 1,000 characters.
        level: how urgent it is.
        lasting: True if each look finds it until it is over; False for an event.
    """

    key: str
    title: str
    says: str
    level: Level
    lasting: bool

    def __post_init__(self) -> None:
        """Cut ``says`` to one line."""
        object.__setattr__(self, "says", " ".join(self.says.split())[:_LONGEST])


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One message to a person."""

    key: str
    title: str
    says: str
    level: Level
    stage: Stage
    since: datetime

    def line(self) -> str:
        """Return the alert as one line of text."""
        if self.stage is Stage.OVER:
            return f"over: {self.title} (since {self.since:%Y-%m-%d %H:%M} UTC)"
        still = f"still, since {self.since:%Y-%m-%d %H:%M} UTC, " if self.stage is Stage.STILL else ""
        return f"{self.level}: {still}{self.title}: {self.says}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationState:
    """A notifier's memory of one incident: what it has reported, and when the incident was last seen."""

    title: str
    level: Level
    lasting: bool
    since: datetime
    reported_at: Annotated[datetime, Field(alias="told_at")]  # its name in stored cursors
    seen_at: datetime


@runtime_checkable
class Notifier(Protocol):
    """A way to reach people."""

    def notify(self, alert: Alert) -> None:
        """Deliver an alert.

        Raises:
            AlertError: it was not delivered; the next look tries again.
        """


class LogNotifier:
    """Writes alerts to a log; the sensor passes the log of its tick."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def notify(self, alert: Alert) -> None:
        """Write one line, at level ERROR for an error and WARNING otherwise."""
        is_error = alert.stage is not Stage.OVER and alert.level is Level.ERROR
        self._log.log(logging.ERROR if is_error else logging.WARNING, "%s", alert.line())


class WebhookNotifier:
    """Posts alerts as JSON, with the ``text`` that Slack and Mattermost show; no message shows the secret ``url``."""

    def __init__(self, url: SecretStr, *, seconds: float = WEBHOOK_SECONDS) -> None:
        self._url = url
        self._seconds = seconds
        parts = urlsplit(url.get_secret_value())
        self._host = parts.hostname
        self._path = SecretStr(url.get_secret_value().partition(parts.netloc)[2] or "/")

    def notify(self, alert: Alert) -> None:
        """Post an alert.

        Raises:
            AlertError: there was no answer, or the answer was not a success.
        """
        document = {"text": f"v6_pipeline: {alert.line()}", **asdict(alert), "since": alert.since.isoformat()}
        url = self._url.get_secret_value()
        problem = ""
        try:
            with requests.Session() as session, without(self._path):
                # A proxy set in the environment would receive what is meant for this machine.
                session.trust_env = not is_loopback(url)
                answer = session.post(url, json=document, timeout=self._seconds, allow_redirects=False)
            # A redirect counts as a failure and is not followed: the settings do not name its target.
            if answer.status_code >= requests.codes.multiple_choices:
                problem = f"it answered {answer.status_code}"
        except requests.RequestException as error:
            problem = type(error).__name__
        if problem:  # raised outside the except block: the exception of requests holds the secret address
            raise AlertError(f"the webhook at {self._host} did not accept an alert: {problem}")


def load_notifiers(settings: Settings, log: logging.Logger) -> dict[str, Notifier]:
    """Return the notifiers that the settings name: the log, the webhook if there is one, and the user's own.

    Raises:
        SettingsError: one of ``V6_NOTIFIERS`` cannot be made.
    """
    found: dict[str, Notifier] = {"log": LogNotifier(log)}
    if settings.alert_webhook is not None:
        found["webhook"] = WebhookNotifier(settings.alert_webhook)
    for spec, made in make_all("V6_NOTIFIERS", settings.notifiers, settings).items():
        if not isinstance(made, Notifier):
            raise SettingsError(f"V6_NOTIFIERS: {spec} made a {type(made).__name__} without notify(alert)")
        found[spec] = made
    return found


def due(
    incidents: Iterable[Incident], states: Mapping[str, NotificationState], now: datetime
) -> tuple[list[tuple[Alert, NotificationState | None]], dict[str, NotificationState]]:
    """Return the alerts that a notifier with these states has to deliver now (UTC).

    Each comes with the state to keep once it is delivered (None: no state); the second result has the states of all
    other incidents. Of several incidents with the same key the last counts.
    """
    found = {incident.key: incident for incident in incidents}
    alerts: list[tuple[Alert, NotificationState | None]] = []
    kept: dict[str, NotificationState] = {}
    for key, incident in found.items():
        before = states.get(key)
        if before is not None and not incident.lasting and now - before.seen_at > QUIET_TIME:
            before = None
        stage = _stage(incident, before, now)
        if before is not None and stage is None:
            kept[key] = replace(before, seen_at=now)
            continue
        title, level, since = incident.title, incident.level, now if before is None else before.since
        alert = Alert(key=key, title=title, says=incident.says, level=level, stage=stage or Stage.NEW, since=since)
        state = NotificationState(
            title=title, level=level, lasting=incident.lasting, since=since, reported_at=now, seen_at=now
        )
        alerts.append((alert, state))
    for key, before in states.items():
        if key in found:
            continue
        if before.lasting:
            over = Alert(key=key, title=before.title, says="", level=before.level, stage=Stage.OVER, since=before.since)
            alerts.append((over, None))
        elif now - before.seen_at <= QUIET_TIME:
            kept[key] = before
    return alerts, kept


def _stage(incident: Incident, before: NotificationState | None, now: datetime) -> Stage | None:
    if before is None or (incident.level is Level.ERROR and before.level is Level.WARNING):
        return Stage.NEW
    return Stage.STILL if now - before.reported_at >= REPEAT_AFTER else None


def undelivered(
    incidents: Iterable[Incident], states: Mapping[str, NotificationState], now: datetime
) -> tuple[Incident, ...]:
    """Return the events that a notifier did not deliver: unlike lasting incidents, the next look does not find them.

    ``incidents``, oldest first, and ``now`` are those of the ``deliver`` call that returned ``states``. The newest
    ``UNDELIVERED_AT_MOST`` are returned; of several with the same key the last counts.
    """
    left: dict[str, Incident] = {}
    for incident in incidents:
        is_reported = incident.key in states and states[incident.key].seen_at == now
        if not incident.lasting and not is_reported:
            left.pop(incident.key, None)  # the newest event with a key decides its place in the order
            left[incident.key] = incident
    return tuple(left.values())[-UNDELIVERED_AT_MOST:]


def deliver(
    notifier: Notifier,
    incidents: Iterable[Incident],
    states: Mapping[str, NotificationState],
    now: datetime,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> tuple[int, dict[str, NotificationState], list[str]]:
    """Deliver the alerts that are due, as many as ``NOTIFY_SECONDS`` allow.

    Returns:
        The number of alerts delivered, the notifier's memory, and why others failed; the next look tries those again.
    """
    alerts, kept = due(incidents, states, now)
    failures: list[str] = []
    until = monotonic() + NOTIFY_SECONDS
    for alert, state in alerts:
        failure = _deliver(notifier, alert) if monotonic() < until else "out of time, sent with the next look"
        if failure is not None:
            failures.append(failure)
        remembered = state if failure is None else states.get(alert.key)
        if remembered is not None:
            kept[alert.key] = remembered
    return len(alerts) - len(failures), kept, failures


def _deliver(notifier: Notifier, alert: Alert) -> str | None:
    """Return why the notifier failed; None if it did not."""
    try:
        notifier.notify(alert)
    except AlertError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001
        # A user's notifier may fail in any way, and its message may contain a secret.
        return f"it failed: {type(error).__name__}"
    return None
