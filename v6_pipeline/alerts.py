"""Alerts: what is wrong now, told once to each notifier, and told again when it is over.

Belongs here: which troubles are worth a word now, given what each notifier was told before, and the notifiers. What is
wrong is found by Dagster's side; nothing of it is imported here.

A *lasting* trouble (an asset check) is over once it is no longer found. One that is an event (a failed run) has no end:
another like it within the quiet time is the same trouble, so that a schedule that fails each minute is told of once.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr

from v6_pipeline.errors import AlertError, SettingsError
from v6_pipeline.flex.exchange import is_loopback
from v6_pipeline.plugins import make_all
from v6_pipeline.secrecy import without
from v6_pipeline.settings import Settings

REPEAT_AFTER = timedelta(hours=24)
"""What is still wrong by then is said again."""
QUIET_TIME = timedelta(hours=1)
WEBHOOK_SECONDS = 10
TELL_SECONDS = 15
"""A sensor's tick ends after 60 s, and would then forget what it has told."""
MISSED_AT_MOST = 50
"""What a notifier that is away for long must hear of once it is back; older events are history then."""
_LONGEST = 1_000


class Level(enum.StrEnum):
    """How much it matters."""

    WARNING = "warning"
    ERROR = "error"


class Stage(enum.StrEnum):
    """Which word on a trouble this is."""

    NEW = "new"
    STILL = "still"
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that is wrong now.

    Attributes:
        key: the same for the same trouble.
        title: names it, such as ``check stream_fresh of streamed_positions``.
        says: what was found, one line.
        level: how much it matters.
        lasting: whether it is looked for each time, and over once it is not found.
    """

    key: str
    title: str
    says: str
    level: Level
    lasting: bool

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Trouble:
        """From ``dump``.

        Raises:
            KeyError, TypeError, ValueError: it is of another form.
        """
        return cls(
            **{name: str(values[name]) for name in ("key", "title", "says")},
            level=Level(values["level"]),
            lasting=bool(values["lasting"]),
        )

    def dump(self) -> dict[str, Any]:
        """As JSON, as much of it as is told."""
        return asdict(self) | {"says": _line(self.says)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One word to a person."""

    key: str
    title: str
    says: str
    level: Level
    stage: Stage
    since: datetime

    def line(self) -> str:
        """As one line of text."""
        if self.stage is Stage.OVER:
            return f"over: {self.title} (since {self.since:%Y-%m-%d %H:%M} UTC)"
        still = f"still, since {self.since:%Y-%m-%d %H:%M} UTC, " if self.stage is Stage.STILL else ""
        return f"{self.level}: {still}{self.title}: {self.says}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a notifier was told of a trouble, and when it was seen last."""

    title: str
    level: Level
    lasting: bool
    since: datetime
    told_at: datetime
    seen_at: datetime

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Told:
        """From ``dump``.

        Raises:
            KeyError, TypeError, ValueError: it is of another form.
        """
        return cls(
            title=str(values["title"]),
            level=Level(values["level"]),
            lasting=bool(values["lasting"]),
            **{name: datetime.fromisoformat(values[name]) for name in ("since", "told_at", "seen_at")},
        )

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()
        }


@runtime_checkable
class Notifier(Protocol):
    """A way to tell people."""

    def notify(self, alert: Alert) -> None:
        """Pass an alert on.

        Raises:
            AlertError: it could not be passed on; it is tried again with the next look.
        """


