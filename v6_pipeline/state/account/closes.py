"""IB's answers to requests for closes: one row per (conid, trading day), so that none is requested twice.

``history.closes`` decides whether an entry is final.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, datetime

from sqlalchemy import Connection, select

from v6_pipeline.state.database import reads, writes
from v6_pipeline.state.keys import chunks
from v6_pipeline.state.schema import fetched_closes
from v6_pipeline.state.upsert import upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedClose:
    """A close, or the reason for its absence, and the time of the answer.

    ``bar_size`` and ``what_to_show`` name, in IB's terms, the bar that gave it; ``bar_time`` is its end.
    """

    conid: int
    day: date
    fetched_at: datetime
    close: float | None = None
    bar_size: str | None = None
    what_to_show: str | None = None
    bar_time: datetime | None = None
    reason: str | None = None

    @property
    def key(self) -> tuple[int, date]:
        """(conid, day)."""
        return self.conid, self.day


@writes
def save(connection: Connection, entries: Iterable[FetchedClose]) -> None:
    """Store answers; a newer one replaces an older."""
    upsert(connection, fetched_closes, [asdict(entry) for entry in entries])


@reads
def find(
    connection: Connection, conids: Iterable[int], *, first: date, last: date
) -> dict[tuple[int, date], FetchedClose]:
    """Find the answers of some contracts for the days from ``first`` to ``last``, by (conid, day)."""
    table = fetched_closes
    found: dict[tuple[int, date], FetchedClose] = {}
    for chunk in chunks(sorted(set(conids))):
        rows = connection.execute(select(table).where(table.c.conid.in_(chunk), table.c.day.between(first, last)))
        for row in rows.mappings():
            entry = FetchedClose(**row)
            found[entry.key] = entry
    return found
