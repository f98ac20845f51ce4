"""Samples of the market-data lines in use, one a minute, kept for some days."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select

from v6_pipeline.state.database import reads, writes
from v6_pipeline.state.schema import slot_samples
from v6_pipeline.state.upsert import upsert

KEEP = timedelta(days=4)
"""A long weekend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSample:
    """Lines in use at an instant (UTC), and the ceiling for both together."""

    at: datetime
    streams: int
    batches: int
    ceiling: int


@reads
def newest(connection: Connection) -> datetime | None:
    """Time of the last sample."""
    query = select(slot_samples.c.at).order_by(slot_samples.c.at.desc()).limit(1)
    found: datetime | None = connection.scalar(query)
    return found


@writes
def add(connection: Connection, sample: SlotSample) -> None:
    """Store a sample; delete those that are too old, and those of a clock that was ahead."""
    at = slot_samples.c.at
    connection.execute(delete(slot_samples).where((at < sample.at - KEEP) | (at > sample.at)))
    upsert(connection, slot_samples, [asdict(sample)])


@reads
def between(connection: Connection, start: datetime, end: datetime) -> tuple[SlotSample, ...]:
    """List the samples from ``start`` to ``end``, both included, oldest first."""
    query = select(slot_samples).where(slot_samples.c.at.between(start, end)).order_by(slot_samples.c.at)
    return tuple(SlotSample(**row) for row in connection.execute(query).mappings())
