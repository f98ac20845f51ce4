"""``alerts_sensor``: runs that failed and checks that fail, told once to whoever the settings name.

One look finds both, so that one memory, the sensor's cursor, keeps each notifier from hearing the same twice; what was
told and how long it counts is in ``v6_pipeline.alerts``. https://docs.dagster.io/guides/automate/sensors
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, RunsFilter

from v6_pipeline.alerts import Level, Notifier, Told, Trouble, load_notifiers, missed, tell
from v6_pipeline.defs.metadata import ERROR
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import GatewayUnreachableError, RequestTimeoutError, V6Error
from v6_pipeline.ib.resets import ExpectedOutage, expected_outage

TICK_SECONDS = 30
RUNS_PER_TICK = 50
_NUMBER = re.compile(r"\d+")
_AWAY = {GatewayUnreachableError.__name__, RequestTimeoutError.__name__}
"""What a run fails with when the gateway, or IB behind it, is away."""
_PLANNED = "PLANNED"
"""By its name: the enumeration itself is not public."""


@dataclass(frozen=True, slots=True)
class AlertCursor:
    """Until when failed runs were looked at, what each notifier was told, and of which of them it could not be."""

    runs_until: datetime
    told: Mapping[str, Mapping[str, Told]] = field(default_factory=dict)
    missed: Mapping[str, tuple[Trouble, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None, now: datetime) -> "AlertCursor":
        """From the sensor's; without one, or with an unreadable one, what has failed before is history."""
        try:
            values = json.loads(text or "")
            told = {
                name: {key: Told.parse(item) for key, item in items.items()} for name, items in values["told"].items()
            }
            # Cursors of old versions have none.
            left = {
                name: tuple(Trouble.parse(item) for item in items) for name, items in values.get("missed", {}).items()
            }
            return cls(datetime.fromisoformat(values["runs_until"]), told, left)
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls(now)

    def dump(self) -> str:
        """As the sensor's cursor."""
        told = {name: {key: item.dump() for key, item in items.items()} for name, items in self.told.items()}
        left = {name: [item.dump() for item in items] for name, items in self.missed.items()}
        return json.dumps({"runs_until": self.runs_until.isoformat(), "told": told, "missed": left})


def alerts_sensor() -> dg.SensorDefinition:
    """Tells of failed runs and failing checks."""

    @dg.sensor(
        name="alerts_sensor",
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Tells of runs that failed and checks that fail, once each, and when a check passes again: in its log, by "
            "V6_ALERT_WEBHOOK and by V6_NOTIFIERS."
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
    """One look at runs and checks; a run that failed for lack of the gateway while IB was to be away is a warning."""
    cursor = AlertCursor.parse(cursor_text, now)
    failed, until = _failed_runs(instance, cursor.runs_until, outage_at)
    troubles = [*failed, *_failing_checks(instance, checks)]
    told: dict[str, Mapping[str, Told]] = {}
    left: dict[str, tuple[Trouble, ...]] = {}
    passed_on, failures = 0, []
    for name, notifier in notifiers.items():
        # Each for itself: one that is away must not keep the others from hearing of newer runs.
        its_own = [*cursor.missed.get(name, ()), *troubles]
        count, told[name], why = tell(notifier, its_own, cursor.told.get(name, {}), now)
        left[name] = missed(its_own, told[name], now)
        passed_on += count
        failures += [f"{name}: {reason}" for reason in dict.fromkeys(why)]
    said = [f"troubles: {len(troubles)}, alerts passed on: {passed_on}", *failures]
    return dg.SensorResult(cursor=AlertCursor(until, told, left).dump(), skip_reason="; ".join(said)[:1000])


def _failed_runs(
    instance: DagsterInstance, since: datetime, outage_at: Callable[[datetime], ExpectedOutage | None]
) -> tuple[list[Trouble], datetime]:
    """Runs that failed since then, oldest first, and until when they were looked at."""
    records = instance.get_run_records(
        filters=RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since),
        limit=RUNS_PER_TICK,
        order_by="update_timestamp",
        ascending=True,
    )
    troubles = []
    for record in records:
        run, reason = record.dagster_run, _reason(instance, record.dagster_run.run_id)
        # Numbers aside, the same words are the same trouble.
        same = _NUMBER.sub("#", reason)
        outage = outage_at(_aware(record.update_timestamp))
        is_expected = outage is not None and _lacked_gateway(instance, run.run_id)
        troubles.append(
            Trouble(
                key=f"run/{run.job_name}/{same}"[:300],
                title=f"run {run.run_id[:8]} of {_job(run)}",
                says=f"{reason} ({outage})" if is_expected else reason,
                level=Level.WARNING if is_expected else Level.ERROR,
                lasting=False,
            )
        )
    return troubles, max((_aware(record.update_timestamp) for record in records), default=since)


def _job(run: dg.DagsterRun) -> str:
    if run.job_name.startswith("__"):  # Dagster's own for assets chosen by hand
        return ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())) or "assets"
    return run.job_name


def _reason(instance: DagsterInstance, run_id: str) -> str:
    """Why a run failed, by its first failed step, else by the run itself: one line."""
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
                while error is not None and error.cause is not None:  # Dagster's own says only where
                    error = error.cause
                if error is not None:
                    return " ".join(error.message.split())
            elif event.message:
                return " ".join(event.message.split())
    return "no reason given"


def _lacked_gateway(instance: DagsterInstance, run_id: str) -> bool:
    """Whether each step that failed did so because the gateway could not be reached, or did not answer."""
    kinds = set()
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE):
        failure = entry.dagster_event.step_failure_data.user_failure_data if entry.dagster_event else None
        kind = failure.metadata.get(ERROR) if failure else None
        kinds.add(kind.value if kind else None)
    return bool(kinds) and kinds <= _AWAY


def _failing_checks(instance: DagsterInstance, keys: Sequence[dg.AssetCheckKey]) -> list[Trouble]:
    """Checks whose newest evaluation failed."""
    storage = instance.event_log_storage
    troubles = []
    for key, newest in storage.get_latest_asset_check_execution_by_key(keys).items():
        record = newest
        if newest.status.name == _PLANNED:
            # A run that is to evaluate the check, or that died before it did: what was known before still holds.
            ended = {status for status in type(newest.status) if status.name != _PLANNED}
            record = next(iter(storage.get_asset_check_execution_history(key, limit=1, status=ended)), newest)
        if record.status.name != "FAILED":
            continue
        event = record.event.dagster_event if record.event else None
        is_evaluated = event is not None and event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION
        evaluation = event.asset_check_evaluation_data if event is not None and is_evaluated else None
        is_warning = evaluation is not None and evaluation.severity is dg.AssetCheckSeverity.WARN
        troubles.append(
            Trouble(
                key=f"check/{key.asset_key.to_user_string()}/{key.name}",
                title=f"check {key.name} of {key.asset_key.to_user_string()}",
                says=(evaluation.description if evaluation else None) or "its execution failed",
                level=Level.WARNING if is_warning else Level.ERROR,
                lasting=True,
            )
        )
    return troubles


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
