"""Jobs that schedules, sensors and people launch by name.

https://docs.dagster.io/guides/build/jobs
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

import asyncio
from collections.abc import Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import V6Error
from v6_pipeline.ib.contract_cache import check_contracts
from v6_pipeline.lake.maintenance import Upkeep, maintain
from v6_pipeline.lake.tables import (
    ACCOUNT_VALUES,
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    PORTFOLIO_EXPOSURE,
    POSITION_SNAPSHOTS,
    QUEUED_POSITIONS,
    TABLES,
)
from v6_pipeline.lake.tables.sources import IB_ACCOUNT, IB_FLEX, STRATEGY_REGISTRY
from v6_pipeline.state.registry.assignments import RegistryEntry
from v6_pipeline.state.registry.changes import DEFAULT_PRIORITY, ChangeMode, StrategyChange
from v6_pipeline.state.registry.registry import StrategyRegistry

REFRESH_JOB = "refresh_queued_positions"
SNAPSHOT_JOB = "snapshot_positions"
FLEX_JOB = "import_flex_statements"
MAINTENANCE_JOB = "maintain_lake"
STRATEGY_JOB = "set_strategy_contracts"
MAINTENANCE_POOL = "lake_maintenance"
"""One run at a time: in an object store no lock keeps two compactions apart."""


_SNAPSHOT = (POSITION_SNAPSHOTS, PORTFOLIO_EXPOSURE)
_ASSET_JOBS = (
    (
        REFRESH_JOB,
        (QUEUED_POSITIONS, ACCOUNT_VALUES),
        "Refreshes the positions that are not streamed, and the account figures.",
    ),
    (
        SNAPSHOT_JOB,
        _SNAPSHOT,
        "Makes a trading day's snapshot from the observations until its cut-off, and the exposure.",
    ),
    (
        FLEX_JOB,
        (FLEX_STATEMENTS, FLEX_POSITIONS, FLEX_ACTIVITY, *_SNAPSHOT),
        "Imports the Flex statements of trading days, then remakes their snapshots and exposure.",
    ),
)


def asset_jobs() -> "list[dg.UnresolvedAssetJobDefinition]":
    """Return the jobs that materialize assets."""
    return [
        dg.define_asset_job(
            name, selection=dg.AssetSelection.assets(*(table.name for table in tables)), description=description
        )
        for name, tables, description in _ASSET_JOBS
    ]


def maintain_lake() -> dg.JobDefinition:
    """Return the job that keeps lake and Dagster's storage small: see ``lake.maintenance`` and ``retention``."""

    @dg.op(name="keep_up_tables", pool=MAINTENANCE_POOL)
    def keep_up_tables(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
        try:
            done = maintain(pipeline.lake(), TABLES)
        except V6Error as error:
            raise dg.Failure(str(error)) from None
        for table in done:
            context.log.info("%s", describe_upkeep(table))
        from v6_pipeline.defs.retention import location_of, prune  # imports alembic, which a start need not wait for

        location = location_of(context.run)
        days = pipeline.settings().dagster_retention_days
        if location is not None and days:
            names = [*(table.name for table in TABLES), IB_ACCOUNT, IB_FLEX, STRATEGY_REGISTRY]
            keys = [dg.AssetKey(name) for name in names]
            pruned = prune(context.instance, location=location, assets=keys, days=days, now=pipeline.now())
            context.log.info("%s", pruned)
        if failed := [table for table in done if table.failed]:
            raise dg.Failure("; ".join(table.note for table in failed))

    @dg.job(
        name=MAINTENANCE_JOB,
        description="Merges small files of every table and deletes files that no version of the last week needs; "
        "deletes logs, runs and events of Dagster that are older than V6_DAGSTER_RETENTION_DAYS.",
    )
    def job() -> None:
        keep_up_tables()

    return job


def describe_upkeep(table: Upkeep) -> str:
    """Return the maintenance of a table in one line."""
    done = (
        f"{table.table}: {table.files_merged} small files merged, {table.files_deleted} unused files deleted "
        f"({table.bytes_deleted / 2**20:.1f} MiB)"
    )
    return f"{done}; {table.note}" if table.note else done


class StrategyContracts(dg.Config):
    """Run config of ``set_strategy_contracts``."""

    strategy: str = Field(description="The strategy's name; a new one is created.")
    mode: ChangeMode = Field(
        default=ChangeMode.ADD,
        description=(
            "ADD: the named contracts come to those it has. REMOVE: they go. REPLACE: it uses them alone, all others "
            "go. END: all go, name none. The run's log says first what goes."
        ),
    )
    conids: list[int] = Field(default=[], description="Contracts, by IB's contract id.")
    selectors: list[str] = Field(
        default=[], description="Kinds of holdings, future ones included: symbol=SPX,sec_type=OPT,right=P."
    )
    account: str | None = Field(default=None, description="Only in this account; by default in any.")
    quantity: float | None = Field(
        default=None, description="Of each conid, negative for short; by default all that is held."
    )
    priority: int = Field(default=DEFAULT_PRIORITY, description="The smaller number streams first.")
    unchecked: bool = Field(default=False, description="Do not check at the gateway that new conids exist.")


def set_strategy_contracts() -> dg.JobDefinition:
    """Return the job that changes the contracts of a strategy and reports the change as an observation of the registry.

    It does what ``v6 strategies`` does: a running streamer applies the change within seconds.
    """

    @dg.op(name="change_registry")
    def change_registry(context: dg.OpExecutionContext, config: StrategyContracts, pipeline: PipelineResource) -> None:
        try:
            _change(context, config, pipeline)
        except V6Error as error:
            raise dg.Failure(str(error), allow_retries=False) from None

    @dg.job(name=STRATEGY_JOB, description="Sets, adds or removes the contracts that a strategy uses.")
    def job() -> None:
        change_registry()

    return job


def _change(context: dg.OpExecutionContext, config: StrategyContracts, pipeline: PipelineResource) -> None:
    settings, database = pipeline.settings(), pipeline.database()
    change = StrategyChange(
        strategy=config.strategy,
        mode=config.mode,
        conids=config.conids,
        selectors=config.selectors,
        account=config.account,
        quantity=config.quantity,
        priority=config.priority,
    )
    change.check()
    registry = StrategyRegistry(database, pipeline.now, timezone=settings.timezone)
    before = registry.entries(config.strategy)
    ended = change.ends(before)
    context.log.log("WARNING" if ended else "INFO", describe_end(config.strategy, change.mode, before, ended))
    if config.conids and change.mode in {ChangeMode.ADD, ChangeMode.REPLACE} and not config.unchecked:
        asyncio.run(check_contracts(settings, database, config.conids, pipeline.now))
    change.apply(registry)
    after = registry.entries(config.strategy)
    context.log.info("%s: %d entries before, %d now", config.strategy, len(before), len(after))
    context.log_event(
        dg.AssetObservation(STRATEGY_REGISTRY, metadata=_metadata(config.strategy, before, after, registry.entries()))
    )


def describe_end(
    strategy: str, mode: ChangeMode, before: Sequence[RegistryEntry], ended: Sequence[RegistryEntry]
) -> str:
    """Return what a change ends, in one line."""
    if not ended:
        return f"{mode.name} ends nothing of strategy {strategy}"
    whole = ", and with them the strategy" if len(ended) == len(before) and mode is not ChangeMode.REPLACE else ""
    return f"{mode.name} ends {len(ended)} of {len(before)} entries of strategy {strategy}{whole}: " + "; ".join(
        sorted(map(_text, ended))
    )


def _metadata(
    strategy: str,
    before: tuple[RegistryEntry, ...],
    after: tuple[RegistryEntry, ...],
    everything: tuple[RegistryEntry, ...],
) -> dict[str, Any]:
    was, now = set(map(_text, before)), set(map(_text, after))
    return {
        "strategy": strategy,
        "added": ", ".join(sorted(now - was)) or "nothing",
        "removed": ", ".join(sorted(was - now)) or "nothing",
        "entries": len(after),
        "strategies": len({entry.strategy for entry in everything}),
        "contracts": len({entry.conid for entry in everything if entry.conid is not None}),
        "selectors": sum(entry.selector is not None for entry in everything),
    }


def _text(entry: RegistryEntry) -> str:
    what = str(entry.conid) if entry.selector is None else entry.selector.text
    where = "" if entry.account is None else f" in {entry.account}"
    many = "" if entry.quantity is None else f", {entry.quantity:+g} of each"
    return f"{what}{where}{many}, priority {entry.priority}"
