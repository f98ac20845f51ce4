"""Read trading days at pinned versions: the rows that a day's positions, prices and snapshot are made of.

``LakeDays`` opens each table once, so that a run over a year sees one state of the lake. Own logs are thinned while
they are read: of a million rows a day, only the few per contract that can matter are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import polars as pl

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.reader import LOOKBACK_DAYS, PinnedTable
from v6_pipeline.lake.tables import (
    ACCOUNT_VALUES,
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    HISTORICAL_CLOSES,
    QUEUED_POSITIONS,
    STREAMED_POSITIONS,
    TABLES,
)
from v6_pipeline.lake.tables.positions import POSITION_SCHEMA, Part, columns_of
from v6_pipeline.model import PriceSource, UpdateSource

KEY = ("account", "conid")
QUOTE = columns_of(Part.QUOTE)
GREEKS = columns_of(Part.GREEKS)
OBSERVED_SCHEMA = pl.Schema({**POSITION_SCHEMA, "source": STREAMED_POSITIONS.schema["source"]})
"""Columns of own observations: those of a position, and the feed."""
_OF_PRICE = (*columns_of(Part.PRICE), "realized_pnl", *QUOTE, *GREEKS, "market_data_type", *columns_of(Part.RATE))
WEAK_SOURCES = (PriceSource.CLOSE.value, PriceSource.WIDE_MID.value)
"""Sources of an own price that any other price of the day beats: of a session before, or no market's."""
OWN_LOGS = (STREAMED_POSITIONS, QUEUED_POSITIONS)
POSITION_TABLES: Mapping[str, TableSpec] = {
    UpdateSource.STREAM.value: STREAMED_POSITIONS,
    UpdateSource.QUEUE.value: QUEUED_POSITIONS,
    UpdateSource.FLEX.value: FLEX_POSITIONS,
}
"""Table of positions by the ``source`` of its rows."""
VERSION_COLUMNS: Mapping[str, str] = {
    STREAMED_POSITIONS.name: "streamed_version",
    QUEUED_POSITIONS.name: "queued_version",
    ACCOUNT_VALUES.name: "accounts_version",
    FLEX_POSITIONS.name: "flex_version",
    HISTORICAL_CLOSES.name: "closes_version",
    FLEX_ACTIVITY.name: "flex_activity_version",
}
"""Table to the column of a snapshot with the Delta version that was read."""
SOURCES = (*OWN_LOGS, ACCOUNT_VALUES, FLEX_STATEMENTS)
"""Tables whose rows show that an account was observed on a day."""


@dataclass(frozen=True, slots=True)
class DayWindow:
    """A trading day, the session before it, and the span of its observations, both ends included (UTC).

    ``cut_off`` is the session's, or the day's end where the market never closes.
    """

    day: date
    previous: date
    begins_at: datetime
    cut_off: datetime

    @classmethod
    def of(cls, calendar: TradingCalendar, day: date, *, always: bool = False) -> DayWindow:
        """Return the window of a session; ``always`` is ``V6_MARKET_HOURS=always``.

        Raises:
            CalendarError: ``day`` is no session.
        """
        cut_off = calendar.ends_at(day) if always else calendar.session(day).cut_off
        return cls(day, calendar.previous_session(day), calendar.begins_at(day), cut_off)

    def until(self, now: datetime) -> datetime:
        """Return the newest instant that counts at ``now``: the cut-off, or ``now`` before it."""
        return min(now, self.cut_off)

    def has_booked(self) -> pl.Expr:
        """Select the rows of ``flex_activity`` that were booked since the session before."""
        return pl.col("activity_date").is_between(self.previous, self.day, closed="right")


