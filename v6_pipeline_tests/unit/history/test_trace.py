"""Every number of a snapshot leads to a row that is there, and to the commit that wrote it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from v6_pipeline.errors import CalendarError, LakeError
from v6_pipeline.history.inputs import VERSION_COLUMNS
from v6_pipeline.history.trace import Source, Trace, commits_of_run, trace
from v6_pipeline.history.trace_keys import GIVEN, Part, is_known
from v6_pipeline.lake.columns import TIMESTAMP, TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.maintenance import compact
from v6_pipeline.lake.recovery.durability import added_files, log_file
from v6_pipeline.lake.replace import replace as replace_days
from v6_pipeline.lake.tables import (
    ACCOUNT_VALUES,
    FLEX_ACTIVITY,
    FLEX_POSITIONS,
    HISTORICAL_CLOSES,
    POSITION_SNAPSHOTS,
    QUEUED_POSITIONS,
    STREAMED_POSITIONS,
    TABLES,
)
from v6_pipeline.model import PositionUpdate
from v6_pipeline.settings import Settings
from v6_pipeline.streaming.writer import DeltaLakePositionWriter
from v6_pipeline_tests import traced_week as week
from v6_pipeline_tests.history_days import ACCOUNTS, CALENDAR, POSITIONS, drop, observe
from v6_pipeline_tests.unit.lake.builders import by_run, no_fsync, queued, update

ACCOUNT = ACCOUNTS[0]
RECORDED = [column.name for column in POSITION_SNAPSHOTS.columns if column.since == 3]
"""Columns that name the rows of the parts."""


@dataclass(frozen=True)
class Made:
    folder: Path
    lake: Lake
    settings: Settings


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Made once: most tests only read it, the others have a copy."""
    folder = tmp_path_factory.mktemp("week")
    return _made(folder, make=True)


@pytest.fixture
def made(template: Made, tmp_path: Path) -> Made:
    shutil.copytree(template.folder, tmp_path / "copy")
    return _made(tmp_path / "copy", make=False)


def _made(folder: Path, *, make: bool) -> Made:
    settings = Settings(home=folder / "home")
    statements = folder / "statements"
    if make:
        settings.home.mkdir()
        statements.mkdir()
        return Made(folder, week.make_week(settings, statements), settings)
    return Made(folder, Lake(settings.lake_root), settings)


def one(made: Made, conid: int, day: date | None = None) -> Trace:
    [found] = trace(made.lake, CALENDAR, conid, day=day, account=ACCOUNT)
    return found


def one_of(made: Made, row: dict[str, Any]) -> Trace:
    [found] = trace(made.lake, CALENDAR, row["conid"], day=row["date"], account=row["account"])
    return found


def source(found: Trace, part: Part) -> Source:
    [only] = [item for item in found.sources if part in item.parts]
    return only


def _write(lake: Lake, spec: TableSpec, rows: pl.DataFrame) -> None:
    lineage = CommitLineage(asset=spec.name, source="derived", code_version="0", run_id="week")
    replace_days(lake.table(spec), rows.select(spec.column_names), [(day,) for day in week.WEEK], lineage)


def _rewrite(made: Made, *changes: pl.Expr) -> None:
    """Replace the snapshots by changed ones."""
    rows = week.snapshots(made.lake).with_columns(changes)
    shutil.rmtree(made.lake.uri(POSITION_SNAPSHOTS))
    _write(made.lake, POSITION_SNAPSHOTS, rows)


def _as_version_1(made: Made, *, without: date | None = None) -> None:
    """The table of snapshots as it was before it named the version of ``flex_activity``."""
    rows = week.snapshots(made.lake).filter(pl.col("date").ne_missing(pl.lit(without, dtype=pl.Date())))
    shutil.rmtree(made.lake.uri(POSITION_SNAPSHOTS))
    columns = [column for column in POSITION_SNAPSHOTS.columns if column.since == 1]
    _write(made.lake, replace(POSITION_SNAPSHOTS, columns=tuple(columns)), rows)


