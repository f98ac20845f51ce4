"""What making history works on, and what it tells of each trading day as it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from v6_pipeline import __version__
from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.inputs import DayWindow
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.settings import MarketHours, Settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A trading day of a table that holds now what it should.

    Attributes:
        spec: the table.
        day: the trading day.
        version: Delta version that holds the day; None for a day without rows of a table that does not exist yet.
        rows: rows of the day.
        changed: whether this made a commit; False where the content was there already.
        numbers: what is worth a look, by name.
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
    """Trading days of a table that could not be made, and the line that says why and what to do."""

    spec: TableSpec
    days: tuple[date, ...]
    reason: str


Outcome = Made | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryContext:
    """Settings, state, lake and clock of one run.

    Attributes:
        run_id: the run that the rows and commits name.
        now: the clock, UTC.
        say: takes a line for the run's log.
    """

    settings: Settings
    database: StateDatabase
    lake: Lake
    calendar: TradingCalendar
    run_id: str
    now: Clock
    say: Callable[[str], None]

    def window(self, day: date) -> DayWindow:
        """The observations that count for a trading day."""
        return DayWindow.of(self.calendar, day, always=self.settings.market_hours is MarketHours.ALWAYS)

    def lineage(self, spec: TableSpec, day: date, source: str) -> CommitLineage:
        """Of a commit that replaces a day of a table."""
        return CommitLineage(
            asset=spec.name,
            source=source,
            code_version=__version__,
            partition=day.isoformat(),
            run_id=self.run_id,
        )

    def until(self, day: date) -> datetime:
        """The last instant whose observations count for a day by now."""
        return self.window(day).until(self.now())
