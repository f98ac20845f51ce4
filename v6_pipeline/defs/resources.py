"""Resources: settings, state database, lake, calendar and clock of runs and ticks.

The state database is opened once per process: a sensor ticks every ten seconds, and opening the database costs more
than the tick. https://docs.dagster.io/guides/build/external-resources
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache

import dagster as dg

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import V6Error
from v6_pipeline.history.context import HistoryContext
from v6_pipeline.lake.lake import Lake
from v6_pipeline.settings import Settings, load_settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import utc_now


class PipelineResource(dg.ConfigurableResource[None]):
    """The resource that all definitions use. Tests override ``settings`` and ``now``."""

    def settings(self) -> Settings:
        """Load the settings: a change of ``v6.toml`` takes effect with the next tick or run.

        Raises:
            SettingsError: a setting is wrong; the message names it in one line.
        """
        return load_settings()

    def now(self) -> datetime:
        """Return the time (UTC), by the state database's clock if it can be used."""
        try:
            return self.database().now() if _newest is None else _newest.now()
        except V6Error:  # whatever needs the database reports it
            return utc_now()

    def database(self) -> StateDatabase:
        """Return the process's state database.

        Raises:
            StateError: it cannot be used.
        """
        settings = self.settings()
        return _database(settings.state_database_url, settings.safe_state_url)

    def lake(self) -> Lake:
        """Return a new lake, because its tables are not thread-safe."""
        return Lake.from_settings(self.settings())

    def history(self, run_id: str, say: Callable[[str], None]) -> HistoryContext:
        """Return the context of one run or tick; ``say`` writes a line to the run's log."""
        return HistoryContext(
            settings=self.settings(),
            database=self.database(),
            lake=self.lake(),
            calendar=self.calendar(),
            run_id=run_id,
            now=self.now,
            say=say,
        )

    def calendar(self) -> TradingCalendar:
        """Return the trading calendar in the settings' time zone."""
        return TradingCalendar(self.settings().timezone)


@lru_cache(maxsize=8)
def _database(url: str, name: str) -> StateDatabase:
    global _newest  # noqa: PLW0603  (a clock must not load the settings at each look)
    _newest = StateDatabase.open(url, name_for_messages=name)
    return _newest


_newest: StateDatabase | None = None