def rows_of(lake: Lake, table: str, version: int) -> list[dict[str, Any]]:
    """Read a version of a table by polars alone."""
    return pl.scan_delta(DeltaTable(f"{lake.root}/{table}", version=version)).collect().to_dicts()


def is_among(row: Any, rows: list[dict[str, Any]]) -> bool:
    key = ("account", "conid", "date", "timestamp", "ingested_at")
    return any(all(row.get(name) == other.get(name) for name in key) for other in rows)


def metadata_of(lake: Lake, table: str, version: int) -> dict[str, Any]:
    """Read a commit's metadata from Delta's own history, while no process writes."""
    return next(entry for entry in DeltaTable(f"{lake.root}/{table}").history() if entry["version"] == version)


# Every row


def test_every_row_of_every_snapshot_leads_to_rows_and_commits_that_agree(template: Made) -> None:
    lake = template.lake
    rows = week.snapshots(lake).to_dicts()
    assert len(rows) == len(week.WEEK) * len(ACCOUNTS) * POSITIONS
    tables: set[str] = set()
    for row in rows:
        found = one_of(template, row)
        assert found.row == row
        assert found.agrees, found
        assert found.writer.commit is not None
        assert found.writer.commit.run_id == row["run_id"] == "week"
        given = {part for item in found.sources for part in item.parts}
        assert {Part.POSITION, Part.PRICE, Part.RATE} <= given or row["fx_rate_to_base"] is None
        for item in found.sources:
            tables.add(item.table)
            assert item.notes == ()
            assert item.row is not None
            assert item.recorded_version == item.read_version
            assert item.recorded_version is not None
            assert is_among(item.row, rows_of(lake, item.table, item.recorded_version))
            assert item.writer is not None
            assert item.writer.confirmed
            assert item.writer.commit is not None
            version = item.writer.commit.version
            assert is_among(item.row, rows_of(lake, item.table, version))
            assert not is_among(item.row, rows_of(lake, item.table, version - 1))
            metadata = metadata_of(lake, item.table, version)
            assert metadata.get("v6.run_id") == item.row.get("run_id")
            assert metadata.get("v6.epoch") == item.row.get("epoch")
    logs = (STREAMED_POSITIONS, QUEUED_POSITIONS, ACCOUNT_VALUES)
    assert tables == {spec.name for spec in (*logs, FLEX_POSITIONS, FLEX_ACTIVITY, HISTORICAL_CLOSES)}


def test_each_part_of_a_snapshot_names_the_one_row_that_gave_it(template: Made) -> None:
    named: set[tuple[Part, str]] = set()
    for row in week.snapshots(template.lake).to_dicts():
        for part, given in GIVEN.items():
            table, time = row[given.table], row[given.time]
            by_definition = part is Part.RATE and row["position_source"] == "flex" and row["currency"] == "USD"
            assert (table is not None) == is_known(row, part) or by_definition, (part, row)
            if table is None:
                assert time is None
                continue
            named.add((part, table))
            rows = rows_of(template.lake, table, row[VERSION_COLUMNS[table]])
            key = {name: row[name] for name in ("account", "conid", "date") if name in rows[0]}
            found = [other for other in rows if key.items() <= other.items() and other["timestamp"] == time]
            assert len(found) == 1 or (table, time) == (FLEX_ACTIVITY.name, None)
    assert named == {
        *(
            (Part.PRICE, spec.name)
            for spec in (STREAMED_POSITIONS, QUEUED_POSITIONS, FLEX_POSITIONS, HISTORICAL_CLOSES)
        ),
        *((Part.RATE, spec.name) for spec in (QUEUED_POSITIONS, FLEX_POSITIONS, ACCOUNT_VALUES)),
        *((part, STREAMED_POSITIONS.name) for part in (Part.QUOTE, Part.GREEKS)),
        *((Part.REALIZED, spec.name) for spec in (QUEUED_POSITIONS, FLEX_ACTIVITY)),
    }


