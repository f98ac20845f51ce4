"""Fetch and read the Flex statements of trading days, and write each day's statement and rows.

Positions and activity are written before the statement that counts them: ``day_positions`` compares the count, so that
it refuses a day whose run was killed in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from v6_pipeline.errors import FlexServiceError
from v6_pipeline.flex.archive import fetch_range
from v6_pipeline.flex.files import FlexFiles
from v6_pipeline.flex.model import FlexStatement
from v6_pipeline.flex.needs import explain
from v6_pipeline.flex.rows import FlexDay, flex_activity_rows, flex_position_rows, flex_statement_rows
from v6_pipeline.flex.service import NOT_AVAILABLE
from v6_pipeline.history.context import Absent, Failed, HistoryContext, Made, Outcome
from v6_pipeline.history.inputs import LakeDays
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.tables import FLEX_ACTIVITY, FLEX_POSITIONS, FLEX_STATEMENTS
from v6_pipeline.model import UpdateSource

LATEST_AFTER_END = timedelta(hours=3)
"""After the end of a day (04:00 New York), within which IB's statement of it may be incomplete."""
FLEX_TABLES = (FLEX_POSITIONS, FLEX_ACTIVITY, FLEX_STATEMENTS)
"""In the order in which the tables of a day are written."""
_SOURCE = UpdateSource.FLEX.value


def flex_days(context: HistoryContext, days: Sequence[date], *, refetch: bool = False) -> Iterator[Outcome]:
    """Write the Flex statements of trading days to their three tables, the oldest day first.

    A statement older than the one that the lake has of its account and day is skipped. ``refetch`` requests days from
    the Flex Web Service that the folders cover already.

    Raises:
        FlexError: a folder is missing, or a file changed while it was read.
        LakeError: a table is damaged, not writable or unreachable.
        StateError: the state database cannot be used.
    """
    fetched = _fetch(context, days, refetch=refetch)
    files = FlexFiles(flex_folders(context), context.calendar, context.settings.ib_accounts)
    if again := _unreadable_fetched(context, files, days, fetched):
        context.say(f"fetching {len(again)} days again whose fetched statement cannot be read")
        fetched.add(_fetch(context, again, refetch=True))
        files = FlexFiles(flex_folders(context), context.calendar, context.settings.ib_accounts)
    index = files.index()
    for line in (*index.notes, *index.unreadable):
        context.say(line)
    held = LakeDays(context.lake, context.calendar)
    not_in_query: set[str] = set()
    for day, statements in files.statements(days):
        not_in_query.update(code for statement in statements for code in statement.not_in_query)
        newer = _newer(held.table(FLEX_STATEMENTS).rows(day), statements)
        if newer:
            yield from _write(context, day, newer, origins=index.origins(day))
        else:
            context.say(f"{day}: the lake has a newer statement than the folders")
            yield from _unchanged(held, day)
    if lacking := explain(not_in_query):
        context.say(lacking)
    refused = {day: index.refused[day] for day in sorted(days) if day in index.refused}
    for day, ones in refused.items():
        yield Failed(spec=FLEX_STATEMENTS, days=(day,), reason="; ".join(one.reason for one in ones[:3]))
    missing = [day for day in sorted(days) if day not in index.days and day not in refused]
    absent = _absent(context, days, missing, {*index.days, *held.table(FLEX_STATEMENTS).days}, fetched)
    for reason, of in absent.items():
        yield from (Absent(spec=spec, days=of, reason=reason) for spec in FLEX_TABLES)
    if left := tuple(day for day in missing if not any(day in of for of in absent.values())):
        reason = _why_missing(context, left[0], [*fetched.problems, *index.unreadable])
        yield Failed(spec=FLEX_STATEMENTS, days=left, reason=reason)


def _absent(
    context: HistoryContext, days: Sequence[date], missing: Sequence[date], covered: set[date], fetched: _Fetched
) -> dict[str, tuple[date, ...]]:
    """Return missing days whose statement cannot exist, by the reason; they are no failure.

    These are days before the first one of which there is a statement, if IB refuses them as well, and days whose
    statement is still to come, if other days are made.
    """
    found: dict[str, tuple[date, ...]] = {}
    begins = min(covered, default=date.min)
    if before := tuple(day for day in missing if day in fetched.refused and day < begins):
        found[
            f"the Flex Web Service has no statement of {before[0]} to {before[-1]} (error {NOT_AVAILABLE}); the first "
            f"one is of {begins}: the account was opened later"
        ] = before
    comes = tuple(day for day in missing if _is_to_come(context, day))
    if comes and any(day not in comes for day in days) and _has_source(context):
        found[f"no Flex statement of {comes[0]} yet: IB makes it after the day's end, by about 05:00 New York time"] = (
            comes
        )
    return found


def _is_to_come(context: HistoryContext, day: date) -> bool:
    return context.calendar.ends_at(day) + LATEST_AFTER_END > context.now()


def _has_source(context: HistoryContext) -> bool:
    return context.settings.flex_dir is not None or context.settings.flex_token is not None


def flex_folders(context: HistoryContext) -> list[Path]:
    """Return the folders of statements: the user's, and that of fetched ones."""
    dropped, fetched = context.settings.flex_dir, context.settings.flex_archive
    return [folder for folder in (dropped, fetched) if folder is not None and (folder == dropped or folder.is_dir())]


