"""Write the table of sessions that ships with the package: ``python scripts/generate_sessions.py``.

Needs exchange_calendars (extra ``dev``). A test compares the table with this output and with pandas_market_calendars.
"""

from __future__ import annotations

import csv
import io
from datetime import date, timedelta
from pathlib import Path

import exchange_calendars

FIRST, LAST = date(2015, 1, 1), date(2030, 12, 31)
PATH = Path(__file__).parents[1] / "v6_pipeline" / "data" / "sessions.csv"
ZONE = "America/New_York"


def generate() -> str:
    """The exceptions to 'each weekday is a session of 09:30 to 16:00', as CSV: date, close ('' where closed)."""
    calendar = exchange_calendars.get_calendar("XNYS", start=FIRST.isoformat(), end=LAST.isoformat())
    closes = {stamp.date(): close.tz_convert(ZONE).strftime("%H:%M") for stamp, close in calendar.closes.items()}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["date", "close"])
    # The first and the last row bound the range; both happen to be no exception of their own.
    writer.writerow([FIRST.isoformat(), closes.get(FIRST, "")])
    day = FIRST + timedelta(days=1)
    while day <= LAST:
        close = closes.get(day, "")
        if (day.weekday() < 5 and close != "16:00") or day == LAST:
            writer.writerow([day.isoformat(), close])
        day += timedelta(days=1)
    return out.getvalue()


if __name__ == "__main__":
    PATH.write_text(generate(), encoding="utf-8")