def test_a_search_for_the_rows_of_a_snapshot_that_names_none_finds_the_same(made: Made) -> None:
    """Snapshots of table versions 1 and 2."""
    rows = week.snapshots(made.lake).to_dicts()
    joined = [one_of(made, row).sources for row in rows]
    _rewrite(made, *(pl.lit(None).alias(name) for name in RECORDED))

    assert [one_of(made, row).sources for row in rows] == joined


def test_the_row_that_a_snapshot_names_is_its_source_whichever_has_equal_numbers(made: Made) -> None:
    """The second and the third flush of a day have the same price."""
    second = datetime(2026, 11, 11, 17, 0, 3, tzinfo=UTC)
    assert one(made, 1, week.WEDNESDAY).row["price_row_time"] == second + timedelta(seconds=3)
    _rewrite(made, pl.lit(second).cast(TIMESTAMP).alias("price_row_time"))

    found = one(made, 1, week.WEDNESDAY)

    price = source(found, Part.PRICE)
    assert price.parts == (Part.PRICE,)
    assert price.row is not None
    assert price.row["timestamp"] == second
    assert found.agrees


def test_a_named_row_that_is_not_there_is_no_source(made: Made) -> None:
    _rewrite(made, pl.lit("historical_closes").alias("price_table"))

    found = one(made, 1, week.WEDNESDAY)

    assert not found.agrees
    assert source(found, Part.PRICE).notes == ("no row of historical_closes gives it: the table was changed since",)


def test_a_run_gives_back_all_of_its_commits_and_no_other(template: Made) -> None:
    for run_id in ("week", "seed", "closes", "values"):
        found = {
            item.table: [commit.version for commit in item.commits] for item in commits_of_run(template.lake, run_id)
        }
        expected = {}
        for spec in TABLES:
            if template.lake.table(spec).load() is None:
                continue
            history = DeltaTable(template.lake.uri(spec)).history()
            if versions := sorted(entry["version"] for entry in history if entry.get("v6.run_id") == run_id):
                expected[spec.name] = versions
        assert found == expected


def test_the_commits_of_a_trace_are_among_those_of_their_run(template: Made) -> None:
    for conid, day in ((1, week.MONDAY), (1, week.THURSDAY), (week.CARRIED, week.FRIDAY)):
        for item in one(template, conid, day).sources:
            assert item.row is not None
            assert item.writer is not None
            of_run = {found.table: found.commits for found in commits_of_run(template.lake, item.row["run_id"])}
            assert item.writer.commit in of_run[item.table]


# Which row


def test_position_price_quote_and_rate_of_a_streamed_day_have_their_own_sources(template: Made) -> None:
    found = one(template, week.EUROS, week.WEDNESDAY)

    # The third flush gave the position, and the same price as the second: the newest row is the source.
    assert [item.parts for item in found.sources] == [
        (Part.POSITION, Part.PRICE, Part.VALUE),
        (Part.RATE,),
        (Part.QUOTE, Part.GREEKS),
    ]
    assert [item.table for item in found.sources] == ["streamed_positions", "account_values", "streamed_positions"]
    [value] = [number for number in found.sources[0].numbers if number.name == "market_value"]
    assert (value.snapshot, value.source, value.agrees) == (550.0, 550.0, True)
    assert found.sources[0].row is not None
    assert found.sources[0].row["epoch"] == week.EPOCH
    assert found.sources[0].writer is not None
    assert found.sources[0].writer.commit is not None
    assert found.sources[0].writer.commit.gateway == week.GATEWAY
    quoted, position = source(found, Part.QUOTE), source(found, Part.POSITION)
    assert quoted.writer is not None
    assert position.writer is not None
    assert quoted.writer.commit is not None
    assert position.writer.commit is not None
    assert position.writer.commit.version - quoted.writer.commit.version == 2
    assert found.value == "computed: unrealized_pnl is value - position x average cost"
    assert [(number.source, number.agrees) for number in found.value_numbers] == [(550.0 - 10 * 40, True)]
    [rate] = [number for number in source(found, Part.RATE).numbers if number.name == "fx_rate_to_base"]
    assert (rate.snapshot, rate.source) == (1.1, 1.1)
    assert quoted.row is not None
    [greeks_time] = [number for number in quoted.numbers if number.name == "greeks_time"]
    assert (greeks_time.source, greeks_time.agrees) == (quoted.row["timestamp"], True)


