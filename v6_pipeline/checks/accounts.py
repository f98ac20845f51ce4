"""Rules of the account checks: figures of an account as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from v6_pipeline.checks.verdict import Numbers, Verdict
from v6_pipeline.model import Holding
from v6_pipeline.state.account.downloads import DownloadRecord, FxRate


def currencies_have_rates(
    held: Iterable[Holding],
    downloads: Iterable[DownloadRecord],
    rates: Collection[FxRate],
    *,
    accounts: Collection[str],
) -> Verdict:
    """Judge whether the newest download of each account has a rate for each currency in which it holds positions.

    A rate of an earlier download does not count: it would be used for ever. An account without a complete download is
    not judged, because ``account_feed_free`` reports it.

    Args:
        held: open holdings.
        downloads: outcomes of the downloads, by account.
        rates: the newest rate of each account and pair of currencies.
        accounts: the accounts that refreshes download.
    """
    completed = {
        record.account: record.completed_at
        for record in downloads
        if record.completed_at is not None and record.account in accounts
    }
    known = {
        (rate.account, rate.currency)
        for rate in rates
        if rate.account in completed and rate.observed_at >= completed[rate.account]
    }
    positions = Counter((item.account, item.contract.currency) for item in held if item.position)
    judged = {key: count for key, count in positions.items() if key[0] in completed}
    without = sorted(judged.keys() - known)
    numbers: Numbers = {
        "currencies": len(judged),
        "without_rate": len(without),
        "positions_without_rate": sum(judged[key] for key in without),
        "accounts_not_downloaded": len({account for account, _ in positions if account in accounts} - completed.keys()),
    }
    if without:
        reason = (
            f"IB's last download has no exchange rate for {len(without)} of {len(judged)} currencies held, and every "
            "value of theirs in the base currency is unknown"
        )
        offenders = (f"{account} {currency} ({judged[account, currency]} positions)" for account, currency in without)
        return Verdict.error(reason, numbers, offenders)
    return Verdict.ok(f"{len(judged)} currencies held have an exchange rate", numbers)
