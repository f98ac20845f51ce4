"""Samples and pictures, which never stop a report and do not come with each; links to code."""

from __future__ import annotations

import inspect
import linecache
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest

from v6_pipeline.defs.assets import account_sums
from v6_pipeline.defs.metadata import MADE_BY, code_references, is_first_of_quarter, shown
from v6_pipeline.lake.tables import ACCOUNT_VALUES, TABLES


def test_a_failed_sample_is_logged_in_a_line() -> None:
    def broken() -> dict[str, Any]:
        raise ValueError("no\n fonts")

    said: list[str] = []

    assert shown(lambda: {"a": 1}, say=said.append) == {"a": 1}
    assert said == []
    assert shown(broken, say=said.append) == {}
    assert said == ["reported without samples, pictures and figures: ValueError: no fonts"]


def test_the_first_report_of_a_quarter_of_an_hour_shows_more(instance: dg.DagsterInstance) -> None:
    key = dg.AssetKey("rows")
    assert is_first_of_quarter(instance, "rows", "2026-11-20", datetime.now(UTC))

    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="2026-11-20"))
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    reported_at = datetime.fromtimestamp(event.timestamp, UTC)

    assert not is_first_of_quarter(instance, "rows", "2026-11-20", reported_at)
    assert is_first_of_quarter(instance, "rows", "2026-11-20", reported_at + timedelta(minutes=15))
    assert is_first_of_quarter(instance, "rows", "2026-11-23", reported_at), (
        "of a run over several days the newest counts"
    )
    assert is_first_of_quarter(instance, "others", "2026-11-20", reported_at)


def values(account: str, currency: str, **figures: float) -> dict[str, Any]:
    return {"account": account, "base_currency": currency, "net_liquidation": 100.0, **figures}


@pytest.mark.parametrize(
    ("accounts", "wanted", "sums"),
    [
        ([values("A", "USD"), values("B", "USD")], {"A", "B"}, {"net_liquidation_usd": 200.0}),
        ([values("A", "USD"), values("B", "EUR")], {"A"}, {"net_liquidation_eur": 100.0, "net_liquidation_usd": 100.0}),
        # If one account is unknown, a sum over the others would look complete.
        ([values("A", "USD", daily_pnl=5.0), values("B", "USD")], {"A"}, {"net_liquidation_usd": 200.0}),
        ([values("A", "USD", daily_pnl=5.0)], {"A"}, {"daily_pnl_usd": 5.0, "net_liquidation_usd": 100.0}),
        ([values("A", "USD")], {"A", "B"}, {}),
        ([], set(), {}),
    ],
)
def test_sums_cover_all_accounts_or_are_left_out(
    accounts: list[dict[str, Any]], wanted: set[str], sums: dict[str, float]
) -> None:
    newest = pl.DataFrame(accounts, schema=ACCOUNT_VALUES.schema)

    assert account_sums(newest, wanted) == sums


@pytest.mark.parametrize("table", [table.name for table in TABLES])
def test_each_table_names_the_line_where_its_maker_begins(table: str) -> None:
    found = code_references(table).code_references

    for reference, maker in zip(found, MADE_BY[table], strict=True):
        assert isinstance(reference, dg.LocalFileCodeReference)
        assert reference.file_path == inspect.getsourcefile(maker)
        assert f" {maker.__name__}" in linecache.getline(reference.file_path, reference.line_number or 0)
        assert reference.label == f"{maker.__module__}.{maker.__qualname__}"
