"""Trace a snapshot's row to the rows that gave its parts and to their commits, and a run to the commits that it made.

Reads only: of each table the contract's rows of one day, at the version that the snapshot was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import polars as pl

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.errors import LakeError
from v6_pipeline.history.inputs import KEY, POSITION_TABLES, VERSION_COLUMNS, DayWindow
from v6_pipeline.history.trace_compare import Number, compare_part, compare_value
from v6_pipeline.history.trace_keys import GIVEN, Part, Row, RowKey, is_known, recorded_key
from v6_pipeline.history.trace_search import searched_key
from v6_pipeline.lake.columns import TIMESTAMP, TableSpec
from v6_pipeline.lake.commits import CommitLog, Writer
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitInfo
from v6_pipeline.lake.reader import PinnedRows, rows_at, scan
from v6_pipeline.lake.tables import FLEX_ACTIVITY, FLEX_POSITIONS, FLEX_STATEMENTS, POSITION_SNAPSHOTS, TABLES

SHORTEST_PREFIX = 8
"""Number of characters of a run's id that Dagster's UI and alerts show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A row that gave parts of a snapshot's row.

    Attributes:
        recorded_version: version of the table that the snapshot was made from.
        read_version: version at which the row was read now.
        row: None if it is not there.
        summed: all rows of a sum, such as the day's Flex activity; ``row`` is the first of them.
        numbers: the snapshot's numbers and the row's.
        origin: name of the Flex file that held the row.
        notes: lines for people, such as an expired version.
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
    """A row of a snapshot with its sources.

    ``value`` says how value and unrealized profit were computed, and ``value_numbers`` compares them with the same
    computation now; None and empty where a source gave both. The strategies of a position are not compared.
    """

    row: Row
    version: int
    writer: Writer
    sources: tuple[Source, ...]
    value: str | None
    value_numbers: tuple[Number, ...]

    @property
    def agrees(self) -> bool:
        """True if every source row is there and every number is that of its source."""
        numbers = (*self.value_numbers, *(number for source in self.sources for number in source.numbers))
        return all(source.row is not None for source in self.sources) and all(number.agrees for number in numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommits:
    """The commits of a run in a table, oldest first; the table's log begins at ``oldest_version``."""

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
    """Trace the rows of a contract in a day's snapshot, one per account.

    ``day`` is by default the newest whose snapshot has the contract; ``always`` is ``V6_MARKET_HOURS=always``.

    Raises:
        CalendarError: ``day`` is not a trading day.
        LakeError: there is no such row, or a table is damaged, unreachable, or newer than this code.
    """
    rows, version = _snapshot_rows(lake, calendar, conid, day, account)
    logs: dict[str, CommitLog] = {}
    return [_Tracer(lake, calendar, row, always=always, logs=logs).trace(version) for row in rows]


def commits_of_run(lake: Lake, run_id: str) -> list[RunCommits]:
    """Return the commits of a Dagster run, by table.

    ``run_id`` may be the first 8 characters or more.

    Raises:
        LakeError: no run or several runs match, or a table is damaged, unreachable, or newer than this code.
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
        raise LakeError(
            f"the ids of {len(runs)} runs begin with {run_id}: {', '.join(runs)}; give more characters of the id"
        )
    if not found:
        older = f"; older commits have expired: the logs begin with {', '.join(beginnings)}" if beginnings else ""
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
    """Say why a snapshot has no such row; ``of_day`` has account and ``ingested_at`` of its rows."""
    made = "empty" if of_day.is_empty() else f"made {max(of_day['ingested_at'].to_list()):%Y-%m-%d %H:%M:%S}Z"
    accounts = sorted(set(of_day["account"]))
    if day is not None:
        missing = f"{whose} is not in the snapshot of {day}, {made}"
        remedy = "leave --date out for the newest that has it"
    else:
        missing = f"{whose} is in no snapshot, the newest is of {newest}, {made}"
        remedy = "if 'v6 positions' lists it, the next snapshot has it"
    if account is not None and accounts and account not in accounts:
        remedy = f"that one has the accounts {', '.join(accounts)}"
    return f"{missing}: {remedy}"


@dataclass(slots=True)
class _Found:
    """A row and the parts that it gave, collected before it becomes a ``Source``."""

    key: RowKey
    pinned: PinnedRows
    rows: Sequence[Row]
    parts: list[Part] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)

    @property
    def row(self) -> Row | None:
        return self.rows[0] if self.rows else None

    def give(self, part: Part, snapshot: Row) -> None:
        """Record that the row gave a part, and compare the part's numbers."""
        self.parts.append(part)
        if self.rows:
            self.numbers += compare_part(snapshot, part, self.key.table, self.rows)


class _Tracer:
    """Join a snapshot's row with the rows that it names; each table is read once per day."""

    def __init__(
        self, lake: Lake, calendar: TradingCalendar, snapshot: Row, *, always: bool, logs: dict[str, CommitLog]
    ) -> None:
        self._lake = lake
        self._calendar = calendar
        self._snapshot = snapshot
        self._window = DayWindow.of(calendar, snapshot["date"], always=always)
        self._logs = logs
        self._read: dict[tuple[str, date], PinnedRows] = {}

    def trace(self, version: int) -> Trace:
        snapshot = self._snapshot
        table = POSITION_TABLES.get(snapshot["position_source"], FLEX_POSITIONS)
        position = self._find(RowKey(table, snapshot["timestamp"]), carried=True)
        if table is FLEX_POSITIONS and not position.rows and snapshot["position"] == 0:
            position = self._find(RowKey(FLEX_ACTIVITY, snapshot["timestamp"]))  # booked, and not held
        position.give(Part.POSITION, snapshot)
        found = [position]
        for part in GIVEN:
            key = recorded_key(snapshot, part) or self._searched_key(part, position.row)
            if key is None:
                continue
            giver = next((item for item in found if item.key == key), None)
            if giver is None:
                giver = self._find(key)
                if not giver.rows and not is_known(snapshot, part):
                    continue
                found.append(giver)
            giver.give(part, snapshot)
        value = compare_value(snapshot, position.row if Part.PRICE in position.parts else None)
        if value.given:
            position.parts.append(Part.VALUE)
            position.numbers += value.given
        return Trace(
            row=snapshot,
            version=version,
            writer=self._log(POSITION_SNAPSHOTS).writer_of(snapshot, up_to=version),
            sources=tuple(self._source(item) for item in found),
            value=value.how,
            value_numbers=tuple(value.computed),
        )

    def _find(self, key: RowKey, *, carried: bool = False) -> _Found:
        """Read the row of a key; one that is ``carried`` forward is of an earlier day."""
        snapshot, day = self._snapshot, self._snapshot["date"]
        if carried and snapshot["carried_forward"] and key.time is not None:
            day = self._calendar.trading_day(key.time)
        pinned = self._pinned(key.table, day)
        rows = pinned.rows
        if key.table is FLEX_ACTIVITY:
            of_sum = pl.col("realized_pnl").is_not_null() if key.time is None else pl.lit(value=True)
            rows = rows.filter(self._window.has_booked() & of_sum).sort("ordinal")
        elif not key.table.replaced_by:
            rows = rows.filter(pl.col("timestamp") == pl.lit(key.time, dtype=TIMESTAMP)).head(1)
        return _Found(key, pinned, rows.to_dicts())

    def _searched_key(self, part: Part, position: Row | None) -> RowKey | None:
        """Search for the row that gave a part, for a snapshot that does not name it."""
        last = self._window.until(self._snapshot["ingested_at"])
        return searched_key(self._snapshot, part, position, rows_of=self._rows_of_day, last=last)

    def _rows_of_day(self, spec: TableSpec) -> pl.DataFrame:
        return self._pinned(spec, self._snapshot["date"]).rows

    def _pinned(self, spec: TableSpec, day: date) -> PinnedRows:
        """Read the contract's rows of a table and a day, at the version that the snapshot was made from."""
        if (spec.name, day) not in self._read:
            wanted = pl.all_horizontal(pl.col(name) == self._snapshot[name] for name in KEY if spec.has(name))
            version = self._snapshot[VERSION_COLUMNS[spec.name]]
            if version is None and spec is FLEX_ACTIVITY:
                found = self._newest(spec, day, wanted)
            else:
                found = rows_at(self._lake.table(spec), version, day, wanted)
            self._read[spec.name, day] = found
        return self._read[spec.name, day]

    def _newest(self, spec: TableSpec, day: date, wanted: pl.Expr) -> PinnedRows:
        """Read the newest version, for a snapshot that is older than the column that names the version."""
        newest = self._log(spec).newest
        if newest < 0:
            note = f"there is no table {spec.name}"
            return PinnedRows(rows=pl.DataFrame(schema=spec.schema), version=None, note=note)
        note = f"the snapshot names no version of {spec.name}: read at {newest}, the newest"
        return replace(rows_at(self._lake.table(spec), newest, day, wanted), note=note)

    def _source(self, found: _Found) -> Source:
        spec, pinned, row = found.key.table, found.pinned, found.row
        notes = [] if pinned.note is None else [pinned.note]
        writer = None
        if row is None:
            notes.append(f"no row of {spec.name} gives it: the table was changed since")
        elif pinned.version is not None:
            writer = self._log(spec).writer_of(row, up_to=pinned.version)
        return Source(
            table=spec.name,
            parts=tuple(found.parts),
            recorded_version=self._snapshot[VERSION_COLUMNS[spec.name]],
            read_version=pinned.version,
            row=row,
            summed=tuple(found.rows) if spec is FLEX_ACTIVITY else (),
            numbers=tuple(found.numbers),
            writer=writer,
            origin=self._origin(spec, row),
            notes=tuple(notes),
        )

    def _origin(self, spec: TableSpec, row: Row | None) -> str | None:
        """Return the file of a Flex row's statement; None if another statement has replaced it."""
        if spec not in {FLEX_POSITIONS, FLEX_ACTIVITY} or row is None:
            return None
        log = self._log(FLEX_STATEMENTS)
        of_account = (pl.col("account") == row["account"]) & (pl.col("run_id") == row["run_id"])
        newest = log.newest if log.newest >= 0 else None
        rows = rows_at(self._lake.table(FLEX_STATEMENTS), newest, row["date"], of_account).rows
        return str(rows.get_column("origin").item(0)) if rows.height else None

    def _log(self, spec: TableSpec) -> CommitLog:
        if spec.name not in self._logs:
            self._logs[spec.name] = CommitLog(self._lake.table(spec))
        return self._logs[spec.name]