def test_a_position_of_the_stream_may_have_its_price_from_the_queue(made: Made) -> None:
    async def moved() -> None:
        at = datetime(2026, 11, 12, 18, tzinfo=UTC)
        writer = DeltaLakePositionWriter(
            made.lake.table(STREAMED_POSITIONS),
            epoch=week.EPOCH + 1,
            gateway=week.GATEWAY,
            trading_day=CALENDAR.trading_day,
            clock=lambda: at,
            flush_seconds=3,
        )
        await writer.open()
        await writer.on_position_update(
            PositionUpdate(
                account=ACCOUNT, conid=1, symbol="S1", sec_type="STK", currency="USD", position=8.0, timestamp=at
            )
        )
        await writer.flush()

    asyncio.run(moved())
    week.make_days(made.settings, made.lake, [week.THURSDAY], run_id="again")

    found = one(made, 1, week.THURSDAY)

    assert found.agrees
    assert found.writer.commit is not None
    assert found.writer.commit.run_id == "again"
    assert [(item.table, item.parts) for item in found.sources] == [
        ("streamed_positions", (Part.POSITION,)),
        ("queued_positions", (Part.PRICE, Part.RATE)),
    ]
    position = source(found, Part.POSITION).writer
    assert position is not None
    assert position.commit is not None
    assert position.commit.epoch == week.EPOCH + 1
    assert found.value_numbers[0].source == 8.0 * 12


def test_a_position_carried_forward_leads_to_the_day_before_and_its_price_to_the_close(template: Made) -> None:
    found = one(template, week.CARRIED, week.FRIDAY)

    position, price = source(found, Part.POSITION), source(found, Part.PRICE)
    assert position.row is not None
    assert position.row["date"] == week.THURSDAY
    assert price.table == "historical_closes"
    assert price.row is not None
    assert price.row["close"] == found.row["market_price"] == 33.5
    assert found.value == "computed: position x price x multiplier"
    assert [(number.source, number.agrees) for number in found.value_numbers] == [(21 * 33.5, True)]


def test_a_flex_position_names_the_file_of_its_statement(template: Made) -> None:
    position = source(one(template, 1, week.MONDAY), Part.POSITION)
    assert (position.table, position.origin) == ("flex_positions", "statements.xml")


def test_the_realized_profit_of_a_flex_position_is_the_sum_of_the_days_activity(template: Made) -> None:
    found = one(template, 1, week.TUESDAY)

    realized = source(found, Part.REALIZED)
    assert realized.table == "flex_activity"
    assert realized.recorded_version == realized.read_version == found.row["flex_activity_version"] is not None
    booked = [(row["activity_date"], row["quantity"], row["realized_pnl"]) for row in realized.summed]
    assert booked == [(week.TUESDAY, -3.0, 30.1), (week.TUESDAY, -2.0, -10.2)], "what Friday booked is not of this day"
    [number] = realized.numbers
    assert (number.name, number.source, number.agrees) == ("realized_pnl", pytest.approx(19.9), True)
    assert realized.row == realized.summed[0]
    assert realized.origin == "statements.xml"
    assert realized.writer is not None
    assert realized.writer.commit is not None
    assert realized.writer.commit.partition == week.TUESDAY.isoformat()


def test_a_flex_position_without_activity_has_no_source_of_realized_profit(template: Made) -> None:
    found = one(template, week.CARRIED, week.TUESDAY)
    assert found.row["realized_pnl"] is None
    assert [item.table for item in found.sources] == ["flex_positions"]


