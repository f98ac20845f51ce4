"""Rules of the position checks: the newest rows are complete, consistent, and agree with the broker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime

import polars as pl

from v6_pipeline.checks.history import QUANTITY_WITHIN
from v6_pipeline.checks.verdict import Numbers, Verdict, first_few
from v6_pipeline.history.inputs import KEY
from v6_pipeline.ib.valuation import in_currency, market_value
from v6_pipeline.lake.reader import RepeatedKeys
from v6_pipeline.model import ContractSpec, Holding
from v6_pipeline.state.keys import Key

VALUE_WITHIN = 0.001
"""IB rounds the prices of its portfolio; a wrong multiplier or magnifier is off by far more."""
VALUE_WITHIN_UNITS = 0.01
"""Tolerance of one cent, for positions that are nearly worthless."""
_OPTIONS = ("OPT", "FOP")


def one_row_per_key(found: RepeatedKeys | None, key: Sequence[str]) -> Verdict:
    """Judge whether no two rows of the newest trading day have the same key."""
    if found is None:
        return Verdict.ok("the table has no rows yet", {"rows": 0, "repeated": 0})
    numbers: Numbers = {"day": found.day.isoformat(), "rows": found.rows, "repeated": found.repeated.height}
    named = ", ".join(key)
    if found.repeated.height:
        reason = f"{found.day}: {found.repeated.height} of ({named}) occur more than once"
        rows = found.repeated.to_dicts()
        offenders = ("/".join(str(row[name]) for name in key) + f" {row['rows']} times" for row in rows)
        return Verdict.error(reason, numbers, offenders)
    return Verdict.ok(f"{found.day}: each of {found.rows} rows has its own ({named})", numbers)


def prices_present(rows: pl.DataFrame, *, unknown: Collection[int], today: date) -> Verdict:
    """Judge whether the newest row of each open position has a price.

    Contracts that IB does not know (``unknown``) and those that expired before ``today`` cannot have one.
    """
    without = rows.filter(pl.col("market_price").is_null())
    excused = pl.col("conid").is_in(list(unknown)) | (pl.col("expiry") < today).fill_null(value=False)
    offenders = without.filter(~excused)
    numbers: Numbers = {
        "positions": rows.height,
        "without_price": offenders.height,
        "expired_or_unknown": without.height - offenders.height,
    }
    if offenders.height:
        reason = f"{offenders.height} of {rows.height} open positions have no price"
        return Verdict.warning(reason, numbers, _contracts(offenders))
    return Verdict.ok(f"every price that exists is present in {rows.height} open positions", numbers)


def greeks_present(rows: pl.DataFrame, *, today: date) -> Verdict:
    """Judge whether options that had not expired by ``today`` have greeks if they have a bid and an ask.

    ``rows`` has the newest row of each open position. Without data permissions IB sends neither quotes nor greeks.
    """
    options = rows.filter(pl.col("sec_type").is_in(_OPTIONS) & (pl.col("expiry") >= today).fill_null(value=True))
    quoted = options.filter(pl.col("bid").is_not_null() & pl.col("ask").is_not_null())
    offenders = quoted.filter(pl.any_horizontal(pl.col("delta", "gamma", "vega", "theta").is_null()))
    numbers: Numbers = {
        "options": options.height,
        "without_quote": options.height - quoted.height,
        "without_greeks": offenders.height,
    }
    if offenders.height:
        reason = f"{offenders.height} of {quoted.height} options with a quote have no greeks"
        return Verdict.warning(reason, numbers, _contracts(offenders))
    return Verdict.ok(f"{quoted.height} options with a quote have greeks", numbers)


def reconciles_with_broker(
    held: Collection[Holding],
    rows: pl.DataFrame,
    *,
    pending: Collection[Key],
    streamed: Collection[int],
    stale_before: datetime,
    accounts: Collection[str],
    downloaded_since: datetime | None,
    now: datetime,
) -> Verdict:
    """Judge whether the newest rows agree with IB's last download of holdings, and whether that download is recent.

    A position that changed after its row was made may differ until the row is stale.

    Args:
        held: open holdings.
        rows: the newest row of each open position, of all position tables.
        pending: positions about to be refreshed; they are not compared, as their rows are known to be old.
        streamed: contracts that are not compared, as their rows follow the account within seconds.
        stale_before: rows older than this should have been refreshed (UTC).
        accounts: the accounts that refreshes download.
        downloaded_since: each account should have been downloaded since (UTC); None if IB is not expected to answer.
        now: UTC.
    """
    theirs = {holding.key: holding for holding in held if holding.position != 0}
    columns = rows.select(*KEY, "position", "timestamp").iter_rows()
    ours = {(account, conid): (size, made_at) for account, conid, size, made_at in columns}
    in_lake = {key: size for key, (size, _) in ours.items()}
    at_broker = {key: holding.position for key, holding in theirs.items()}
    every = theirs.keys() | ours.keys()
    flowing = {key for key in every if key[1] in set(streamed)}
    waiting = (every - flowing) & set(pending)
    both = ours.keys() & theirs.keys()
    differing = {key for key in both if abs(in_lake[key] - at_broker[key]) > QUANTITY_WITHIN}
    waiting |= {key for key in differing - flowing if stale_before <= ours[key][1] < theirs[key].observed_at}
    judged = every - flowing - waiting
    missing, surplus = sorted(judged - ours.keys()), sorted(judged - theirs.keys())
    unequal = sorted(judged & differing)
    numbers: Numbers = {
        "held": len(theirs),
        "in_lake": len(ours),
        "judged": len(judged),
        "streamed": len(flowing),
        "pending": len(waiting),
        "missing": len(missing),
        "not_held": len(surplus),
        "unequal": len(unequal),
    }
    observed = _last_observed(holding for holding in held if holding.account in accounts)
    if observed:
        numbers["heard_seconds_ago"] = round((now - min(observed.values())).total_seconds(), 1)
    if missing or surplus or unequal:
        reason = (
            f"{len(missing)} held positions have no row, {len(surplus)} rows are not held, {len(unequal)} differ in "
            "quantity"
        )
        offenders = (
            f"{key[0]}/{key[1]} {in_lake.get(key, 0):g} in the lake, {at_broker.get(key, 0):g} held"
            for key in (*missing, *surplus, *unequal)
        )
        return Verdict.error(reason, numbers, offenders)
    old = [account for account, at in observed.items() if downloaded_since is not None and at < downloaded_since]
    if old:
        age = f"{numbers['heard_seconds_ago']:,.0f} s"
        return Verdict.warning(
            f"IB's last download is {age} old ({first_few(old)}): holdings may have changed", numbers
        )
    return Verdict.ok(f"the lake agrees with IB: {len(judged)} positions", numbers)


def values_consistent(rows: pl.DataFrame, contracts: Mapping[int, ContractSpec]) -> Verdict:
    """Judge whether market values follow from position, price and unit.

    The unit is the contract's, else the row's own; a row without either, as of a bond before its first account
    download, is not judged. Rows of before the column ``price_magnifier`` have prices as quoted.

    Args:
        rows: the newest row of each open position.
        contracts: the contract cache; rows of contracts outside of it are not judged.
    """
    columns = (*KEY, "position", "market_price", "market_value", "unit_value", "price_magnifier")
    judged, offenders = 0, []
    known = rows.select(columns).drop_nulls(columns[:5])
    for account, conid, position, price, value, unit, magnifier in known.iter_rows():
        contract = contracts.get(conid)
        if contract is None:
            continue
        own = price if magnifier is not None else in_currency(price, contract)
        # The contract's unit goes before the row's: a queued row's own comes from its value, and would always agree.
        by = contract if contract.value_per_price is not None else replace(contract, unit_value=unit)
        expected = market_value(by, position, own)
        if expected is None:
            continue
        judged += 1
        if abs(value - expected) > max(VALUE_WITHIN_UNITS, VALUE_WITHIN * abs(expected)):
            offenders.append(f"{account}/{conid} {value:,.2f} instead of {expected:,.2f}")
    numbers: Numbers = {"positions": rows.height, "judged": judged, "inconsistent": len(offenders)}
    if offenders:
        reason = f"{len(offenders)} of {judged} market values do not follow from position and price"
        return Verdict.error(reason, numbers, offenders)
    return Verdict.ok(f"{judged} market values follow from position and price", numbers)


def _last_observed(held: Iterable[Holding]) -> dict[str, datetime]:
    """Return the time of the newest observation of each account's holdings, the oldest first."""
    observed: dict[str, datetime] = {}
    for holding in held:
        observed[holding.account] = max(holding.observed_at, observed.get(holding.account, holding.observed_at))
    return dict(sorted(observed.items(), key=lambda item: (item[1], item[0])))


def _contracts(rows: pl.DataFrame) -> Iterator[str]:
    return (f"{row['account']}/{row['conid']} {row['symbol']}" for row in rows.sort(KEY).iter_rows(named=True))
