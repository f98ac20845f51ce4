"""Rows of before the column ``price_magnifier``, whose prices are as IB quoted them: in pence or cents. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from v6_pipeline.history.inputs import DayInputs
from v6_pipeline.model import ContractSpec

_QUOTED = ("bid", "ask", "last", "close", "underlying_price", "vega", "theta")
_HALF = 0.5


def in_currency(inputs: DayInputs, contracts: Mapping[int, ContractSpec]) -> DayInputs:
    """Return the inputs with every price in the contract's currency; the rows of today's tables have them so.

    A price of the account feed could be in either unit: it stays where it is consistent with its row's value.
    """
    magnifiers = {conid: contract.price_magnifier for conid, contract in contracts.items()}
    magnifiers = {conid: magnifier for conid, magnifier in magnifiers.items() if magnifier != 1}
    if not magnifiers:
        return inputs
    closes = inputs.closes.with_columns(_divided("close", _magnifier(magnifiers)))
    return replace(
        inputs,
        observed=_observed(inputs.observed, magnifiers),
        earlier=_observed(inputs.earlier, magnifiers),
        closes=closes,
    )


def _observed(rows: pl.DataFrame, magnifiers: Mapping[int, int]) -> pl.DataFrame:
    magnifier = _magnifier(magnifiers)
    worth = pl.col("position") * pl.col("market_price") * pl.col("multiplier").fill_null(1.0)
    fits = ((pl.col("market_value") / worth - 1).abs() < _HALF).fill_null(value=False)
    return rows.with_columns(
        pl.when(fits).then(pl.col("market_price")).otherwise(_divided("market_price", magnifier)).alias("market_price"),
        *(_divided(name, magnifier) for name in _QUOTED),
        pl.col("gamma") * magnifier,
        pl.coalesce("price_magnifier", magnifier.cast(pl.Int64)).alias("price_magnifier"),
    )


def _divided(name: str, magnifier: pl.Expr) -> pl.Expr:
    return (pl.col(name) / magnifier).alias(name)


def _magnifier(magnifiers: Mapping[int, int]) -> pl.Expr:
    """Return what a row's prices are still to be divided by: 1 where they were already."""
    of_contract = pl.col("conid").replace_strict(magnifiers, default=1, return_dtype=pl.Float64())
    return pl.when(pl.col("price_magnifier").is_null()).then(of_contract).otherwise(1.0)