def test_a_realized_profit_that_is_not_the_sum_of_its_activity_is_said_to_differ(made: Made) -> None:
    _rewrite(made, pl.lit(21.0).alias("realized_pnl"))

    found = one(made, 1, week.MONDAY)

    assert not found.agrees
    [number] = source(found, Part.REALIZED).numbers
    assert (number.snapshot, number.source, number.agrees) == (21.0, pytest.approx(19.9), False)


def test_a_realized_profit_that_the_snapshot_does_not_have_is_said_to_differ(made: Made) -> None:
    _rewrite(made, pl.lit(None).alias("realized_pnl"), pl.lit(None).alias("realized_table"))

    found = one(made, 1, week.MONDAY)

    assert not found.agrees
    [number] = source(found, Part.REALIZED).numbers
    assert (number.snapshot, number.source) == (None, pytest.approx(19.9))


@pytest.mark.parametrize(
    ("day", "profit", "is_given"),
    [(week.MONDAY, 40.0, True), (week.WEDNESDAY, 70.0, False), (week.THURSDAY, 7.0, True)],
    ids=["given by Flex", "computed", "given by the account feed"],
)
def test_an_unrealized_profit_that_is_not_its_sources_is_said_to_differ(
    made: Made, day: date, profit: float, is_given: bool
) -> None:
    _rewrite(made, pl.col("unrealized_pnl") + 1)

    found = one(made, 1, day)

    assert not found.agrees
    numbers = source(found, Part.POSITION).numbers if is_given else found.value_numbers
    [number] = [number for number in numbers if not number.agrees]
    assert (number.name, number.snapshot, number.source) == ("unrealized_pnl", profit + 1, profit)


def test_a_position_without_a_cost_has_no_profit_to_compare(made: Made) -> None:
    assert one(made, week.CARRIED, week.FRIDAY).row["average_cost"] is None
    _rewrite(made, pl.lit(3.0).alias("unrealized_pnl"))

    found = one(made, week.CARRIED, week.FRIDAY)

    assert not found.agrees
    [number] = [number for number in found.value_numbers if number.name == "unrealized_pnl"]
    assert (number.snapshot, number.source, number.agrees) == (3.0, None, False)


def test_a_realized_profit_without_activity_is_not_there(made: Made) -> None:
    _rewrite(made, pl.lit(21.0).alias("realized_pnl"))

    found = one(made, week.CARRIED, week.MONDAY)

    assert not found.agrees
    assert source(found, Part.REALIZED).notes == ("no row of flex_activity gives it: the table was changed since",)


def test_a_snapshot_that_names_no_version_of_the_activity_is_compared_with_the_newest(made: Made) -> None:
    """Snapshots from before the column."""
    _as_version_1(made)

    found = one(made, 1, week.MONDAY)

    assert found.agrees
    realized = source(found, Part.REALIZED)
    newest = DeltaTable(made.lake.uri(FLEX_ACTIVITY)).version()
    assert (realized.recorded_version, realized.read_version) == (None, newest)
    assert realized.notes == (f"the snapshot names no version of flex_activity: read at {newest}, the newest",)
    assert len(realized.summed) == 2


def test_a_table_of_snapshots_without_the_column_is_given_it_by_the_next_day(made: Made) -> None:
    _as_version_1(made, without=week.THURSDAY)

    week.make_days(made.settings, made.lake, [week.THURSDAY], run_id="again")

    assert one(made, 1, week.THURSDAY).row["flex_activity_version"] is not None
    assert one(made, 1, week.MONDAY).row["flex_activity_version"] is None
    assert one(made, 1, week.MONDAY).agrees


def test_without_a_day_it_is_the_newest_snapshot_that_has_the_contract(template: Made) -> None:
    assert one(template, 1).row["date"] == week.FRIDAY


def test_without_an_account_each_that_holds_it_is_traced(template: Made) -> None:
    assert [found.row["account"] for found in trace(template.lake, CALENDAR, 1)] == list(ACCOUNTS)


