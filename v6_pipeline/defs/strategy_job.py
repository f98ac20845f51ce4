"""The job ``set_strategy_contracts``: which contracts a strategy uses, from the Launchpad.

What it does is what ``v6 strategies`` does: a running streamer follows within seconds.
https://docs.dagster.io/guides/operate/configuration/run-configuration
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

import asyncio
from typing import Any

import dagster as dg
from pydantic import Field

from v6_pipeline.defs.lineage import STRATEGY_REGISTRY
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import V6Error
from v6_pipeline.ib.contract_cache import check_contracts
from v6_pipeline.state.registry.edit import ChangeMode, StrategyChange, entries_of
from v6_pipeline.state.registry.registry import DEFAULT_PRIORITY, RegistryEntry, StrategyRegistry

STRATEGY_JOB = "set_strategy_contracts"


class StrategyContracts(dg.Config):
    """What a strategy is to use."""

    strategy: str = Field(description="The strategy's name; a new one is created.")
    mode: ChangeMode = Field(
        default=ChangeMode.REPLACE,
        description="REPLACE: it uses what is named and nothing else; nothing named ends it. ADD, REMOVE: as they say.",
    )
    conids: list[int] = Field(default=[], description="Contracts, by IB's contract id.")
    selectors: list[str] = Field(
        default=[], description="Kinds of holdings, those to come included: symbol=SPX,sec_type=OPT,right=P."
    )
    account: str | None = Field(default=None, description="Only in this account; in any if left out.")
    quantity: float | None = Field(
        default=None, description="Of each conid, negative for short; all that is held if left out."
    )
    priority: int = Field(default=DEFAULT_PRIORITY, description="The smaller number streams first.")
    unchecked: bool = Field(
        default=False, description="Do not ask the gateway whether conids exist that were not seen before."
    )


def set_strategy_contracts() -> dg.JobDefinition:
    """Changes what a strategy uses, and tells Dagster's ``strategy_registry`` of it."""

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
    if config.conids and change.mode is not ChangeMode.REMOVE and not config.unchecked:
        asyncio.run(check_contracts(settings, database, config.conids, pipeline.now))
    registry = StrategyRegistry(database, pipeline.now, timezone=settings.timezone)
    before = entries_of(registry, config.strategy)
    change.apply(registry)
    after = entries_of(registry, config.strategy)
    context.log.info("%s: %d entries before, %d now", config.strategy, len(before), len(after))
    context.log_event(
        dg.AssetObservation(STRATEGY_REGISTRY, metadata=_metadata(config.strategy, before, after, registry.entries()))
    )


def _metadata(
    strategy: str, before: list[RegistryEntry], after: list[RegistryEntry], everything: tuple[RegistryEntry, ...]
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
