"""Asset checks: Dagster's definitions and evaluations of the checks in ``checks.registry``.

Belongs here: turning the list into steps, and verdicts into results.
Does not belong here: what must hold, and on which occasion it is evaluated.
https://docs.dagster.io/guides/test/asset-checks
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from v6_pipeline.checks.inputs import CheckInputs
from v6_pipeline.checks.registry import CHECKS, Check, When, judge
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.defs.partitions import days_of_run
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import V6Error
from v6_pipeline.foreign_text import escaped_markdown
from v6_pipeline.history.context import HistoryContext
from v6_pipeline.state.leases.streamer import StreamerLeaseState
from v6_pipeline.state.slots.allocation import SlotUsage

EVALUATE_EVERY = timedelta(minutes=5)


def asset_checks() -> list[dg.AssetChecksDefinition]:
    """Return the definitions of all checks; *Execute* on a check's page evaluates that check alone."""
    steps: dict[str, list[Check]] = {}
    for check in CHECKS:
        steps.setdefault(check.step, []).append(check)
    return [_step(name, checks) for name, checks in steps.items()]


def _step(name: str, checks: Sequence[Check]) -> dg.AssetChecksDefinition:
    specs = [dg.AssetCheckSpec(check.name, asset=check.asset, description=check.description) for check in checks]

    @dg.multi_asset_check(name=name, specs=specs, can_subset=len(specs) > 1)
    def step(context: dg.AssetCheckExecutionContext, pipeline: PipelineResource) -> Iterator[dg.AssetCheckResult]:
        def read() -> CheckInputs:
            work = pipeline.history(context.run.run_id, context.log.info)
            return CheckInputs(work, between=days_of_run(context.run.tags))

        chosen = [check for check in checks if _key(check) in context.selected_asset_check_keys]
        try:
            for check, verdict in judge(chosen, read):
                yield dg.AssetCheckResult(asset_key=check.asset, check_name=check.name, **_arguments(verdict))
        except V6Error as error:
            raise dg.Failure(str(error)) from None

    return step


def evaluations_after_refresh(pipeline: PipelineResource) -> list[dg.AssetCheckEvaluation]:
    """Evaluate the refresh checks after a failed refresh: Dagster skips their step then, just when they matter."""
    checks = [check for check in CHECKS if check.when is When.REFRESH]
    return [_evaluation(_key(check), verdict) for check, verdict in judge(checks, lambda: _inputs(pipeline))]


def evaluations_of_days(
    work: HistoryContext, assets: Collection[str], days: Collection[date]
) -> list[dg.AssetCheckEvaluation]:
    """Evaluate the checks of these history assets for the trading days of a run.

    The step ``history`` calls this itself, since Dagster skips check steps after a step that yields no output.

    Raises:
        LakeError: a table is damaged or unreachable.
    """
    checks = [check for check in CHECKS if check.when is When.HISTORY and check.asset in assets]
    inputs = CheckInputs(work, between=(min(days), max(days)))
    return [_evaluation(_key(check), verdict) for check, verdict in judge(checks, lambda: inputs)]


def verdicts_of_tick(
    pipeline: PipelineResource, lease: StreamerLeaseState, usage: SlotUsage
) -> dict[dg.AssetCheckKey, Verdict]:
    """Judge the checks that a tick of ib_streamer_sensor evaluates, given the lease and the slots that it has read.

    Raises:
        StateError: the state database cannot be used.
    """
    checks = [check for check in CHECKS if check.when is When.TICK or check.also_each_tick]
    judged = judge(checks, lambda: _inputs(pipeline, lease=lease, usage=usage))
    return {_key(check): verdict for check, verdict in judged}


def evaluations_due(
    found: Mapping[dg.AssetCheckKey, Verdict], cursor: Mapping[str, object], now: datetime
) -> tuple[list[dg.AssetCheckEvaluation], Mapping[str, object]]:
    """Return the evaluations of all checks if one has changed or five minutes have passed (else none), and the cursor.

    ``cursor`` is the one that the previous call returned; an unreadable one counts as none.
    """
    states = {key.to_user_string(): json.dumps([verdict.passed, verdict.serious]) for key, verdict in found.items()}
    try:
        since = now - datetime.fromisoformat(cursor["reported_at"])  # type: ignore[arg-type]  # fails if it is no text
        if cursor["passed"] == states and timedelta() <= since < EVALUATE_EVERY:
            return [], cursor
    except (KeyError, TypeError, ValueError):
        pass
    reported = [_evaluation(key, verdict) for key, verdict in found.items()]
    return reported, {"reported_at": now.isoformat(), "passed": states}


def _inputs(
    pipeline: PipelineResource, *, lease: StreamerLeaseState | None = None, usage: SlotUsage | None = None
) -> CheckInputs:
    return CheckInputs(pipeline.history(run_id="", say=lambda _line: None), lease=lease, usage=usage)


def _key(check: Check) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey(check.asset), check.name)


def _evaluation(key: dg.AssetCheckKey, verdict: Verdict) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(asset_key=key.asset_key, check_name=key.name, **_arguments(verdict))


def _arguments(verdict: Verdict) -> dict[str, Any]:
    """Return the arguments that ``AssetCheckResult`` and ``AssetCheckEvaluation`` have in common."""
    return {
        "passed": verdict.passed,
        "severity": dg.AssetCheckSeverity.ERROR if verdict.serious else dg.AssetCheckSeverity.WARN,
        "description": escaped_markdown(verdict.reason),  # Dagster's pages render it; symbols are in it
        "metadata": dict(verdict.numbers),
    }
