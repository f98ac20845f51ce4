"""A year of snapshots from Flex rows: ``python benchmarks/snapshots.py [--days N] [--contracts N] [--own ROWS]``.

In a temporary lake: each day is read, assembled and replaced as a backfill does, then once more, which must commit
nothing. Prints rows per second, milliseconds per day and step, and peak memory; the measure is reading the same rows
with plain polars in the same run. With ``--own`` positions come from our own log, so many rows per contract and day.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import polars as pl

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.exposure import exposure
from v6_pipeline.history.inputs import DayWindow, LakeDays
from v6_pipeline.history.snapshots import assemble
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.replace import replace
from v6_pipeline.lake.tables import (
    FLEX_POSITIONS,
    FLEX_STATEMENTS,
    PORTFOLIO_EXPOSURE,
    POSITION_SNAPSHOTS,
    QUEUED_POSITIONS,
)
from v6_pipeline.state.registry.assignments import RegistryAt

ACCOUNT = "SIM1"
FIRST = date(2025, 3, 3)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
CALENDAR = TradingCalendar()


class Clock:
    """Seconds spent in each step."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Add what the block takes to a step."""
        began = time.perf_counter()
        yield
        self.spent[step] = self.spent.get(step, 0.0) + time.perf_counter() - began


def lineage(asset: str) -> CommitLineage:
    """Return the lineage of the commits."""
    return CommitLineage(asset=asset, source="benchmark", code_version="0", run_id="benchmark")


def rows_of(spec: TableSpec, day: date, contracts: int, at: datetime, source: str) -> pl.DataFrame:
    """A position in each contract, as options of 50 underlyings."""
    numbers = pl.int_range(1, contracts + 1, eager=True)
    price = (numbers * 7919 + day.toordinal() * 31) % 1000 / 10 + 0.5
    given = {
        "date": pl.lit(day),
        "account": pl.lit(ACCOUNT),
        "conid": numbers,
        "symbol": "U" + (numbers % 50).cast(pl.String),
        "sec_type": pl.lit("OPT"),
        "right": pl.lit("C"),
        "strike": pl.lit(100.0),
        "expiry": pl.lit(date(2030, 1, 18)),
        "multiplier": pl.lit(100.0),
        "currency": pl.lit("USD"),
        "underlying_conid": numbers % 50 + 1_000_000,
        "position": (numbers % 9 - 4).cast(pl.Float64),
        "average_cost": pl.lit(5_000.0),
        "market_price": price,
        "market_value": price * (numbers % 9 - 4) * 100,
        "price_source": pl.lit("flex"),
        "price_time": pl.lit(at),
        "base_currency": pl.lit("USD"),
        "fx_rate_to_base": pl.lit(1.0),
        "timestamp": pl.lit(at),
        "source": pl.lit(source),
        "run_id": pl.lit("benchmark"),
        "ingested_at": pl.lit(NOW),
    }
    return pl.DataFrame({"conid": numbers}).select(
        (pl.lit(given[name]) if name in given and isinstance(given[name], pl.Series) else given.get(name, pl.lit(None)))
        .cast(dtype)
        .alias(name)
        for name, dtype in spec.schema.items()
    )


def fill(lake: Lake, days: list[date], contracts: int, own: int) -> None:
    """Write the sources of the days: a Flex statement each, or rows of our own log."""
    for day in days:
        session = CALENDAR.session(day)
        if own:
            for number in range(own):
                at = session.opens_at + timedelta(minutes=5 * number)
                frame = rows_of(QUEUED_POSITIONS, day, contracts, at, "queue")
                lake.table(QUEUED_POSITIONS).append(frame, lineage("queued_positions"))
            continue
        frame = rows_of(FLEX_POSITIONS, day, contracts, session.closes_at, "flex")
        replace(lake.table(FLEX_POSITIONS), frame, [(day, ACCOUNT)], lineage("flex_positions"))
        statement = {
            "date": day,
            "account": ACCOUNT,
            "from_date": day,
            "to_date": day,
            "base_currency": "USD",
            "positions": contracts,
            "activities": 0,
            "sections": ["OpenPositions"],
            "sha256": "0",
            "origin": "benchmark",
            "timestamp": session.closes_at,
            "run_id": "benchmark",
            "ingested_at": NOW,
        }
        frame = pl.DataFrame([statement], schema=FLEX_STATEMENTS.schema)
        replace(lake.table(FLEX_STATEMENTS), frame, [(day, ACCOUNT)], lineage("flex_statements"))


def backfill(lake: Lake, days: list[date], clock: Clock) -> tuple[int, int]:
    """Snapshot and exposure of each day; rows of the snapshots, and days that made a commit."""
    with clock.measure("open"):
        lake_days = LakeDays(lake, CALENDAR)
    snapshots, exposures = lake.table(POSITION_SNAPSHOTS), lake.table(PORTFOLIO_EXPOSURE)
    previous = pl.DataFrame(schema=POSITION_SNAPSHOTS.schema)
    rows = changed = 0
    for day in days:
        window = DayWindow.of(CALENDAR, day)
        registry = RegistryAt((), window.cut_off, day=day)
        with clock.measure("read"):
            inputs = lake_days.day(window)
        with clock.measure("assemble"):
            frame = assemble(inputs, registry=registry, contracts={}, now=NOW, run_id="benchmark")
        with clock.measure("replace"):
            made = replace(snapshots, frame, [(day,)], lineage("position_snapshots"))
        with clock.measure("exposure"):
            exposed = exposure(
                frame,
                previous,
                window=window,
                next_session=CALENDAR.next_session(day),
                registry=registry,
                contracts={},
                now=NOW,
                run_id="benchmark",
            )
        with clock.measure("replace exposure"):
            replace(exposures, exposed, [(day,)], lineage("portfolio_exposure"))
        previous = frame
        rows += frame.height
        changed += made.changed
    return rows, changed


def peak_megabytes() -> float:
    """Peak of this process's memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Fill, run twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=252)
    parser.add_argument("--contracts", type=int, default=2_000)
    parser.add_argument("--own", type=int, default=0, metavar="ROWS")
    options = parser.parse_args()
    days = CALENDAR.sessions_between(FIRST, date(2026, 6, 1))[: options.days]
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        fill(lake, days, options.contracts, options.own)
        print(f"{len(days)} days x {options.contracts} contracts; {peak_megabytes():.0f} MB after filling the lake")
        seconds: list[float] = []
        for run in ("first run", "second run"):
            clock, began = Clock(), time.perf_counter()
            rows, changed = backfill(lake, days, clock)
            seconds.append(time.perf_counter() - began)
            steps = ", ".join(f"{step} {1000 * spent / len(days):.1f}" for step, spent in clock.spent.items())
            print(f"{run}: {rows} rows in {seconds[-1]:.1f} s, {rows / seconds[-1]:,.0f} rows/s, {changed} commits")
            print(f"  ms per day: {steps}; peak {peak_megabytes():.0f} MB")
        began = time.perf_counter()
        source = QUEUED_POSITIONS if options.own else FLEX_POSITIONS
        read = pl.read_delta(lake.uri(source)).height
        plain = time.perf_counter() - began
        print(f"plain polars reads {read} source rows in {plain:.2f} s; peak {peak_megabytes():.0f} MB")
        print(f"ratio of the first run to that: {seconds[0] / plain:.1f}")
    return 0 if changed == 0 and rows else 1


if __name__ == "__main__":
    sys.exit(main())
