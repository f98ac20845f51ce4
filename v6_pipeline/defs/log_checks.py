"""Asset checks of the logs' contents: the queue drains, rows are whole, unique, and what the broker says.

Those of ``queued_positions`` and ``account_values`` are one step that Dagster runs after each refresh. They read the
lake once for all, and never fail its run: what cannot be read fails the checks. Where no refresh runs none of them is
evaluated, so ``ib_streamer_sensor`` evaluates those that say so. That of ``streamed_positions`` is
executed from the UI. What must hold is decided in ``checks.queue`` and ``checks.positions``.
https://docs.dagster.io/guides/test/asset-checks
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

from collections.abc import Callable, Iterator, Mapping

import dagster as dg

from v6_pipeline.checks.logs import LogChecks
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.defs.verdicts import said
from v6_pipeline.errors import V6Error
from v6_pipeline.lake.schemas import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS

_Judge = Callable[[LogChecks], Verdict]
_Checks = Mapping[str, tuple[_Judge, str]]
QUEUED: _Checks = {
    "queue_drains": (
        LogChecks.queue_drains,
        (
            "No item waits for longer than V6_REFRESH_SECONDS, no more wait than can be refreshed in that time, and "
            "values do not get old because nobody asks for them."
        ),
    ),
    "no_dead_letters": (LogChecks.no_dead_letters, "No item was given up after its last attempt."),
    "one_row_per_key": (
        LogChecks.queued_once,
        "No two rows of the newest trading day have the same (account, conid, timestamp).",
    ),
    "prices_present": (
        LogChecks.prices_present,
        (
            "Newest rows of open positions, queued or streaming, have a price, but for contracts that expired or that "
            "IB does not know."
        ),
    ),
    "greeks_present": (
        LogChecks.greeks_present,
        "Newest rows of open options, queued or streaming, have greeks where the market gives a bid and an ask.",
    ),
    "reconciles_with_broker": (
        LogChecks.reconciles_with_broker,
        (
            "The newest rows of both logs say what the accounts hold by IB's last download, which is not long ago; "
            "what is queued does not count."
        ),
    ),
    "values_consistent": (
        LogChecks.values_consistent,
        "Market values of newest rows, queued or streaming, follow from position, price and multiplier.",
    ),
}
"""Name -> judge, description."""
ACCOUNTS: _Checks = {
    "account_feed_free": (
        LogChecks.account_feed_free,
        "The accounts can be downloaded: no other client holds IB's account feed, which serves one account at a time.",
    ),
    "one_row_per_key": (
        LogChecks.account_values_once,
        "No two rows of the newest trading day have the same (account, timestamp).",
    ),
}
STREAMED: _Checks = {
    "one_row_per_key": (
        LogChecks.streamed_once,
        "No two rows of the newest trading day have the same (account, conid, timestamp).",
    ),
}


_AFTER_REFRESH: Mapping[str, _Checks] = {QUEUED_POSITIONS.name: QUEUED, ACCOUNT_VALUES.name: ACCOUNTS}


def log_checks() -> list[dg.AssetChecksDefinition]:
    """The checks, each executable by itself."""
    return [_step(_AFTER_REFRESH), _step({STREAMED_POSITIONS.name: STREAMED})]


def evaluations_after_refresh(pipeline: PipelineResource) -> list[dg.AssetCheckEvaluation]:
    """What the checks say after a refresh that failed: Dagster then skips their step, just when it matters."""
    found = _judged(pipeline, _by_key(_AFTER_REFRESH))
    return [
        dg.AssetCheckEvaluation(asset_key=key.asset_key, check_name=key.name, **said(verdict)) for key, verdict in found
    ]


def verdicts_without_refresh(pipeline: PipelineResource) -> dict[dg.AssetCheckKey, Verdict]:
    """What the checks say now that must turn red though no refresh runs; cheap, for they read no lake."""
    every = _by_key({QUEUED_POSITIONS.name: {"queue_drains": QUEUED["queue_drains"]}})
    return dict(_judged(pipeline, every))


def _step(checks: Mapping[str, _Checks]) -> dg.AssetChecksDefinition:
    """One step for the checks of these assets, named after the first."""
    every = _by_key(checks)
    specs = [dg.AssetCheckSpec(key.name, asset=key.asset_key, description=text) for key, (_, text) in every.items()]

    @dg.multi_asset_check(name=f"{next(iter(checks))}_checks", specs=specs, can_subset=True)
    def step(context: dg.AssetCheckExecutionContext, pipeline: PipelineResource) -> Iterator[dg.AssetCheckResult]:
        chosen = {key: check for key, check in every.items() if key in context.selected_asset_check_keys}
        for key, verdict in _judged(pipeline, chosen):
            yield dg.AssetCheckResult(asset_key=key.asset_key, check_name=key.name, **said(verdict))

    return step


def _by_key(checks: Mapping[str, _Checks]) -> dict[dg.AssetCheckKey, tuple[_Judge, str]]:
    return {
        dg.AssetCheckKey(dg.AssetKey(asset), name): check for asset in checks for name, check in checks[asset].items()
    }


def _judged(
    pipeline: PipelineResource, checks: Mapping[dg.AssetCheckKey, tuple[_Judge, str]]
) -> Iterator[tuple[dg.AssetCheckKey, Verdict]]:
    """One verdict after the other, on one state of lake and database."""
    work: LogChecks | None = None
    for key, (judge, _) in checks.items():
        try:
            work = work or _work(pipeline)
            verdict = judge(work)
        except V6Error as error:
            verdict = Verdict(passed=False, reason=f"cannot tell: {error}")
        yield key, verdict


def _work(pipeline: PipelineResource) -> LogChecks:
    return LogChecks(pipeline.settings(), pipeline.database(), pipeline.lake(), pipeline.calendar(), pipeline.now())