@dataclass(slots=True)
class _Fetched:
    """Result of fetching: new files, a line per problem, and the days that the service does not have."""

    files: set[Path] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    refused: set[date] = field(default_factory=set)

    def add(self, other: _Fetched) -> None:
        self.files |= other.files
        self.problems += other.problems
        self.refused |= other.refused


def _fetch(context: HistoryContext, days: Sequence[date], *, refetch: bool) -> _Fetched:
    """Fetch days that the user's folder does not have."""
    fetched = _Fetched()
    settings = context.settings
    # IB makes a day's statement after its end.
    over = [day for day in sorted(days) if context.calendar.ends_at(day) <= context.now()]
    if settings.flex_token is None or not over:
        return fetched
    dropped = [] if settings.flex_dir is None else [settings.flex_dir]
    covered = [] if refetch else FlexFiles(dropped, context.calendar, settings.ib_accounts).days()
    # Apart, because a statement that is not ready would fail the request for all days.
    for ones in (
        [day for day in over if not _is_to_come(context, day)],
        [day for day in over if _is_to_come(context, day)],
    ):
        if ones:
            _fetch_range(context, ones, covered, fetched, refetch=refetch)
    return fetched


def _fetch_range(
    context: HistoryContext, days: Sequence[date], covered: Collection[date], fetched: _Fetched, *, refetch: bool
) -> None:
    others = set(context.calendar.sessions_between(days[0], days[-1])) - set(days)
    try:
        done = fetch_range(
            context.settings,
            context.database,
            days[0],
            days[-1],
            covered={*covered, *others},
            refetch=refetch,
            utcnow=context.now,
        )
    except FlexServiceError as error:
        context.say(str(error))
        fetched.problems.append(str(error))
        return
    for first, last in done.asked:
        context.say(f"fetched Flex statements of {first} to {last}")
    fetched.files.update(done.files)
    fetched.refused.update(done.refused)
    fetched.problems += [line for line in (done.refusal, done.shortfall) if line]


def _unreadable_fetched(
    context: HistoryContext, files: FlexFiles, days: Sequence[date], fetched: _Fetched
) -> list[date]:
    """Return the days whose statement the archive has and cannot read: the query may have been corrected since."""
    if context.settings.flex_token is None:
        return []
    archive = context.settings.flex_archive.resolve()
    refused = files.index().refused
    return [
        day
        for day in sorted(days)
        if any(
            one.file.parent == archive and one.file.name not in {file.name for file in fetched.files}
            for one in refused.get(day, ())
        )
    ]


def _newer(stored: pl.DataFrame, statements: Sequence[FlexStatement]) -> list[FlexStatement]:
    known = dict(stored.select("account", "timestamp").iter_rows())
    return [item for item in statements if item.account not in known or item.generated_at >= known[item.account]]


def _write(
    context: HistoryContext, day: date, statements: Sequence[FlexStatement], *, origins: dict[str, str]
) -> Iterator[Made]:
    of = FlexDay(day=day, calendar=context.calendar, run_id=context.run_id, ingested_at=context.now())
    groups = [(day, statement.account) for statement in statements]
    frames = {
        FLEX_POSITIONS: flex_position_rows(statements, of),
        FLEX_ACTIVITY: flex_activity_rows(statements, of),
        FLEX_STATEMENTS: flex_statement_rows(statements, of, origins=origins),
    }
    for spec in FLEX_TABLES:
        made = context.write(context.lake.table(spec), day, frames[spec], source=_SOURCE, groups=groups)
        yield replace(made, numbers=_numbers(spec, frames[spec]))


def _numbers(spec: TableSpec, frame: pl.DataFrame) -> dict[str, int | float | str | None]:
    numbers: dict[str, int | float | str | None] = {"accounts": frame.get_column("account").n_unique()}
    if spec is FLEX_STATEMENTS:
        origins = sorted(set(frame.get_column("origin")))
        newest = max(frame.get_column("timestamp").to_list())
        not_in_query = explain(frame.get_column("not_in_query").explode().drop_nulls())
        numbers |= {"files": ", ".join(origins[:5]), "generated_at": f"{newest:%Y-%m-%d %H:%M:%S} UTC"}
        return {**numbers, "not_in_query": not_in_query}
    if spec is FLEX_POSITIONS and frame.height:
        value = (frame.get_column("market_value") * frame.get_column("fx_rate_to_base")).sum()
        return {**numbers, "market_value": round(float(value), 2)}
    return numbers


def _unchanged(held: LakeDays, day: date) -> Iterator[Made]:
    for spec in FLEX_TABLES:
        table = held.table(spec)
        yield Made(spec=spec, day=day, version=table.version, rows=table.rows(day).height, changed=False)


def _why_missing(context: HistoryContext, day: date, problems: Sequence[str]) -> str:
    settings = context.settings
    if problems:
        return f"no Flex statement covers {day}: {'; '.join(problems[:3])}"
    if context.calendar.ends_at(day) > context.now():
        return f"no Flex statement covers {day} yet: IB makes it after the day's end"
    looked = [str(folder) for folder in flex_folders(context)]
    if settings.flex_token is not None:
        return f"no Flex statement covers {day}: neither {' nor '.join(looked)} has one, nor the Flex Web Service"
    if settings.flex_dir is None:
        return (
            f"no Flex statement covers {day}, and no source of them is set: set V6_FLEX_DIR to a folder of statements, "
            "or V6_FLEX_TOKEN and V6_FLEX_QUERY_ID for the Flex Web Service"
        )
    return f"no Flex statement covers {day}: drop one into {looked[0]}, or set V6_FLEX_TOKEN and V6_FLEX_QUERY_ID"