def test_a_compaction_does_not_hide_who_wrote_a_row(made: Made) -> None:
    before = one(made, 1, week.WEDNESDAY)
    assert compact(made.lake.table(STREAMED_POSITIONS)).version is not None
    assert one(made, 1, week.WEDNESDAY) == before


# What is not there


def test_an_unknown_contract_day_or_run_is_one_line(template: Made) -> None:
    lake = template.lake
    with pytest.raises(
        LakeError, match=rf"^contract 99 is in no snapshot, the newest is of 2026-11-13, made {week.NOW:%F %T}Z: if"
    ):
        trace(lake, CALENDAR, 99)
    with pytest.raises(LakeError, match=r"^contract 99 is not in the snapshot of 2026-11-13"):
        trace(lake, CALENDAR, 99, day=week.FRIDAY)
    with pytest.raises(LakeError, match=r"^there is no snapshot of 2026-11-16: .* 2026-11-09 to 2026-11-13"):
        trace(lake, CALENDAR, 1, day=date(2026, 11, 16))
    with pytest.raises(CalendarError, match=r"^2026-11-15 is not a trading day"):
        trace(lake, CALENDAR, 1, day=date(2026, 11, 15))
    accounts = ", ".join(ACCOUNTS)
    with pytest.raises(LakeError, match=rf"^contract 1 of account SIM9 is in no snapshot, .* accounts {accounts}$"):
        trace(lake, CALENDAR, 1, account="SIM9")
    with pytest.raises(LakeError, match=r"^no commit of the lake names run unknown: it wrote nothing"):
        commits_of_run(lake, "unknown")


def test_a_single_snapshot_is_not_reported_as_a_span(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    settings = Settings(home=tmp_path / "home")
    lake = Lake(settings.lake_root, fsync=no_fsync)
    observe(lake, [week.THURSDAY])
    week.make_days(settings, lake, [week.THURSDAY], run_id="one")

    with pytest.raises(LakeError, match=r"^there is no snapshot of 2026-11-16: there is only that of 2026-11-12;"):
        trace(lake, CALENDAR, 1, day=date(2026, 11, 16))


def test_a_run_may_be_named_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path), fsync=no_fsync)
    for run_id in ("0b3ca5b6-1", "0b3ca5b7-1", "0b3ca5b7-2", "0b3ca5b7"):
        lake.table(QUEUED_POSITIONS).append(queued([update()], run_id=run_id), by_run(run_id))

    for given, whole in (("0b3ca5b6", "0b3ca5b6-1"), ("0b3ca5b7-2", "0b3ca5b7-2"), ("0b3ca5b7", "0b3ca5b7")):
        [found] = commits_of_run(lake, given)
        assert (found.run_id, [commit.run_id for commit in found.commits]) == (whole, [whole])
    with pytest.raises(LakeError, match=r"^the ids of 2 runs begin with 0b3ca5b7-: 0b3ca5b7-1, 0b3ca5b7-2; give more"):
        commits_of_run(lake, "0b3ca5b7-")
    with pytest.raises(LakeError, match=r"names run 0b3ca5b: .*; of an id give 8 characters or more$"):
        commits_of_run(lake, "0b3ca5b")


def test_a_lake_without_snapshots_says_so(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=r"^there is no table position_snapshots yet"):
        trace(Lake(str(tmp_path)), CALENDAR, 1)


# History that no longer goes back


def _expire(made: Made, *, up_to: int) -> None:
    """Expire log files as Delta does after their retention: a checkpoint replaces them."""
    folder = Path(made.lake.uri(STREAMED_POSITIONS))
    handle = DeltaTable(str(folder))
    assert handle.version() > up_to
    handle.create_checkpoint()
    for version in range(up_to + 1):
        log_file(folder, version).unlink()


