"""Asset checks of the logs' contents: the queue drains, rows are whole, unique, and what the broker says.

Those of ``queued_positions`` and ``account_values`` are one step that Dagster runs after each refresh. They read the
lake once for all, and never fail its run: what cannot be read fails the checks. That of ``streamed_positions`` is
executed from the UI. What must hold is decided in ``sync.queue_checks`` and ``sync.position_checks``.
https://docs.dagster.io/guides/test/asset-checks
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

from collections.abc import Callable, Iterator, Mapping

import dagster as dg

from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import V6Error
from v6_pipeline.lake.schemas import ACCOUNT_VALUES, QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.sync.log_checks import LogChecks
from v6_pipeline.sync.stream_checks import Verdict

_Checks = Mapping[str, tuple[Callable[[LogChecks], Verdict], str]]
QUEUED: _Checks = {
    "queue_drains": (
        LogChecks.queue_drains,
        "No item waits for longer than V6_REFRESH_SECONDS, and no more wait than can be refreshed in that time.",
    ),
    "no_dead_letters": (LogChecks.no_dead_letters, "No item was given up after its last attempt."),
    "one_row_per_key": (
        LogChecks.queued_once,
        "No two rows of the newest trading day have the same (account, conid, timestamp).",
    ),
    "prices_present": (
        LogChecks.prices_present,
        "Newest queued rows of open positions have a price, but for contracts that expired or that IB does not know.",
    ),
    "greeks_present": (
        LogChecks.greeks_present,
        "Newest queued rows of open options have greeks where the market gives a bid and an ask.",
    ),
    "reconciles_with_broker": (
        LogChecks.reconciles_with_broker,
        "The newest rows of both logs say what the accounts hold by IB's last download; what is queued does not count.",
    ),
    "values_consistent": (
        LogChecks.values_consistent,
        "Market values of newest queued rows follow from position, price and multiplier.",
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


def log_checks() -> list[dg.AssetChecksDefinition]:
    """The checks, each executable by itself."""
    return [
        _step({QUEUED_POSITIONS.name: QUEUED, ACCOUNT_VALUES.name: ACCOUNTS}),
        _step({STREAMED_POSITIONS.name: STREAMED}),
    ]


def _step(checks: Mapping[str, _Checks]) -> dg.AssetChecksDefinition:
    """One step for the checks of these assets, named after the first."""
    every = {
        dg.AssetCheckKey(dg.AssetKey(asset), name): check for asset in checks for name, check in checks[asset].items()
    }
    specs = [dg.AssetCheckSpec(key.name, asset=key.asset_key, description=text) for key, (_, text) in every.items()]

    @dg.multi_asset_check(name=f"{next(iter(checks))}_checks", specs=specs, can_subset=True)
    def step(context: dg.AssetCheckExecutionContext, pipeline: PipelineResource) -> Iterator[dg.AssetCheckResult]:
        work: LogChecks | None = None
        for key, (judge, _) in every.items():
            if key not in context.selected_asset_check_keys:
                continue
            try:
                work = work or _work(pipeline)
                verdict = judge(work)
            except V6Error as error:
                verdict = Verdict(passed=False, reason=f"cannot tell: {error}")
            yield dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=verdict.passed,
                severity=dg.AssetCheckSeverity.ERROR if verdict.serious else dg.AssetCheckSeverity.WARN,
                description=verdict.reason,
                metadata=dict(verdict.numbers),
            )

    return step


def _work(pipeline: PipelineResource) -> LogChecks:
    return LogChecks(pipeline.settings(), pipeline.database(), pipeline.lake(), pipeline.calendar(), pipeline.now())
