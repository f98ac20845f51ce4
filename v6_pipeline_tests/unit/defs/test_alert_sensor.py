"""``alerts_sensor``: the runs and checks of a real instance that become alerts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from v6_pipeline.alerts import Alert, Incident, Level, NotificationState
from v6_pipeline.definitions import build_defs
from v6_pipeline.defs.alert_sensor import RUNS_PER_TICK, AlertCursor, alerts_sensor, look
from v6_pipeline.defs.metadata import ERROR
from v6_pipeline.errors import (
    AccountFeedError,
    AlertError,
    ClientIdInUseError,
    GatewayUnreachableError,
    RequestTimeoutError,
    V6Error,
)
from v6_pipeline.ib.resets import ExpectedOutage
from v6_pipeline_tests.unit.defs.conftest import ClockedPipeline

KEY = dg.AssetCheckKey(dg.AssetKey("streamed_positions"), "stream_fresh")


@dataclass
class Listener:
    received: list[Alert] = field(default_factory=list)
    is_away: bool = False

    def notify(self, alert: Alert) -> None:
        if self.is_away:
            raise AlertError("no answer")
        self.received.append(alert)


@dg.op
def no_gateway() -> None:
    raise dg.Failure("no gateway at 127.0.0.1:4002:\n  start it")


@dg.op
def a_bug() -> None:
    raise ZeroDivisionError("by zero")


@dg.job
def refresh() -> None:
    no_gateway()


@dg.job
def other() -> None:
    a_bug()


@dg.asset_check(asset=KEY.asset_key, name=KEY.name)
def stream_fresh() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


def check_job() -> dg.JobDefinition:
    """A job that evaluates the check, which passes."""
    return dg.Definitions(
        assets=[dg.AssetSpec(KEY.asset_key)],
        asset_checks=[stream_fresh],
        jobs=[dg.define_asset_job("freshness", selection=dg.AssetSelection.checks(KEY))],
    ).resolve_job_def("freshness")


class Looks:
    """One look after the other, the cursor handed on."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self.listener = Listener()
        self.others: dict[str, Listener] = {}
        self._cursor: str | None = None
        self.at = datetime.now(UTC)
        self.outage: ExpectedOutage | None = None
        self()

    def __call__(self, minutes: float = 0) -> list[str]:
        self.at += timedelta(minutes=minutes)
        self.listener.received.clear()
        notifiers = {"mine": self.listener, **self.others}
        self.result = look(self._instance, [KEY], notifiers, self._cursor, self.at, outage_at=self._outage_at)
        self._cursor = self.result.cursor
        return [alert.line() for alert in self.listener.received]

    def _outage_at(self, instant: datetime) -> ExpectedOutage | None:
        assert instant <= datetime.now(UTC), "of when the run failed"
        return self.outage


@pytest.fixture
def looks(instance: dg.DagsterInstance) -> Looks:
    return Looks(instance)


def fail(job: dg.JobDefinition, instance: dg.DagsterInstance) -> str:
    return job.execute_in_process(instance=instance, raise_on_error=False).run_id


def fail_at_once(job: dg.JobDefinition, instance: dg.DagsterInstance, reason: str) -> str:
    run = instance.create_run_for_job(job)
    instance.report_run_failed(run, reason)
    return run.run_id


def evaluate(instance: dg.DagsterInstance, *, passed: bool, severity: dg.AssetCheckSeverity, says: str = "") -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=KEY.asset_key, check_name=KEY.name, passed=passed, severity=severity, description=says
        )
    )


def test_a_failed_run_is_reported_once_with_its_reason(looks: Looks, instance: dg.DagsterInstance) -> None:
    run_id = fail(refresh, instance)

    assert looks() == [f"error: run {run_id[:8]} of refresh: no gateway at 127.0.0.1:4002: start it"]
    assert looks() == []
    fail(refresh, instance)
    assert looks(minutes=1) == [], "the same incident"
    other_id = fail(other, instance)
    [line] = looks(minutes=1)
    assert line.startswith(f"error: run {other_id[:8]} of other: ")
    assert "ZeroDivisionError: by zero" in line
    assert "Traceback" not in line


def failing_with(kind: type[V6Error] | None) -> dg.JobDefinition:
    """A job whose step fails as ``queued_positions`` does."""

    @dg.op
    def fails() -> None:
        raise dg.Failure("it failed", metadata={ERROR: kind.__name__} if kind else {})

    @dg.job
    def refreshing() -> None:
        fails()

    return refreshing


