"""Fetch and read the Flex statements of trading days, and write each day's statement and rows.

Positions and activity are written before the statement that counts them: ``day_positions`` compares the count, so that
it refuses a day whose run was killed in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl

from v6_pipeline.errors import FlexServiceError
from v6_pipeline.flex.archive import fetch_range
from v6_pipeline.flex.files import FlexFiles
from v6_pipeline.flex.model import FlexStatement
from v6_pipeline.flex.rows import FlexDay, flex_activity_rows, flex_position_rows, flex_statement_rows
from v6_pipeline.history.context import Failed, HistoryContext, Made, Outcome
from v6_pipeline.history.inputs import LakeDays
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.tables import FLEX_ACTIVITY, FLEX_POSITIONS, FLEX_STATEMENTS
from v6_pipeline.model import UpdateSource

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
    problems = _fetch(context, days, refetch=refetch)
    files = FlexFiles(flex_folders(context), context.calendar, context.settings.ib_accounts)
    index = files.index()
    for line in (*index.notes, *index.unreadable):
        context.say(line)
    held = LakeDays(context.lake, context.calendar)
    for day, statements in files.statements(days):
        newer = _newer(held.table(FLEX_STATEMENTS).rows(day), statements)
        if newer:
            yield from _write(context, day, newer, origins=index.origins(day))
        else:
            context.say(f"{day}: the lake has a newer statement than the folders")
            yield from _unchanged(held, day)
    refused = {day: index.refused[day] for day in sorted(days) if day in index.refused}
    for day, ones in refused.items():
        yield Failed(spec=FLEX_STATEMENTS, days=(day,), reason="; ".join(one.reason for one in ones[:3]))
    if missing := tuple(day for day in sorted(days) if day not in index.days and day not in refused):
        reason = _why_missing(context, missing[0], [*problems, *index.unreadable])
        yield Failed(spec=FLEX_STATEMENTS, days=missing, reason=reason)


def flex_folders(context: HistoryContext) -> list[Path]:
    """Return the folders of statements: the user's, and that of fetched ones."""
    dropped, fetched = context.settings.flex_dir, context.settings.flex_archive
    return [folder for folder in (dropped, fetched) if folder is not None and (folder == dropped or folder.is_dir())]


def _fetch(context: HistoryContext, days: Sequence[date], *, refetch: bool) -> list[str]:
    """Fetch days that the user's folder does not have; return a line per problem."""
    settings = context.settings
    # IB makes a day's statement after its end.
    over = [day for day in sorted(days) if context.calendar.ends_at(day) <= context.now()]
    if settings.flex_token is None or not over:
        return []
    dropped = [] if settings.flex_dir is None else [settings.flex_dir]
    covered = [] if refetch else FlexFiles(dropped, context.calendar, settings.ib_accounts).days()
    others = set(context.calendar.sessions_between(over[0], over[-1])) - set(over)
    try:
        fetched = fetch_range(
            settings,
            context.database,
            over[0],
            over[-1],
            covered={*covered, *others},
            refetch=refetch,
            utcnow=context.now,
        )
    except FlexServiceError as error:
        context.say(str(error))
        return [str(error)]
    for first, last in fetched.asked:
        context.say(f"fetched Flex statements of {first} to {last}")
    return [] if fetched.shortfall is None else [fetched.shortfall]


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
        return {**numbers, "files": ", ".join(origins[:5]), "generated_at": f"{newest:%Y-%m-%d %H:%M:%S} UTC"}
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