@dataclass(frozen=True, slots=True, kw_only=True)
class DayInputs:
    """The rows of a trading day, up to an instant.

    Frames have the schemas of their tables; ``observed`` and ``earlier`` have ``OBSERVED_SCHEMA``.

    Attributes:
        until: newest observation (UTC).
        observed: own rows of the day, at least those that ``thin`` keeps.
        earlier: the newest own row per (account, conid) over the sessions before, closed ones included.
        activity: rows of ``flex_activity``.
        accounts: accounts with any row over the sessions before or on the day, the time after ``until`` included.
        versions: Delta versions that were read, by ``VERSION_COLUMNS``; None where there is no table yet.
    """

    window: DayWindow
    until: datetime
    observed: pl.DataFrame
    earlier: pl.DataFrame
    account_values: pl.DataFrame
    statements: pl.DataFrame
    flex_positions: pl.DataFrame
    activity: pl.DataFrame
    closes: pl.DataFrame
    accounts: frozenset[str]
    versions: Mapping[str, int | None]

    @property
    def day(self) -> date:
        """The trading day."""
        return self.window.day

    def cut(self) -> DayInputs:
        """Return the inputs without later observations; ``ingested_at`` may be later."""
        observed = observed_until(self.observed.lazy(), self.until).filter(pl.col("timestamp") >= self.window.begins_at)
        return replace(
            self,
            observed=observed.collect(),
            earlier=self.earlier.filter(pl.col("timestamp") < self.window.begins_at),
            account_values=self.account_values.filter(pl.col("timestamp") <= self.until),
            flex_positions=self.flex_positions.filter(pl.col("timestamp") <= self.until),
            activity=self.activity.filter(pl.col("activity_date") <= self.day),
            closes=self.closes.filter(pl.col("bar_time").is_null() | (pl.col("bar_time") <= self.until)),
        )

    def own_only(self) -> DayInputs:
        """Return the inputs without Flex, of the accounts that own rows cover."""
        return replace(
            self,
            statements=self.statements.clear(),
            flex_positions=self.flex_positions.clear(),
            activity=self.activity.clear(),
            accounts=frozenset(self.observed.get_column("account"))
            | frozenset(self.account_values.get_column("account")),
        )


class LakeDays:
    """Trading days of a lake, each table at the version at which it is first read; missing tables are empty.

    Read days in order: the rows of a day serve the lookback of the next ones, over ``lookback_days`` sessions.
    """

    def __init__(self, lake: Lake, calendar: TradingCalendar, *, lookback_days: int = LOOKBACK_DAYS) -> None:
        self._lake = lake
        self._calendar = calendar
        self._lookback_days = lookback_days
        self._opened: dict[str, PinnedTable] = {}
        self._newest: dict[date, pl.DataFrame] = {}
        self._accounts: dict[date, frozenset[str]] = {}

    def day(self, window: DayWindow, *, until: datetime | None = None) -> DayInputs:
        """Read a trading day; ``until`` (default: the cut-off) leaves out later observations.

        Raises:
            LakeError: a table is damaged, unreachable, or newer than this code.
        """
        day, last = window.day, window.cut_off if until is None else min(until, window.cut_off)
        before = self._sessions_before(day)
        self._forget(before)
        own = [self._own_rows(spec, day, last) for spec in OWN_LOGS]
        inputs = DayInputs(
            window=window,
            until=last,
            observed=pl.concat(own),
            earlier=self._earlier(before),
            account_values=self.table(ACCOUNT_VALUES).rows(day),
            statements=self.table(FLEX_STATEMENTS).rows(day),
            flex_positions=self.table(FLEX_POSITIONS).rows(day),
            activity=self.table(FLEX_ACTIVITY).rows(day),
            closes=self.table(HISTORICAL_CLOSES).rows(day),
            accounts=frozenset().union(*(self._accounts_of(found) for found in (*before, day))),
            versions={
                VERSION_COLUMNS[spec.name]: self.table(spec).version for spec in TABLES if spec.name in VERSION_COLUMNS
            },
        )
        return inputs.cut()

    def has(self, day: date, *specs: TableSpec) -> bool:
        """Return whether any of the tables has rows of a trading day, by their logs alone."""
        return any(day in self.table(spec).days for spec in specs)

    def table(self, spec: TableSpec) -> PinnedTable:
        """Return a table at the version at which it was first read."""
        if spec.name not in self._opened:
            self._opened[spec.name] = PinnedTable(self._lake.table(spec))
        return self._opened[spec.name]

    def _own_rows(self, spec: TableSpec, day: date, last: datetime) -> pl.DataFrame:
        return self.table(spec).rows(day, lambda rows: thin(observed_until(rows.select(OBSERVED_SCHEMA.names()), last)))

    def _sessions_before(self, day: date) -> list[date]:
        """Return the sessions before a day, the newest first; fewer where the calendar begins."""
        found: list[date] = []
        while len(found) < self._lookback_days and (found[-1] if found else day) > self._calendar.first:
            found.append(self._calendar.previous_session(found[-1] if found else day))
        return found

    def _earlier(self, before: Sequence[date]) -> pl.DataFrame:
        frames = [self._newest_rows(day) for day in before]
        frames = [frame for frame in frames if frame.height]
        if not frames:
            return pl.DataFrame(schema=OBSERVED_SCHEMA)
        # The newest day comes first: all its timestamps are newer than those of the days before.
        return pl.concat(frames).unique(subset=KEY, keep="first", maintain_order=True)

    def _newest_rows(self, day: date) -> pl.DataFrame:
        if day not in self._newest:
            of_day = pl.DataFrame(schema=OBSERVED_SCHEMA)
            for spec in OWN_LOGS:
                table = self.table(spec)
                if day in table.days:
                    of_day = pl.concat([of_day, table.newest_positions(day).select(OBSERVED_SCHEMA.names())])
            of_day = of_day.sort("timestamp", descending=True, maintain_order=True)
            self._newest[day] = of_day.unique(subset=KEY, keep="first", maintain_order=True)
        return self._newest[day]

    def _accounts_of(self, day: date) -> frozenset[str]:
        if day not in self._accounts:
            found: set[str] = set()
            for spec in SOURCES:
                table = self.table(spec)
                if day in table.days:
                    found.update(table.rows(day, lambda rows: rows.select(pl.col("account").unique()))["account"])
            self._accounts[day] = frozenset(found)
        return self._accounts[day]

    def _forget(self, before: Sequence[date]) -> None:
        for kept in (self._newest, self._accounts):
            for day in [day for day in kept if day not in before]:
                del kept[day]