@pytest.mark.parametrize("kind", [GatewayUnreachableError, RequestTimeoutError])
def test_a_run_without_gateway_in_ibs_reset_is_a_warning_and_an_error_once_it_is_over(
    looks: Looks, instance: dg.DagsterInstance, kind: type[V6Error]
) -> None:
    looks.outage = ExpectedOutage("IB's nightly reset", datetime(2026, 11, 21, 6, 45, tzinfo=UTC))
    first = fail(failing_with(kind), instance)
    assert looks() == [f"warning: run {first[:8]} of refreshing: it failed (IB's nightly reset until 06:45 UTC)"]
    looks.outage = None
    second = fail(failing_with(kind), instance)

    assert looks(minutes=1) == [f"error: run {second[:8]} of refreshing: it failed"]


@pytest.mark.parametrize("kind", [ClientIdInUseError, AccountFeedError, None])
def test_a_run_that_failed_for_another_reason_is_an_error_in_ibs_reset_as_well(
    looks: Looks, instance: dg.DagsterInstance, kind: type[V6Error] | None
) -> None:
    looks.outage = ExpectedOutage("IB's nightly reset", datetime(2026, 11, 21, 6, 45, tzinfo=UTC))
    run_id = fail(failing_with(kind), instance)

    assert looks() == [f"error: run {run_id[:8]} of refreshing: it failed"]


def test_a_failed_run_is_reported_later_if_the_notifier_fails(looks: Looks, instance: dg.DagsterInstance) -> None:
    looks.listener.is_away = True
    run_id = fail(refresh, instance)
    assert looks() == []
    assert looks.result.skip_reason is not None
    assert str(looks.result.skip_reason.skip_message) == "incidents: 1, alerts delivered: 0; mine: no answer"
    looks.listener.is_away = False

    assert looks(minutes=1) == [f"error: run {run_id[:8]} of refresh: no gateway at 127.0.0.1:4002: start it"]
    assert looks(minutes=1) == []


def test_a_notifier_that_fails_delays_no_other(looks: Looks, instance: dg.DagsterInstance) -> None:
    """Once it works again it receives everything, even if more runs failed in the meantime than a look reads."""
    looks.others["away"] = away = Listener(is_away=True)
    first_id = fail(refresh, instance)
    assert len(looks()) == 1
    for number in range(RUNS_PER_TICK):
        newest_id = fail_at_once(refresh, instance, f"no answer to message {number}")
    assert looks(minutes=1) == [f"error: run {newest_id[:8]} of refresh: no answer to message {RUNS_PER_TICK - 1}"]
    other_id = fail(other, instance)

    [new] = looks(minutes=1)

    assert new.startswith(f"error: run {other_id[:8]} of other: ")
    assert away.received == []
    away.is_away = False
    assert looks(minutes=1) == [], "it has received everything"
    assert [alert.title for alert in away.received] == [
        f"run {first_id[:8]} of refresh",
        f"run {newest_id[:8]} of refresh",
        f"run {other_id[:8]} of other",
    ]
    away.received.clear()
    looks(minutes=1)
    assert away.received == []


def test_a_run_that_failed_before_the_first_look_is_not_reported(instance: dg.DagsterInstance) -> None:
    fail(refresh, instance)

    assert Looks(instance)() == []


def test_a_failing_check_is_reported_once_and_its_end_as_well(looks: Looks, instance: dg.DagsterInstance) -> None:
    evaluate(instance, passed=True, severity=dg.AssetCheckSeverity.ERROR)
    assert looks() == []
    evaluate(instance, passed=False, severity=dg.AssetCheckSeverity.WARN, says="stale for 90 s")
    assert looks() == ["warning: check stream_fresh of streamed_positions: stale for 90 s"]
    evaluate(instance, passed=False, severity=dg.AssetCheckSeverity.WARN, says="stale for 150 s")
    assert looks(minutes=1) == []
    evaluate(instance, passed=False, severity=dg.AssetCheckSeverity.ERROR, says="stale for 210 s")
    assert looks(minutes=1) == ["error: check stream_fresh of streamed_positions: stale for 210 s"]
    evaluate(instance, passed=True, severity=dg.AssetCheckSeverity.ERROR)
    [over] = looks(minutes=1)
    assert over.startswith("over: check stream_fresh of streamed_positions")
    assert looks(minutes=1) == []


