"""``alerts_sensor``: notifies people of failed runs and failing checks.

Belongs here: finding incidents in Dagster's storage. Does not belong here: which of them are due for an alert
(``v6_pipeline.alerts``). A tick finds failed runs and failing checks alike: one cursor records what each notifier has
reported. https://docs.dagster.io/guides/automate/sensors
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, RunsFilter
from pydantic import Field, TypeAdapter, ValidationError

from v6_pipeline.alerts import Incident, Level, NotificationState, Notifier, deliver, load_notifiers, undelivered
from v6_pipeline.defs.metadata import ERROR
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import GatewayUnreachableError, RequestTimeoutError, V6Error
from v6_pipeline.foreign_text import of_markdown
from v6_pipeline.ib.resets import ExpectedOutage, expected_outage

TICK_SECONDS = 30
RUNS_PER_TICK = 50
_NUMBER = re.compile(r"\d+")
_AWAY = {GatewayUnreachableError.__name__, RequestTimeoutError.__name__}
"""Errors that a run raises when the gateway, or IB behind it, is away."""
_PLANNED = "PLANNED"
"""Compared by name, because the enumeration itself is not public."""


@dataclass(frozen=True, slots=True)
class AlertCursor:
    """The sensor's cursor.

    Attributes:
        runs_until: time up to which failed runs have been read (UTC).
        states: the memory of each notifier, by incident.
        undelivered: events that each notifier has yet to deliver.
    """

    runs_until: datetime
    states: Annotated[Mapping[str, Mapping[str, NotificationState]], Field(alias="told")] = field(default_factory=dict)
    undelivered: Annotated[Mapping[str, tuple[Incident, ...]], Field(alias="missed")] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None, now: datetime) -> "AlertCursor":
        """Return the cursor in ``text``, or if it is unreadable a new one, which ignores failures before ``now``."""
        try:
            return _CURSOR.validate_json(text or "")
        except ValidationError:
            return cls(now)

    def dump(self) -> str:
        """Return the sensor's cursor as text."""
        return _CURSOR.dump_json(self, by_alias=True).decode()


_CURSOR = TypeAdapter(AlertCursor)


def alerts_sensor() -> dg.SensorDefinition:
    """Return the sensor that notifies people of failed runs and failing checks."""

    @dg.sensor(
        name="alerts_sensor",
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Reports runs that fail, checks that fail (again after each day), and checks that pass again: in its log, "
            "to V6_ALERT_WEBHOOK and to V6_NOTIFIERS."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
        keys = context.repository_def.asset_graph.asset_check_keys if context.repository_def else ()
        try:
            settings = pipeline.settings()
            return look(
                context.instance,
                sorted(keys, key=str),
                load_notifiers(settings, context.log),
                context.cursor,
                pipeline.now(),
                outage_at=lambda instant: expected_outage(instant, settings.ib_region),
            )
        except V6Error as error:
            raise dg.Failure(str(error)) from None

    return sensor


def look(
    instance: DagsterInstance,
    checks: Sequence[dg.AssetCheckKey],
    notifiers: Mapping[str, Notifier],
    cursor_text: str | None,
    now: datetime,
    *,
    outage_at: Callable[[datetime], ExpectedOutage | None] = lambda _instant: None,
) -> dg.SensorResult:
    """Find incidents and deliver the alerts that are due.

    A run that failed because the gateway was away during an expected outage is a warning.
    """
    cursor = AlertCursor.parse(cursor_text, now)
    failed, until = _failed_runs(instance, cursor.runs_until, outage_at)
    incidents = [*failed, *_failing_checks(instance, checks)]
    states: dict[str, Mapping[str, NotificationState]] = {}
    left: dict[str, tuple[Incident, ...]] = {}
    delivered, failures = 0, []
    for name, notifier in notifiers.items():
        # Each notifier has its own backlog, so that one that fails does not hold up the others.
        backlog = [*cursor.undelivered.get(name, ()), *incidents]
        count, states[name], why = deliver(notifier, backlog, cursor.states.get(name, {}), now)
        left[name] = undelivered(backlog, states[name], now)
        delivered += count
        failures += [f"{name}: {reason}" for reason in dict.fromkeys(why)]
    lines = [f"incidents: {len(incidents)}, alerts delivered: {delivered}", *failures]
    return dg.SensorResult(cursor=AlertCursor(until, states, left).dump(), skip_reason="; ".join(lines)[:1000])


def _failed_runs(
    instance: DagsterInstance, since: datetime, outage_at: Callable[[datetime], ExpectedOutage | None]
) -> tuple[list[Incident], datetime]:
    """Return the runs that failed after ``since``, oldest first, and the time up to which runs have been read."""
    records = instance.get_run_records(
        filters=RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since),
        limit=RUNS_PER_TICK,
        order_by="update_timestamp",
        ascending=True,
    )
    incidents = []
    for record in records:
        run, reason = record.dagster_run, _reason(instance, record.dagster_run.run_id)
        # Reasons that differ only in their numbers are the same incident.
        same = _NUMBER.sub("#", reason)
        outage = outage_at(_aware(record.update_timestamp))
        is_expected = outage is not None and _lacked_gateway(instance, run.run_id)
        incidents.append(
            Incident(
                key=f"run/{run.job_name}/{same}"[:300],
                title=f"run {run.run_id[:8]} of {_job(run)}",
                says=f"{reason} ({outage})" if is_expected else reason,
                level=Level.WARNING if is_expected else Level.ERROR,
                lasting=False,
            )
        )
    return incidents, max((_aware(record.update_timestamp) for record in records), default=since)


