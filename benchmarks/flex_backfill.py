"""A year of Flex statements in one run: statements, positions, activity, snapshots, exposure, in a temporary home.

``python benchmarks/flex_backfill.py [--days 252] [--positions 500]`` prints rows a second, seconds and peak memory of
the whole backfill, and how long it takes to merely parse the same file with the ibflex package, in the same run.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path

import ibflex

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.history.context import Failed, HistoryContext
from v6_pipeline.history.make import make_history
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import HISTORY_TABLES
from v6_pipeline.settings import Settings
from v6_pipeline.state.database import StateDatabase

CLOSES = "historical_closes"
LAST = date(2026, 11, 20)
MEGABYTE = 1024


def write_statements(path: Path, days: list[date], positions: int) -> None:
    """One file: a statement a day, its positions spread over 50 underlyings."""
    with path.open("w", encoding="utf-8") as file:
        file.write(f'<FlexQueryResponse queryName="year" type="AF"><FlexStatements count="{len(days)}">\n')
        for number, day in enumerate(days):
            file.write(
                f'<FlexStatement accountId="SIM1" fromDate="{day:%Y%m%d}" toDate="{day:%Y%m%d}" '
                f'period="LastBusinessDay" whenGenerated="{day:%Y%m%d};210000">\n'
                '<AccountInformation accountId="SIM1" currency="USD" />\n<OpenPositions>\n'
            )
            file.writelines(_position(conid, day, 10 + (conid + number) % 40) for conid in range(1, positions + 1))
            file.write("</OpenPositions>\n<Trades /><OptionEAE /><Transfers /><CorporateActions />\n</FlexStatement>\n")
        file.write("</FlexStatements></FlexQueryResponse>\n")


def _position(conid: int, day: date, price: int) -> str:
    underlying = f"U{conid % 50}"
    return (
        f'<OpenPosition accountId="SIM1" currency="USD" fxRateToBase="1" assetCategory="OPT" '
        f'symbol="{underlying} C{conid}" conid="{conid}" multiplier="100" '
        f'underlyingSymbol="{underlying}" underlyingConid="{10_000_000 + conid % 50}" '
        f'strike="{100 + conid % 90}" expiry="20271217" putCall="C" reportDate="{day:%Y%m%d}" position="-2" '
        f'markPrice="{price}" positionValue="{-200 * price}" costBasisMoney="-3000" '
        f'fifoPnlUnrealized="{3000 - 200 * price}" side="Short" levelOfDetail="SUMMARY" />\n'
    )


def backfill(home: Path, statements: Path, days: list[date]) -> tuple[int, float, int]:
    """Rows made, seconds, commits."""
    settings = Settings(home=home, flex_dir=statements.parent)
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    context = HistoryContext(
        settings=settings,
        database=database,
        lake=Lake.from_settings(settings),
        calendar=TradingCalendar(),
        run_id="benchmark",
        now=lambda: datetime.now(UTC),
        say=lambda _: None,
    )
    tables = {spec.name for spec in HISTORY_TABLES} - {CLOSES}
    rows = commits = 0
    begun = time.perf_counter()
    for outcome in make_history(context, tables, days):
        if isinstance(outcome, Failed):
            raise SystemExit(outcome.reason)
        rows += outcome.rows
        commits += outcome.changed
    seconds = time.perf_counter() - begun
    database.close()
    return rows, seconds, commits


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=252)
    parser.add_argument("--positions", type=int, default=500)
    options = parser.parse_args()
    calendar = TradingCalendar()
    days = calendar.sessions_between(date(2025, 1, 2), LAST)[-options.days :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flex" / "year.xml"
        path.parent.mkdir()
        write_statements(path, days, options.positions)
        size = path.stat().st_size / MEGABYTE**2
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE
        rows, seconds, commits = backfill(Path(folder) / "home", path, days)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE
        again_rows, again, again_commits = backfill(Path(folder) / "home", path, days)
        begun = time.perf_counter()
        ibflex.parse(str(path))
        parsing = time.perf_counter() - begun
    print(f"{len(days)} days of {options.positions} positions, one file of {size:.0f} MB")
    print(f"backfill       {rows} rows in {seconds:.0f} s: {rows / seconds:.0f} a second, {commits} commits")
    print(
        f"again          {again_rows} rows in {again:.0f} s: {again_rows / again:.0f} a second, {again_commits} commits"
    )
    print(f"memory         {before:.0f} MB before, {peak:.0f} MB at most")
    print(
        f"ibflex.parse   {parsing:.0f} s to read the file alone; the backfill takes {seconds / parsing:.1f} times that"
    )


if __name__ == "__main__":
    main()