def test_an_expired_version_falls_back_to_the_newest_and_says_so(made: Made) -> None:
    recorded = one(made, 1, week.WEDNESDAY).row["streamed_version"]
    asyncio.run(week.stream(made.lake, week.THURSDAY, epoch=week.EPOCH + 1))
    _expire(made, up_to=recorded)

    found = one(made, 1, week.WEDNESDAY)

    assert found.agrees
    position = source(found, Part.POSITION)
    assert position.read_version == recorded + 4
    [note] = position.notes
    assert note.startswith(f"the history of streamed_positions no longer goes back to version {recorded}: read at ")
    assert position.writer is not None
    assert position.writer.commit is None
    assert position.writer.note is not None
    assert f"begins at version {recorded + 1} now: the commit of this row has expired" in position.writer.note


def test_vacuumed_files_fall_back_to_the_newest_and_the_commit_is_found_by_its_metadata(made: Made) -> None:
    before = source(one(made, 1, week.WEDNESDAY), Part.POSITION)
    table = made.lake.table(STREAMED_POSITIONS)
    assert compact(table).version is not None
    handle = DeltaTable(table.uri)
    assert handle.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)

    found = one(made, 1, week.WEDNESDAY)

    assert found.agrees
    after = source(found, Part.POSITION)
    assert after.row == before.row
    assert "no longer goes back to version" in after.notes[0]
    assert before.writer is not None
    assert after.writer is not None
    assert after.writer.commit == before.writer.commit
    assert (before.writer.confirmed, after.writer.confirmed) == (True, False)


def test_where_only_a_corrected_day_is_left_the_numbers_are_said_to_differ(made: Made) -> None:
    statements = made.folder / "statements"
    drop(statements / "corrected.xml", [week.MONDAY], quantity=20, made="220000")
    recorded = one(made, 1, week.MONDAY).row["flex_version"]
    settings = made.settings.model_copy(update={"flex_dir": statements})
    week.make_days(settings, made.lake, [], run_id="corrected", flex=[week.MONDAY])
    assert one(made, 1, week.MONDAY).agrees
    for path in added_files(Path(made.lake.uri(FLEX_POSITIONS)), recorded - 1):
        path.unlink()

    found = one(made, 1, week.MONDAY)

    assert not found.agrees
    position = source(found, Part.POSITION)
    assert "no longer goes back" in position.notes[0]
    [number] = [number for number in position.numbers if number.name == "position"]
    assert (number.snapshot, number.source, number.agrees) == (10.0, 20.0, False)


def test_a_log_that_lost_its_newest_versions_is_said_to_be_repaired(made: Made) -> None:
    folder = Path(made.lake.uri(QUEUED_POSITIONS))
    recorded = one(made, 1, week.FRIDAY).row["queued_version"]
    log_file(folder, recorded).unlink()

    found = one(made, 1, week.THURSDAY)
    gone = one(made, 1, week.FRIDAY)

    assert found.agrees
    assert "was restored or repaired: it ends at version" in source(found, Part.POSITION).notes[0]
    assert not gone.agrees
    assert source(gone, Part.POSITION).row is None
    assert "no row of queued_positions gives it: the table was changed since" in source(gone, Part.POSITION).notes


def test_a_damaged_table_is_an_error_that_names_the_repair(made: Made) -> None:
    folder = Path(made.lake.uri(QUEUED_POSITIONS))
    newest = DeltaTable(str(folder)).version()
    log_file(folder, newest).write_text('{"commitInfo":{"time')

    with pytest.raises(LakeError, match=r"^table queued_positions .* is damaged: .*'v6 lake repair queued_positions'"):
        one(made, 1, week.FRIDAY)
    with pytest.raises(LakeError, match=r"^table queued_positions .* is damaged"):
        commits_of_run(made.lake, "week")


def test_a_trace_writes_nothing(made: Made) -> None:
    def files() -> Iterator[tuple[Path, int]]:
        return ((path, path.stat().st_mtime_ns) for path in sorted(made.folder.rglob("*")))

    before = list(files())
    one(made, 1)
    commits_of_run(made.lake, "week")
    assert list(files()) == before
    assert POSITION_SNAPSHOTS.name in {path.name for path, _ in before}
