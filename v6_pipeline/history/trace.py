"""Where a snapshot's numbers come from: its row, the rows behind it at the versions that were read, and their commits.

And the reverse: what a run wrote. Reads only; of each table the contract's rows of one day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import polars as pl

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import LakeError
from v6_pipeline.history import trace_compare as trace_parts
from v6_pipeline.history.inputs import KEY, DayWindow, observed_until
from v6_pipeline.history.trace_compare import Number, Part, Row
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.commits import CommitLog, Writer
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitInfo
from v6_pipeline.lake.reader import PinnedRows, rows_at, scan
from v6_pipeline.lake.tables import (
    ACCOUNT_VALUES,
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    HISTORICAL_CLOSES,
    POSITION_SNAPSHOTS,
    QUEUED_POSITIONS,
    STREAMED_POSITIONS,
    TABLES,
)
from v6_pipeline.model import PriceSource, UpdateSource

VERSION_COLUMNS: Mapping[str, str] = {
    STREAMED_POSITIONS.name: "streamed_version",
    QUEUED_POSITIONS.name: "queued_version",
    ACCOUNT_VALUES.name: "accounts_version",
    FLEX_POSITIONS.name: "flex_version",
    HISTORICAL_CLOSES.name: "closes_version",
    FLEX_ACTIVITY.name: "flex_activity_version",
}
"""Table to the column of a snapshot that holds the version that was read."""
SHORTEST_PREFIX = 8
"""Characters of a run's id that Dagster's UI and alerts show."""
_OWN = {UpdateSource.STREAM.value: STREAMED_POSITIONS, UpdateSource.QUEUE.value: QUEUED_POSITIONS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A row that parts of a snapshot's row came from.

    Attributes:
        table: where the row is.
        parts: what it gave.
        recorded_version: version that the snapshot was made from.
        read_version: version that the row was read at now.
        row: the row; None if it is not there.
        summed: the rows that a number is the sum of, where it is that; ``row`` is the first of them.
        numbers: the snapshot's beside the row's.
        writer: the commit that wrote the row.
        origin: name of the Flex file that held it.
        notes: what to know.
    """

    table: str
    parts: tuple[Part, ...]
    recorded_version: int | None
    read_version: int | None
    row: Row | None
    summed: tuple[Row, ...] = ()
    numbers: tuple[Number, ...] = ()
    writer: Writer | None = None
    origin: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A row of a snapshot with everything behind it.

    ``value`` says how value and unrealized profit were computed, and ``value_numbers`` whether they come to the same;
    None and empty where a source gave both. Which strategies a position served is not compared.
    """

    row: Row
    version: int
    writer: Writer
    sources: tuple[Source, ...]
    value: str | None
    value_numbers: tuple[Number, ...]

    @property
    def agrees(self) -> bool:
        """Whether every source row is there and every number is that of its source."""
        told = (*self.value_numbers, *(number for source in self.sources for number in source.numbers))
        return all(source.row is not None for source in self.sources) and all(number.agrees for number in told)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommits:
    """The commits that a run made in a table, oldest first, and how far back its log still goes."""

    run_id: str
    table: str
    commits: tuple[CommitInfo, ...]
    oldest_version: int


def trace(
    lake: Lake,
    calendar: TradingCalendar,
    conid: int,
    *,
    day: date | None = None,
    account: str | None = None,
    always: bool = False,
) -> list[Trace]:
    """Trace the rows of a contract in a day's snapshot.

    Args:
        lake: the lake.
        calendar: tells the trading day of an older observation.
        conid: the contract.
        day: the trading day; by default the newest whose snapshot has the contract.
        account: this one only.
        always: whether the market never closes, by the settings.

    Raises:
        CalendarError: ``day`` is no trading day.
        LakeError: there is no such row, or a table is damaged, unreachable, or newer than this code.
    """
    rows, version = _snapshot_rows(lake, calendar, conid, day, account)
    tracer = _Tracer(lake, calendar, always=always)
    return [tracer.trace(row, version) for row in rows]


def commits_of_run(lake: Lake, run_id: str) -> list[RunCommits]:
    """The commits that a Dagster run made, by table; tables that no run writes are not looked at.

    Args:
        lake: the lake.
        run_id: the run's id, or what it begins with: 8 characters or more.

    Raises:
        LakeError: no commit names the run, or those of several runs do, or a table is damaged, unreachable, or newer
            than this code.
    """
    found: list[RunCommits] = []
    beginnings: list[str] = []
    for spec in TABLES:
        log = CommitLog(lake.table(spec)) if spec.has("run_id") else None
        if log is None or log.newest < 0:
            continue
        if log.oldest > 0:
            beginnings.append(f"{spec.name} at version {log.oldest}")
        commits = log.of_run(run_id, prefix=len(run_id) >= SHORTEST_PREFIX)
        for whole, group in _by_run(commits).items():
            found.append(RunCommits(run_id=whole, table=spec.name, commits=tuple(group), oldest_version=log.oldest))
    exact = [item for item in found if item.run_id == run_id]
    runs = sorted({item.run_id for item in found})
    if len(runs) > 1 and not exact:
        raise LakeError(f"the ids of {len(runs)} runs begin with {run_id}: {', '.join(runs)}; give more of the one")
    if not found:
        older = f"; what is older cannot be told: the logs begin with {', '.join(beginnings)}" if beginnings else ""
        raise LakeError(
            f"no commit of the lake names run {run_id}: it wrote nothing, or it is no run of this lake{older}"
            + ("" if len(run_id) >= SHORTEST_PREFIX else f"; of an id give {SHORTEST_PREFIX} characters or more")
        )
    return exact or found


def _by_run(commits: Sequence[CommitInfo]) -> dict[str, list[CommitInfo]]:
    groups: dict[str, list[CommitInfo]] = {}
    for commit in commits:
        groups.setdefault(str(commit.run_id), []).append(commit)
    return groups


def _snapshot_rows(
    lake: Lake, calendar: TradingCalendar, conid: int, day: date | None, account: str | None
) -> tuple[list[Row], int]:
    store = lake.table(POSITION_SNAPSHOTS)
    handle = store.load()
    if handle is None:
        raise LakeError("there is no table position_snapshots yet: materialize position_snapshots for a day")
    wanted = pl.col("conid") == conid
    if account is not None:
        wanted &= pl.col("account") == account
    whose = f"contract {conid}" + ("" if account is None else f" of account {account}")
    with store.faults():
        days = sorted(date.fromisoformat(partition["date"]) for partition in handle.partitions())
        if day is not None and day not in days:
            calendar.session(day)  # on a Sunday there is none to be made
            raise LakeError(
                f"there is no snapshot of {day}: {_known(days)}; materialize position_snapshots for that day"
            )
        chosen = day or scan(store, handle, None).filter(wanted).select(pl.col("date").max()).collect().item()
        if chosen is None and not days:
            raise LakeError(f"{whose} is in no snapshot: {_known(days)}")
        rows = scan(store, handle, chosen or days[-1]).filter(wanted).sort("account").collect()
        if rows.is_empty():
            of_day = scan(store, handle, chosen or days[-1]).select("account", "ingested_at").collect()
            raise LakeError(_why_not(whose, day, days[-1], account, of_day))
    return list(rows.iter_rows(named=True)), handle.version()


def _known(days: Sequence[date]) -> str:
    if not days:
        return "there is none yet"
    return f"the snapshots are of {days[0]} to {days[-1]}" if len(days) > 1 else f"there is only that of {days[0]}"


def _why_not(whose: str, day: date | None, newest: date, account: str | None, of_day: pl.DataFrame) -> str:
    """Why a snapshot has no such row: ``of_day`` is its accounts, and when its rows were made."""
    made = "empty" if of_day.is_empty() else f"made {max(of_day['ingested_at'].to_list()):%Y-%m-%d %H:%M:%S}Z"
    accounts = sorted(set(of_day["account"]))
    if day is not None:
        missing, remedy = (
            f"{whose} is not in the snapshot of {day}, {made}",
            "leave --date out for the newest that has it",
        )
    else:
        missing = f"{whose} is in no snapshot, the newest is of {newest}, {made}"
        remedy = "if 'v6 positions' lists it, the next snapshot has it"
    if account is not None and accounts and account not in accounts:
        remedy = f"that one has the accounts {', '.join(accounts)}"
    return f"{missing}: {remedy}"


@dataclass(slots=True)
class _Found:
    """A source while it is put together: parts of one row are told together."""

    spec: TableSpec
    pinned: PinnedRows
    row: Row | None
    parts: list[Part] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    summed: Sequence[Row] = ()


class _Tracer:
    def __init__(self, lake: Lake, calendar: TradingCalendar, *, always: bool) -> None:
        self._lake = lake
        self._calendar = calendar
        self._always = always
        self._logs: dict[str, CommitLog] = {}

    def trace(self, snapshot: Row, version: int) -> Trace:
        own = {spec.name: self._own(snapshot, spec, snapshot["date"]) for spec in _OWN.values()}
        found: list[_Found] = []
        position = self._position(snapshot, own)
        found.append(position)
        of_day = pl.concat([pinned.rows.select(_common()) for pinned in own.values()])
        priced = self._price(snapshot, own, of_day, position, found)
        self._others(snapshot, own, of_day, position, found)
        value = trace_parts.compare_value(snapshot, priced)
        if value.given:
            position.parts.append(Part.VALUE)
            position.numbers += value.given
        return Trace(
            row=snapshot,
            version=version,
            writer=self._log(POSITION_SNAPSHOTS).writer_of(snapshot, up_to=version),
            sources=tuple(self._source(snapshot, item) for item in found),
            value=value.how,
            value_numbers=tuple(value.computed),
        )

    def _own(self, snapshot: Row, spec: TableSpec, day: date) -> PinnedRows:
        """The contract's rows of a day in a log, without what the snapshot could not see."""
        pinned = self._rows(snapshot, spec, day, _of(snapshot))
        window = DayWindow.of(self._calendar, day, always=self._always)
        seen = observed_until(pinned.rows.lazy(), window.until(snapshot["ingested_at"])).collect()
        return replace(pinned, rows=seen)

    def _position(self, snapshot: Row, own: Mapping[str, PinnedRows]) -> _Found:
        spec = _OWN.get(snapshot["position_source"], FLEX_POSITIONS)
        if spec is FLEX_POSITIONS:
            pinned = self._rows(snapshot, spec, snapshot["date"], _of(snapshot))
        elif snapshot["carried_forward"]:
            at = pl.col("timestamp") == snapshot["timestamp"]
            day = self._calendar.trading_day(snapshot["timestamp"])
            pinned = self._rows(snapshot, spec, day, _of(snapshot) & at)
        else:
            pinned = own[spec.name]
            pinned = replace(pinned, rows=pinned.rows.filter(pl.col("timestamp") == snapshot["timestamp"]))
        row = pinned.rows.row(0, named=True) if pinned.rows.height else None
        numbers = [] if row is None else trace_parts.compare(snapshot, row, trace_parts.POSITION)
        return _Found(spec, pinned, row, [Part.POSITION], numbers)

    def _price(
        self,
        snapshot: Row,
        own: Mapping[str, PinnedRows],
        of_day: pl.DataFrame,
        position: _Found,
        found: list[_Found],
    ) -> Row | None:
        """Adds what gave the price; returns the row if it gave the position as well."""
        if snapshot["market_price"] is None:
            return None
        if snapshot["price_source"] == PriceSource.HISTORICAL_CLOSE.value:
            pinned = self._rows(snapshot, HISTORICAL_CLOSES, snapshot["date"], pl.col("conid") == snapshot["conid"])
            row = pinned.rows.row(0, named=True) if pinned.rows.height else None
            numbers = [] if row is None else trace_parts.compare_close(snapshot, row)
            found.append(_Found(HISTORICAL_CLOSES, pinned, row, [Part.PRICE], numbers))
            return None
        if snapshot["price_source"] == PriceSource.FLEX.value:
            position.parts.append(Part.PRICE)
            if position.row is not None:
                position.numbers += trace_parts.compare(snapshot, position.row, trace_parts.PRICE)
            return position.row
        own_row = trace_parts.priced_row(snapshot, of_day)
        given = _give(snapshot, own, found, Part.PRICE, own_row, trace_parts.PRICE)
        return position.row if given is position else None

    def _others(
        self,
        snapshot: Row,
        own: Mapping[str, PinnedRows],
        of_day: pl.DataFrame,
        position: _Found,
        found: list[_Found],
    ) -> None:
        """Adds what gave exchange rate, quote, greeks and realized profit."""
        self._rate(snapshot, own, of_day, position, found)
        for part in (Part.QUOTE, Part.GREEKS):
            row, names = trace_parts.quoted_row(snapshot, of_day, part)
            if any(snapshot[name] is not None for name in names):
                given = _give(snapshot, own, found, part, row, names)
                if part is Part.GREEKS and given.row is not None:
                    given.numbers += trace_parts.compare_greeks_time(snapshot, given.row)
        if position.spec is FLEX_POSITIONS:
            self._booked(snapshot, found)
            return
        row = trace_parts.realized_row(snapshot, of_day)
        if row is not None:
            _give(snapshot, own, found, Part.REALIZED, row, ("realized_pnl",))

    def _booked(self, snapshot: Row, found: list[_Found]) -> None:
        """Adds the activity of the statement that realized a Flex position's profit."""
        window = DayWindow.of(self._calendar, snapshot["date"], always=self._always)
        wanted = _of(snapshot) & window.has_booked() & pl.col("realized_pnl").is_not_null()
        pinned = self._rows(snapshot, FLEX_ACTIVITY, snapshot["date"], wanted)
        if pinned.version is None and pinned.note is None and snapshot["realized_pnl"] is not None:
            pinned = self._newest_rows(FLEX_ACTIVITY, snapshot["date"], wanted)
        rows = pinned.rows.sort("ordinal").to_dicts()
        if rows or snapshot["realized_pnl"] is not None:
            numbers = [trace_parts.compare_realized(snapshot, rows)] if rows else []
            row = rows[0] if rows else None
            found.append(_Found(FLEX_ACTIVITY, pinned, row, [Part.REALIZED], numbers, rows))

    def _rate(
        self,
        snapshot: Row,
        own: Mapping[str, PinnedRows],
        of_day: pl.DataFrame,
        position: _Found,
        found: list[_Found],
    ) -> None:
        if snapshot["fx_rate_to_base"] is None:
            return
        of_flex = position.spec is FLEX_POSITIONS and position.row is not None
        if of_flex and position.row is not None and position.row["fx_rate_to_base"] is not None:
            position.parts.append(Part.RATE)
            position.numbers += trace_parts.compare(snapshot, position.row, ("fx_rate_to_base",))
            return
        if of_flex and snapshot["currency"] == snapshot["base_currency"]:
            return  # 1 by definition: no row gave it
        row = trace_parts.rated_row(snapshot, of_day)
        if row is not None:
            _give(snapshot, own, found, Part.RATE, row, trace_parts.RATE)
            return
        pinned = self._rows(snapshot, ACCOUNT_VALUES, snapshot["date"], pl.col("account") == snapshot["account"])
        last = DayWindow.of(self._calendar, snapshot["date"], always=self._always).until(snapshot["ingested_at"])
        values = pinned.rows.filter(pl.col("timestamp") <= last).sort("timestamp", descending=True)
        told = values.row(0, named=True) if values.height else None
        numbers = [] if told is None else trace_parts.compare_rate(snapshot, told)
        found.append(_Found(ACCOUNT_VALUES, pinned, told, [Part.RATE], numbers))

    def _rows(self, snapshot: Row, spec: TableSpec, day: date, wanted: pl.Expr) -> PinnedRows:
        return rows_at(self._lake.table(spec), snapshot[VERSION_COLUMNS[spec.name]], day, wanted)

    def _newest_rows(self, spec: TableSpec, day: date, wanted: pl.Expr) -> PinnedRows:
        """For a snapshot that is older than the column that names the version."""
        newest = self._log(spec).newest
        if newest < 0:
            note = f"there is no table {spec.name}"
            return PinnedRows(rows=pl.DataFrame(schema=spec.schema), version=None, note=note)
        note = f"the snapshot names no version of {spec.name}: read at {newest}, the newest"
        return replace(rows_at(self._lake.table(spec), newest, day, wanted), note=note)

    def _source(self, snapshot: Row, found: _Found) -> Source:
        notes = [] if found.pinned.note is None else [found.pinned.note]
        writer = None
        if found.row is None:
            notes.append(f"no row of {found.spec.name} gives it: the table was changed since")
        elif found.pinned.version is not None:
            writer = self._log(found.spec).writer_of(found.row, up_to=found.pinned.version)
        return Source(
            table=found.spec.name,
            parts=tuple(found.parts),
            recorded_version=snapshot[VERSION_COLUMNS[found.spec.name]],
            read_version=found.pinned.version,
            row=found.row,
            summed=tuple(found.summed),
            numbers=tuple(found.numbers),
            writer=writer,
            origin=self._origin(found),
            notes=tuple(notes),
        )

    def _origin(self, found: _Found) -> str | None:
        """The file that held the statement of a row of Flex; None if another statement has replaced it."""
        if found.spec not in {FLEX_POSITIONS, FLEX_ACTIVITY} or found.row is None:
            return None
        log = self._log(FLEX_STATEMENTS)
        of_account = (pl.col("account") == found.row["account"]) & (pl.col("run_id") == found.row["run_id"])
        newest = log.newest if log.newest >= 0 else None
        rows = rows_at(self._lake.table(FLEX_STATEMENTS), newest, found.row["date"], of_account).rows
        return str(rows.get_column("origin").item(0)) if rows.height else None

    def _log(self, spec: TableSpec) -> CommitLog:
        if spec.name not in self._logs:
            self._logs[spec.name] = CommitLog(self._lake.table(spec))
        return self._logs[spec.name]


def _give(
    snapshot: Row,
    own: Mapping[str, PinnedRows],
    found: list[_Found],
    part: Part,
    row: Row | None,
    names: Sequence[str],
) -> _Found:
    """Notes that an own row gave a part, together with what else it gave; the whole row is looked up in its table."""
    source = UpdateSource.STREAM.value if row is None else row["source"]
    spec = _OWN[source]
    given = None
    if row is not None:
        given = next(
            (item for item in found if item.spec is spec and item.row and trace_parts.is_same(item.row, row)), None
        )
    if given is None:
        pinned = own[spec.name]
        whole = None
        if row is not None:
            whole = pinned.rows.filter(pl.col("timestamp") == row["timestamp"]).row(0, named=True)
        given = _Found(spec, pinned, whole, [])
        found.append(given)
    given.parts.append(part)
    if given.row is not None:
        given.numbers += trace_parts.compare(snapshot, given.row, names)
    return given


def _of(snapshot: Row) -> pl.Expr:
    return pl.all_horizontal(pl.col(name) == snapshot[name] for name in KEY)


def _common() -> list[str]:
    """Columns that both logs have."""
    return [name for name in STREAMED_POSITIONS.column_names if QUEUED_POSITIONS.has(name)]
