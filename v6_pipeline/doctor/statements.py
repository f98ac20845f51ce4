"""Examines the newest Flex statements in the lake: what the query does not have."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from v6_pipeline.doctor.findings import Finding, ok, warning
from v6_pipeline.errors import LakeError
from v6_pipeline.flex.needs import explain, lacking
from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.reader import PinnedTable
from v6_pipeline.lake.tables import FLEX_STATEMENTS
from v6_pipeline.settings import Settings


def examine_statements(settings: Settings) -> Iterator[Finding]:
    """Examine the statements of the newest day; without any there is no finding, nor in a lake that cannot be read."""
    try:
        table = PinnedTable(Lake.from_settings(settings).table(FLEX_STATEMENTS))
        if not table.days:
            return
        day = max(table.days)
        rows = table.rows(day)
    except LakeError:
        return  # the finding of the lake says so
    codes: set[str] = set()
    for row in rows.select(pl.col("sections"), pl.col("^not_in_query$")).iter_rows(named=True):
        not_in_query = row.get("not_in_query")  # of a table or a row from before that column it is unknown
        codes.update(lacking(row["sections"], {}) if not_in_query is None else not_in_query)
    if line := explain(codes):
        yield warning("flex", f"{day}: {line}", "see docs/history.md, Flex statements")
    else:
        yield ok("flex", f"the statements of {day} have every section and field that is read")
