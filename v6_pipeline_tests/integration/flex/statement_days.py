"""Flex files dropped into a folder, made into the history's tables of their days, and judged by the checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.checks import days as checks
from v6_pipeline.checks.inputs import CheckInputs
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.history.context import Failed, HistoryContext, Made, Outcome
from v6_pipeline.history.make import make_history
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import HISTORY_TABLES
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase

SAMPLES = Path(__file__).parents[2] / "fixtures" / "flex" / "faults"
CALENDAR = TradingCalendar()
ACCOUNT = "U0000001"
MADE = ("flex_statements", "flex_positions", "flex_activity", "position_snapshots", "portfolio_exposure")


@dataclass
class StatementDays:
    """A home with a folder of Flex files, on the day after the newest of them."""

    context: HistoryContext
    folder: Path
    said: list[str] = field(default_factory=list)

    def drop(self, name: str, text: str | bytes) -> None:
        (self.folder / name).write_bytes(text.encode() if isinstance(text, str) else text)

    def drop_sample(self, name: str) -> None:
        self.drop(name, (SAMPLES / name).read_bytes())

    def make(self, first: date, last: date, tables: Sequence[str] = MADE) -> list[Outcome]:
        return list(make_history(self.context, tables, CALENDAR.sessions_between(first, last)))

    def made(self, first: date, last: date) -> dict[date, Made]:
        """Make days; no table of any of them may fail."""
        outcomes = self.make(first, last)
        assert [one for one in outcomes if isinstance(one, Failed)] == []
        return {one.day: one for one in outcomes if isinstance(one, Made) and one.spec.name == "flex_statements"}

    def rows(self, table: str, day: date | None = None) -> pl.DataFrame:
        [spec] = [one for one in HISTORY_TABLES if one.name == table]
        handle = self.context.lake.table(spec).load()
        frame = pl.DataFrame(schema=spec.schema) if handle is None else pl.scan_delta(handle).collect()
        return frame if day is None else frame.filter(pl.col("date") == day)

    def explained(self, day: date) -> Verdict:
        return checks.quantities_explained(CheckInputs(self.context), day)

    def pnl(self, day: date) -> dict[str, float | None]:
        """The day's profit by underlying, base currency; one that is known in part is a failure."""
        rows = self.rows("portfolio_exposure", day)
        assert rows.get_column("daily_pnl_coverage").drop_nulls().unique().to_list() in ([100.0], [])
        return dict(rows.select("underlying", "daily_pnl").iter_rows())


def statement_days(home: Path, **given: object) -> StatementDays:
    folder = home / "statements"
    folder.mkdir()
    settings = Settings.model_validate(
        {"home": home, "flex_dir": folder, "start_date": date(2026, 1, 2), "ib_accounts": (), **given}
    )
    said: list[str] = []
    context = HistoryContext(
        settings=settings,
        database=StateDatabase.open(settings.state_database_url, name_for_messages="state"),
        lake=Lake.from_settings(settings),
        calendar=CALENDAR,
        run_id="run",
        now=lambda: datetime(2026, 12, 24, 12, tzinfo=UTC),
        say=said.append,
    )
    return StatementDays(context, folder, said)
