"""Resources: the pipeline's settings, state database, lake and calendar, as runs and ticks get them.

Opened lazily and kept per process: a sensor ticks every ten seconds in one code server, and opening the state database
each time would cost more than the tick. https://docs.dagster.io/guides/build/external-resources
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache

import dagster as dg

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.context import HistoryContext
from v6_pipeline.lake.lake import Lake
from v6_pipeline.settings import Settings, load_settings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import utc_now


class PipelineResource(dg.ConfigurableResource[None]):
    """What every definition here works on. Tests override ``settings`` and ``now``."""

    def settings(self) -> Settings:
        """The settings as they are now: a changed ``v6.toml`` counts from the next tick or run on.

        Raises:
            SettingsError: one line that names what is wrong.
        """
        return load_settings()

    def now(self) -> datetime:
        """UTC."""
        return utc_now()

    def database(self) -> StateDatabase:
        """The state database.

        Raises:
            StateError: it cannot be used.
        """
        settings = self.settings()
        return _database(settings.state_database_url, settings.safe_state_url)

    def lake(self) -> Lake:
        """The lake; a new object each time, since its tables are not safe for threads."""
        return Lake.from_settings(self.settings())

    def history(self, run_id: str, say: Callable[[str], None]) -> HistoryContext:
        """Settings, state database, lake, calendar and clock of one run or tick.

        Args:
            run_id: the run that rows and commits name.
            say: takes a line for the run's log.
        """
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
        """The trading calendar in the settings' time zone."""
        return TradingCalendar(self.settings().timezone)


@lru_cache(maxsize=8)
def _database(url: str, name: str) -> StateDatabase:
    return StateDatabase.open(url, name_for_messages=name)