class LogNotifier:
    """Into the log: of the tick that found it, and of the process."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def notify(self, alert: Alert) -> None:
        """Write one line; errors as errors."""
        loud = alert.stage is not Stage.OVER and alert.level is Level.ERROR
        self._log.log(logging.ERROR if loud else logging.WARNING, "%s", alert.line())


class WebhookNotifier:
    """As a JSON document posted to an address: ``text`` is what Slack, Mattermost and the like show.

    Args:
        url: the address; it is a secret, and never told.
        seconds: how long to wait for an answer.
    """

    def __init__(self, url: SecretStr, *, seconds: float = WEBHOOK_SECONDS) -> None:
        self._url = url
        self._seconds = seconds
        parts = urlsplit(url.get_secret_value())
        self._host = parts.hostname
        self._path = SecretStr(url.get_secret_value().partition(parts.netloc)[2] or "/")

    def notify(self, alert: Alert) -> None:
        """Post it.

        Raises:
            AlertError: no answer, or none that says it was taken.
        """
        document = {
            "text": f"v6_pipeline: {alert.line()}",
            **asdict(alert),
            "since": alert.since.isoformat(),
        }
        try:
            with requests.Session() as session, without(self._path):
                # A proxy of the environment would be asked for our own machine as well.
                session.trust_env = not is_loopback(self._url.get_secret_value())
                answer = session.post(
                    self._url.get_secret_value(), json=document, timeout=self._seconds, allow_redirects=False
                )
            # A redirect is no success, and not followed: the alert would go to an address that nobody set.
            problem = (
                "" if answer.status_code < requests.codes.multiple_choices else f"it answered {answer.status_code}"
            )
        except requests.RequestException as error:
            problem = type(error).__name__
        if problem:  # outside of the except: what requests says holds the address
            raise AlertError(f"the webhook at {self._host} did not take an alert: {problem}")


def load_notifiers(settings: Settings, log: logging.Logger) -> dict[str, Notifier]:
    """The notifiers of the settings by name: the log, the webhook if there is one, and the user's own.

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
    troubles: Iterable[Trouble], told: Mapping[str, Told], now: datetime
) -> tuple[list[tuple[Alert, Told | None]], dict[str, Told]]:
    """What to say now to a notifier.

    Args:
        troubles: what is wrong now; of several with one key the last counts.
        told: what the notifier was told before, by key.
        now: UTC.

    Returns:
        Alerts, each with what to remember once it was passed on (None: nothing), and what to remember of the rest.
    """
    found = {trouble.key: trouble for trouble in troubles}
    alerts: list[tuple[Alert, Told | None]] = []
    kept: dict[str, Told] = {}
    for key, trouble in found.items():
        before = told.get(key)
        if before is not None and not trouble.lasting and now - before.seen_at > QUIET_TIME:
            before = None
        stage = _stage(trouble, before, now)
        if stage is None and before is not None:
            kept[key] = replace(before, seen_at=now)
            continue
        since = now if before is None else before.since
        memory = Told(
            title=trouble.title, level=trouble.level, lasting=trouble.lasting, since=since, told_at=now, seen_at=now
        )
        alert = Alert(
            key=key,
            title=trouble.title,
            says=_line(trouble.says),
            level=trouble.level,
            stage=stage or Stage.NEW,
            since=since,
        )
        alerts.append((alert, memory))
    for key, before in told.items():
        if key in found:
            continue
        if before.lasting:
            over = Alert(key=key, title=before.title, says="", level=before.level, stage=Stage.OVER, since=before.since)
            alerts.append((over, None))
        elif now - before.seen_at <= QUIET_TIME:
            kept[key] = before
    return alerts, kept


def missed(troubles: Iterable[Trouble], told: Mapping[str, Told], now: datetime) -> tuple[Trouble, ...]:
    """Events that a notifier could not be told of: they are not found again by themselves, as lasting troubles are.

    Args:
        troubles: what was to be told, oldest first; of several with one key the last counts.
        told: what the notifier remembers after ``tell``.
        now: when that was (UTC).

    Returns:
        The newest ``MISSED_AT_MOST``, to be told with the next look.
    """
    left: dict[str, Trouble] = {}
    for trouble in troubles:
        is_told = trouble.key in told and told[trouble.key].seen_at == now
        if not trouble.lasting and not is_told:
            left.pop(trouble.key, None)  # so that it counts as new as its newest
            left[trouble.key] = trouble
    return tuple(left.values())[-MISSED_AT_MOST:]


def _line(words: str) -> str:
    return " ".join(words.split())[:_LONGEST]


def _stage(trouble: Trouble, before: Told | None, now: datetime) -> Stage | None:
    if before is None or (trouble.level is Level.ERROR and before.level is Level.WARNING):
        return Stage.NEW
    return Stage.STILL if now - before.told_at >= REPEAT_AFTER else None


def tell(
    notifier: Notifier,
    troubles: Iterable[Trouble],
    told: Mapping[str, Told],
    now: datetime,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> tuple[int, dict[str, Told], list[str]]:
    """Tell a notifier what is due, as far as it goes within ``TELL_SECONDS``.

    Args:
        notifier: who is told.
        troubles: what is wrong now.
        told: what it was told before.
        now: UTC.
        monotonic: seconds.

    Returns:
        How many alerts were passed on, what to remember, and why others were not: those come again.
    """
    alerts, memory = due(troubles, told, now)
    failures: list[str] = []
    until = monotonic() + TELL_SECONDS
    for alert, memory_if_told in alerts:
        failure = _pass_on(notifier, alert) if monotonic() < until else "the rest waits for the next look"
        if failure is not None:
            failures.append(failure)
        remembered = memory_if_told if failure is None else told.get(alert.key)
        if remembered is not None:
            memory[alert.key] = remembered
    return len(alerts) - len(failures), memory, failures


def _pass_on(notifier: Notifier, alert: Alert) -> str | None:
    """Why an alert could not be passed on; None if it was."""
    try:
        notifier.notify(alert)
    except AlertError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001
        # A notifier of the user may fail in any way, and what it says may hold a secret.
        return f"it failed: {type(error).__name__}"
    return None