def _job(run: dg.DagsterRun) -> str:
    if run.job_name.startswith("__"):  # the job that Dagster makes up for assets chosen by hand
        return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())) or "assets"
    return run.job_name


def _reason(instance: DagsterInstance, run_id: str) -> str:
    """Return why the first failed step failed, or else why the run failed, in one line."""
    for kind in (DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE):
        for entry in instance.all_logs(run_id, of_type=kind):
            event = entry.dagster_event
            if event is None:
                continue
            if kind is DagsterEventType.STEP_FAILURE:
                data = event.step_failure_data
                if data.user_failure_data and data.user_failure_data.description:
                    return " ".join(data.user_failure_data.description.split())
                error = data.error
                while error is not None and error.cause is not None:  # Dagster's own error names only the step
                    error = error.cause
                if error is not None:
                    return " ".join(error.message.split())
            elif event.message:
                return " ".join(event.message.split())
    return "no reason given"


def _lacked_gateway(instance: DagsterInstance, run_id: str) -> bool:
    """Return whether every failed step failed because the gateway could not be reached, or did not answer."""
    kinds = set()
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE):
        failure = entry.dagster_event.step_failure_data.user_failure_data if entry.dagster_event else None
        kind = failure.metadata.get(ERROR) if failure else None
        kinds.add(kind.value if kind else None)
    return bool(kinds) and kinds <= _AWAY


def _failing_checks(instance: DagsterInstance, keys: Sequence[dg.AssetCheckKey]) -> list[Incident]:
    """Return the checks whose newest evaluation failed."""
    storage = instance.event_log_storage
    incidents = []
    for key, newest in storage.get_latest_asset_check_execution_by_key(keys).items():
        record = newest
        if newest.status.name == _PLANNED:
            # A run is about to evaluate the check, or died before it could: the previous evaluation still holds.
            ended = {status for status in type(newest.status) if status.name != _PLANNED}
            record = next(iter(storage.get_asset_check_execution_history(key, limit=1, status=ended)), newest)
        if record.status.name != "FAILED":
            continue
        event = record.event.dagster_event if record.event else None
        is_evaluated = event is not None and event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION
        evaluation = event.asset_check_evaluation_data if event is not None and is_evaluated else None
        is_warning = evaluation is not None and evaluation.severity is dg.AssetCheckSeverity.WARN
        incidents.append(
            Incident(
                key=f"check/{key.asset_key.to_user_string()}/{key.name}",
                title=f"check {key.name} of {key.asset_key.to_user_string()}",
                says=of_markdown((evaluation.description if evaluation else None) or "its execution failed"),
                level=Level.WARNING if is_warning else Level.ERROR,
                lasting=True,
            )
        )
    return incidents


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
