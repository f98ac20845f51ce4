"""Partitions: one per trading day, from 04:00 of its session to 04:00 of the next.

Belongs here: the partitions and their tags. Does not belong here: an instant's trading day (``v6_pipeline.calendar``).
https://docs.dagster.io/guides/build/partitions-and-backfills
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg

from v6_pipeline.calendar import DAY_BEGINS, TradingCalendar
from v6_pipeline.settings import Settings

KEY_FORMAT = "%Y-%m-%d"
PARTITION_TAG = "dagster/partition"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
"""Dagster's tags on a run of one partition, and on a run of a range, both ends included."""


def trading_days(settings: Settings, calendar: TradingCalendar) -> dg.TimeWindowPartitionsDefinition:
    """Return the trading days from ``V6_START_DATE`` to the current one.

    The window of a Friday ends on Monday: with weekdays as the cron and the holidays excluded, the current day is the
    last key at every hour of a weekend too. On a holiday the next session's key exists already; ``require_begun``
    refuses it.
    """
    zone = ZoneInfo(settings.timezone)
    first = (
        settings.start_date if calendar.is_session(settings.start_date) else calendar.next_session(settings.start_date)
    )
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule=f"{DAY_BEGINS.minute} {DAY_BEGINS.hour} * * 1-5",
        start=first.strftime(KEY_FORMAT),
        fmt=KEY_FORMAT,
        timezone=settings.timezone,
        end_offset=1,
        exclusions=[
            datetime.combine(day, DAY_BEGINS, tzinfo=zone) for day in calendar.closed_weekdays(first, calendar.last)
        ],
    )


def require_begun(key: str, *, calendar: TradingCalendar, now: datetime) -> None:
    """Refuse a partition whose trading day has not begun.

    Raises:
        dagster.Failure: the message names the instant at which the day begins.
    """
    day = datetime.strptime(key, KEY_FORMAT).date()  # noqa: DTZ007  (a date)
    begins_at = calendar.begins_at(day)
    if now < begins_at:
        raise dg.Failure(
            f"trading day {key} begins at {begins_at:%Y-%m-%d %H:%M} UTC: materialize it after that",
            allow_retries=False,
        )


def days_of_run(tags: Mapping[str, str]) -> tuple[date, date] | None:
    """Return the first and the last trading day of the run with these tags; None if it has no partition."""
    first = tags.get(RANGE_START) or tags.get(PARTITION_TAG)
    if first is None:
        return None
    return date.fromisoformat(first), date.fromisoformat(tags.get(RANGE_END) or first)