def test_a_check_that_a_run_is_about_to_evaluate_is_as_it_was(looks: Looks, instance: dg.DagsterInstance) -> None:
    """Dagster marks it as planned when it creates the run: an alert said that it was over, the next that it was new."""
    evaluate(instance, passed=False, severity=dg.AssetCheckSeverity.WARN, says="stale for 90 s")
    assert looks() == ["warning: check stream_fresh of streamed_positions: stale for 90 s"]

    instance.create_run_for_job(check_job())
    newest = instance.event_log_storage.get_latest_asset_check_execution_by_key([KEY])[KEY]
    assert newest.status.name == "PLANNED"
    assert looks(minutes=1) == []
    assert looks.result.skip_reason is not None
    assert looks.result.skip_reason.skip_message == "incidents: 1, alerts delivered: 0"

    assert check_job().execute_in_process(instance=instance).success
    [over] = looks(minutes=1)
    assert over.startswith("over: check stream_fresh of streamed_positions")


def test_a_check_that_was_never_evaluated_is_no_incident(looks: Looks, instance: dg.DagsterInstance) -> None:
    instance.create_run_for_job(check_job())

    assert looks() == []


NOW = datetime(2026, 11, 20, tzinfo=UTC)
STATE = NotificationState(title="run 1", level=Level.ERROR, lasting=False, since=NOW, reported_at=NOW, seen_at=NOW)
UNDELIVERED = Incident(key="run/a/b", title="run 1 of a", says="no gateway", level=Level.ERROR, lasting=False)


def test_a_cursor_is_read_as_it_was_written() -> None:
    cursor = AlertCursor(NOW, {"log": {"run/a": STATE}}, {"log": (), "webhook": (UNDELIVERED,)})

    assert AlertCursor.parse(cursor.dump(), NOW + timedelta(days=1)) == cursor


def test_a_cursor_of_the_tree_before_is_read_and_written_with_the_same_names() -> None:
    """Its incidents would be reported again, or its undelivered events lost."""
    instant = "2026-11-20T00:00:00+00:00"
    state = {"title": "run 1", "level": "error", "lasting": False, "since": instant}
    event = {"key": "run/a/b", "title": "run 1 of a", "says": "no gateway", "level": "error", "lasting": False}
    values = {
        "runs_until": instant,
        "told": {"log": {"run/a": {**state, "told_at": instant, "seen_at": instant}}},
        "missed": {"log": [], "webhook": [event]},
    }

    read = AlertCursor.parse(json.dumps(values), NOW + timedelta(days=1))

    assert read == AlertCursor(NOW, {"log": {"run/a": STATE}}, {"log": (), "webhook": (UNDELIVERED,)})
    assert json.loads(read.dump()) == json.loads(json.dumps(values).replace("+00:00", "Z"))


def test_a_cursor_without_undelivered_events_is_read() -> None:
    values = json.loads(AlertCursor(NOW, {"log": {"run/a": STATE}}).dump())
    del values["missed"]

    read = AlertCursor.parse(json.dumps(values), NOW + timedelta(days=1))

    assert read == AlertCursor(NOW, {"log": {"run/a": STATE}})


def test_an_unreadable_cursor_starts_over() -> None:
    mangled = json.dumps({"runs_until": NOW.isoformat(), "told": {}, "missed": {"a": [{"key": "k"}]}})

    for text in (None, "", "{", "[]", '{"runs_until": "yesterday", "told": {}}', '{"told": {"a": {"k": {}}}}', mangled):
        assert AlertCursor.parse(text, NOW) == AlertCursor(NOW)


def test_the_sensor_looks_at_all_checks_of_the_location_and_writes_its_log(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline
) -> None:
    defs = build_defs(pipeline.settings(), pipeline=pipeline)
    evaluate(instance, passed=False, severity=dg.AssetCheckSeverity.ERROR, says="the streamer is away")
    with dg.build_sensor_context(
        instance=instance, repository_def=defs.get_repository_def(), resources={"pipeline": pipeline}
    ) as context:
        result = alerts_sensor()(context)

    assert isinstance(result, dg.SensorResult)
    assert result.skip_reason is not None
    assert result.skip_reason.skip_message == "incidents: 1, alerts delivered: 1"


def test_a_wrong_setting_fails_the_tick_with_its_line(
    instance: dg.DagsterInstance, pipeline: ClockedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V6_NOTIFIERS", "no.such.module:make")
    with (
        dg.build_sensor_context(instance=instance, resources={"pipeline": pipeline}) as context,
        pytest.raises(dg.Failure, match=r"V6_NOTIFIERS: cannot load no.such.module:make"),
    ):
        alerts_sensor()(context)


def test_an_alert_has_the_text_of_a_check_without_the_escapes_of_its_page(
    instance: dg.DagsterInstance, looks: Looks
) -> None:
    evaluate(instance, passed=False, severity=dg.AssetCheckSeverity.ERROR, says=r"SIM1/1 \[x\]\*")

    [line] = looks()

    assert "SIM1/1 [x]*" in line
