"""Samples of the lines in use."""

from __future__ import annotations

from datetime import timedelta

from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.slots import samples as slot_samples
from v6_pipeline.state.slots.samples import KEEP, SlotSample
from v6_pipeline_tests.unit.state.databases import START

LATER = START + timedelta(seconds=60)


def test_samples_are_kept_for_some_days(database: StateDatabase) -> None:
    samples = [
        SlotSample(at=START + after, streams=streams, batches=2, ceiling=90)
        for streams, after in enumerate((timedelta(0), timedelta(seconds=60), KEEP + timedelta(seconds=1)))
    ]
    with database.write() as connection:
        assert slot_samples.newest(connection) is None
        for sample in samples:
            slot_samples.add(connection, sample)

        assert slot_samples.newest(connection) == samples[-1].at
        assert slot_samples.between(connection, START, samples[-1].at) == tuple(samples[1:])
        assert slot_samples.between(connection, samples[1].at, samples[1].at) == (samples[1],)


def test_samples_of_a_clock_that_was_ahead_are_deleted(database: StateDatabase) -> None:
    with database.write() as connection:
        slot_samples.add(connection, SlotSample(at=LATER, streams=1, batches=0, ceiling=90))
        slot_samples.add(connection, SlotSample(at=START, streams=2, batches=0, ceiling=90))

        assert [sample.streams for sample in slot_samples.between(connection, START, LATER)] == [2]
