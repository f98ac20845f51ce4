"""Account downloads, their failures, and the exchange rates that they bring."""

from __future__ import annotations

from datetime import timedelta

from v6_pipeline.state.account import downloads
from v6_pipeline.state.account.downloads import DownloadRecord, FxRate
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.unit.state.databases import START

LATER = START + timedelta(seconds=60)


def test_failures_count_until_a_download_is_complete(database: StateDatabase) -> None:
    with database.write() as connection:
        downloads.failed(connection, "A", at=START, reason="2101")
        downloads.failed(connection, "A", at=LATER, reason="cut off")
        downloads.completed(connection, "B", at=START)
        downloads.failed(connection, "B", at=LATER, reason="2101")

    with database.read() as connection:
        found = downloads.list_all(connection)

    assert found == (
        DownloadRecord(account="A", completed_at=None, failed_at=LATER, failures=2, reason="cut off"),
        DownloadRecord(account="B", completed_at=START, failed_at=LATER, failures=1, reason="2101"),
    )

    with database.write() as connection:
        downloads.completed(connection, "A", at=LATER)
        [first, _] = downloads.list_all(connection)
    assert first == DownloadRecord(account="A", completed_at=LATER, failed_at=None, failures=0, reason=None)


def test_rates_are_kept_by_account_and_currency_and_the_newest_counts(database: StateDatabase) -> None:
    with database.write() as connection:
        downloads.save_rates(
            connection, account="SIM1", base_currency="USD", rates={"EUR": 1.08, "USD": 1.0}, observed_at=LATER
        )
        downloads.save_rates(connection, account="SIM1", base_currency="USD", rates={"EUR": 1.01}, observed_at=START)
        downloads.save_rates(connection, account="SIM2", base_currency="EUR", rates={"USD": 0.92}, observed_at=START)

        assert downloads.list_rates(connection, account="SIM1") == (
            FxRate(account="SIM1", currency="EUR", base_currency="USD", rate=1.08, observed_at=LATER),
            FxRate(account="SIM1", currency="USD", base_currency="USD", rate=1.0, observed_at=LATER),
        )
        assert len(downloads.list_rates(connection)) == 3
