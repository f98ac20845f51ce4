"""The context of a run that makes days of history, and the outcome of each day."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import polars as pl

from v6_pipeline import __version__
from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.inputs import DayWindow
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.replace import Group, replace
from v6_pipeline.lake.table import DeltaTableStore
from v6_pipeline.model import ContractSpec
from v6_pipeline.settings import MarketHours, Settings
from v6_pipeline.state.account import contracts as contract_cache
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock
from v6_pipeline.state.registry.assignments import RegistryAt
from v6_pipeline.state.registry.registry import StrategyRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A trading day of a table that is up to date.

    Attributes:
        version: Delta version that holds the day; None for a day without rows of a table that does not exist yet.
        changed: False where the lake had equal content, so that no commit was made.
        numbers: figures of the day for its metadata, by name.
        dollar_delta: of exposure, by underlying, in ``currency``; empty where accounts differ in it.
        currency: the accounts' base currency.
    """

    spec: TableSpec
    day: date
    version: int | None
    rows: int
    changed: bool
    numbers: Mapping[str, int | float | str | None] = field(default_factory=dict)
    dollar_delta: Mapping[str, float] = field(default_factory=dict)
    currency: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Trading days of a table that could not be made; ``reason`` is one line with the cause and the remedy.

    ``not_covered``: no source has the positions of these days.
    """

    spec: TableSpec
    days: tuple[date, ...]
    reason: str
    not_covered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """Trading days of a table for which there is nothing to be made, which is no failure; ``reason`` is one line."""

    spec: TableSpec
    days: tuple[date, ...]
    reason: str


Outcome = Made | Failed | Absent


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryContext:
    """Settings, state, lake and clock of one run.

    Attributes:
        run_id: named in rows and commits.
        say: writes a line to the run's log.
    """

    settings: Settings
    database: StateDatabase
    lake: Lake
    calendar: TradingCalendar
    run_id: str
    now: Clock
    say: Callable[[str], None]

    def window(self, day: date) -> DayWindow:
        """Return the span of observations that count for a trading day."""
        return DayWindow.of(self.calendar, day, always=self.settings.market_hours is MarketHours.ALWAYS)

    def until(self, day: date) -> datetime:
        """Return the newest instant whose observations count for a day at this moment (UTC)."""
        return self.window(day).until(self.now())

    def write(
        self,
        store: DeltaTableStore,
        day: date,
        frame: pl.DataFrame,
        *,
        source: str,
        groups: Sequence[Group] | None = None,
        accounts: Collection[str] = (),
    ) -> Made:
        """Replace a day of a table, or ``groups`` of it; see ``lake.replace``."""
        spec = store.spec
        lineage = CommitLineage(
            asset=spec.name,
            source=source,
            code_version=__version__,
            partition=day.isoformat(),
            run_id=self.run_id,
        )
        done = replace(store, frame, groups or [(day,)], lineage, accounts=accounts)
        return Made(spec=spec, day=day, version=done.version, rows=done.rows, changed=done.changed)

    def registry_at(self, instant: datetime, *, day: date) -> RegistryAt:
        """Return the registry as it was at an instant; contracts that expired before ``day`` serve no strategy."""
        registry = StrategyRegistry(self.database, self.now, timezone=self.settings.timezone)
        return RegistryAt(registry.active_on(instant), instant, day=day)

    def known_contracts(self, *frames: pl.DataFrame) -> dict[int, ContractSpec]:
        """Return the contracts of the rows by conid; those that the contract cache does not have are left out."""
        conids = {conid for frame in frames for conid in frame.get_column("conid").unique()}
        return {conid: item.spec for conid, item in contract_cache.get(self.database, conids).items()}