def observed_until(rows: pl.LazyFrame, last: datetime) -> pl.LazyFrame:
    """Drop own rows that were observed after ``last``.

    A row with a later price, which a clock that was set back leaves, keeps its position and loses the values that came
    with the price.
    """
    late = pl.col("price_time") > last
    return rows.filter(pl.col("timestamp") <= last).with_columns(
        pl.when(late).then(None).otherwise(pl.col(name)).alias(name) for name in _OF_PRICE
    )


def thin(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Keep the own rows that can matter to a snapshot, per (account, conid) and feed.

    These are the newest row, and the newest rows with a price (by its own time), a price that is neither a close nor
    the middle of a wide quote, the lowest and the highest price, a quote, greeks, realized profit and a rate.
    """
    newest = pl.col("timestamp").max()
    priced = pl.col("market_price").is_not_null()
    strong = priced & ~pl.col("price_source").is_in(WEAK_SOURCES).fill_null(value=False)
    wanted = (
        newest.alias("_row"),
        pl.col("timestamp")
        .filter(priced & (pl.col("price_time") == pl.col("price_time").filter(priced).max()))
        .max()
        .alias("_price"),
        pl.col("timestamp")
        .filter(strong & (pl.col("price_time") == pl.col("price_time").filter(strong).max()))
        .max()
        .alias("_strong"),
        pl.col("timestamp").filter(priced).max().alias("_undated"),
        *(
            pl.col("timestamp").filter(strong & (pl.col("market_price") == end)).max().alias(f"_{name}")
            for name, end in (
                ("lowest", pl.col("market_price").filter(strong).min()),
                ("highest", pl.col("market_price").filter(strong).max()),
            )
        ),
        *(
            pl.col("timestamp").filter(has_any(names)).max().alias(f"_{names[0]}")
            for names in (QUOTE, GREEKS, ("realized_pnl",), ("fx_rate_to_base",), ("base_currency",))
        ),
    )
    key = (*KEY, "source")
    matters = rows.group_by(key).agg(wanted).unpivot(index=key, value_name="timestamp").select(*key, "timestamp")
    return rows.join(matters.drop_nulls().unique(), on=[*key, "timestamp"], how="semi")


def has_any(names: Sequence[str]) -> pl.Expr:
    """Select the rows in which any of the columns is known."""
    return pl.any_horizontal(pl.col(name).is_not_null() for name in names)
