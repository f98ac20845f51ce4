"""``flex_statements_sensor``: requests the partitions of files that are dropped into ``V6_FLEX_DIR``.

A tick compares names, sizes and times, and reads only new, changed and complete files, for the days they cover.
https://docs.dagster.io/guides/automate/sensors
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from itertools import accumulate
from pathlib import Path

import dagster as dg

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs.jobs import FLEX_JOB
from v6_pipeline.defs.partitions import KEY_FORMAT, RANGE_END, RANGE_START
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.errors import FlexError, V6Error
from v6_pipeline.flex.files import ChangedFiles, FileState, changed, passed_over, scan
from v6_pipeline.flex.index import IndexedFile, index_file
from v6_pipeline.flex.reader import read_statements
from v6_pipeline.settings import Settings

TICK_SECONDS = 30
BYTES_PER_TICK = 100_000_000
"""Dagster ends a tick after 60 s, and 50 MB take some seconds to read. The first file is read whatever its size."""
FILES_PER_TICK = 20
GZIP_RATIO = 20
"""Bytes of a statement for each byte of it compressed."""
LEFT_OUT = "v6/left_out"
"""Tag of a run: which days of the files and which files were left out, and the remedy."""


def flex_statements_sensor() -> dg.SensorDefinition:
    """Return the sensor that requests the partitions of the days that new Flex files cover."""

    @dg.sensor(
        name="flex_statements_sensor",
        job_name=FLEX_JOB,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Imports Flex statements that are dropped into V6_FLEX_DIR and remakes the snapshots of their days: one "
            "run per unbroken range of trading days."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
        try:
            result = tick(context.cursor, pipeline)
        except V6Error as error:
            raise dg.Failure(str(error)) from None
        if result.skip_reason:
            context.log.info("%s", result.skip_reason.skip_message)
        for request in result.run_requests or ():
            if LEFT_OUT in request.tags:
                context.log.warning("%s", request.tags[LEFT_OUT])
        return result

    return sensor


def tick(cursor: str | None, pipeline: PipelineResource) -> dg.SensorResult:
    """Request the partitions of the files that are new in the folder since ``cursor``.

    Raises:
        FlexError: the folder is missing.
    """
    settings = pipeline.settings()
    if settings.flex_dir is None:
        return dg.SensorResult(skip_reason="V6_FLEX_DIR is not set")
    known, found = _known(cursor), scan([settings.flex_dir])
    changes = changed(known, found, pipeline.now())
    new = _of_one_tick(changes.new, found)
    later = set(changes.new[len(new) :])
    after = _dump({name: state for name, state in changes.known_after(known, found).items() if name not in later})
    if not new:
        return dg.SensorResult(skip_reason=_nothing_new(settings.flex_dir, found, changes), cursor=after)
    days, unreadable = _covered(new, settings, pipeline.calendar(), pipeline.now())
    early = _before_start(days, settings.start_date)
    problems = [line for line in (*unreadable, early) if line]
    kept = [day for day in days if day >= settings.start_date]
    requests = [_request(first, last, new, problems) for first, last in _ranges(kept, pipeline.calendar())]
    if not requests:
        no_day = f"no trading day since V6_START_DATE is in {', '.join(Path(name).name for name in new)}"
        said = unreadable or [f"{no_day}: {early}" if early else no_day]
        return dg.SensorResult(skip_reason="; ".join(said)[:1000], cursor=after)
    return dg.SensorResult(run_requests=requests, cursor=after)


def _of_one_tick(names: Sequence[str], found: Mapping[str, FileState]) -> Sequence[str]:
    """Return as many of the first files as one tick can read."""
    sizes = accumulate(
        found[name].size * (GZIP_RATIO if name.lower().endswith(".gz") else 1) for name in names[:FILES_PER_TICK]
    )
    fitting = sum(size <= BYTES_PER_TICK for size in sizes)
    return names[: max(fitting, 1)]


def _before_start(days: Sequence[date], start: date) -> str | None:
    """Return a line that names the days before ``V6_START_DATE``, which have no partition."""
    early = [day for day in days if day < start]
    if not early:
        return None
    return (
        f"left out, because before V6_START_DATE ({start}): {len(early)} trading days, {early[0]} to {early[-1]}; to "
        f"have them, set start_date in v6.toml to {early[0]} or earlier, restart, and import them"
    )


def _covered(
    names: Sequence[str], settings: Settings, calendar: TradingCalendar, now: datetime
) -> tuple[list[date], list[str]]:
    """Return the trading days that files cover or add to, and why files or statements of them could not be read.

    An unreadable file is not read again until it changes; a run that materializes its days fails with the reason.
    """
    days: set[date] = set()
    unreadable: list[str] = []
    for name in names:
        try:
            found = index_file(Path(name), calendar, read_statements, settings.ib_accounts)
            days.update((*found.days, *_days_added_to(found, calendar, now)))
            unreadable += [one.reason for one in found.refused]
        except FlexError as error:
            unreadable.append(str(error))
    return sorted(days), unreadable


def _days_added_to(file: IndexedFile, calendar: TradingCalendar, now: datetime) -> set[date]:
    """Return the sessions that are over and that statements of closed days before them add to."""
    belong = {one.belongs_to for one in file.closed if one.changes and one.belongs_to is not None}
    return {day for day in belong if calendar.ends_at(day) <= now}


def _ranges(days: Sequence[date], calendar: TradingCalendar) -> list[tuple[date, date]]:
    """Return the first and last day of each unbroken range of trading days."""
    ranges: list[tuple[date, date]] = []
    for day in days:
        if ranges and calendar.next_session(ranges[-1][1]) == day:
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ranges


def _request(first: date, last: date, names: Sequence[str], problems: Sequence[str]) -> dg.RunRequest:
    files = ", ".join(Path(name).name for name in names)
    return dg.RunRequest(
        tags={
            RANGE_START: first.strftime(KEY_FORMAT),
            RANGE_END: last.strftime(KEY_FORMAT),
            "v6/reason": f"Flex files {files}"[:250],
            **({LEFT_OUT: "; ".join(problems)[:500]} if problems else {}),
        }
    )


def _nothing_new(folder: Path, found: Mapping[str, FileState], changes: ChangedFiles) -> str:
    waiting = f", {len(changes.waiting)} still being written" if changes.waiting else ""
    unread = passed_over(folder)
    return f"nothing new among {len(found)} files in {folder}{waiting}" + (f"; {unread}" if unread else "")


def _known(cursor: str | None) -> dict[str, FileState]:
    """Return the files in the cursor, none if it is unreadable: importing equal content again makes no commit."""
    try:
        return {name: FileState(size, mtime_ns) for name, (size, mtime_ns) in json.loads(cursor or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def _dump(known: Mapping[str, FileState]) -> str:
    return json.dumps({name: [state.size, state.mtime_ns] for name, state in sorted(known.items())})
