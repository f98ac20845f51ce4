"""The accounts at this moment: holdings, strategies, base currencies, contracts.

Held in memory, without I/O, so that a tick becomes rows in microseconds. ``IBPositionStreamer`` fills it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from v6_pipeline.ib.position_updates import streamed_update
from v6_pipeline.ib.valuation import mark_of
from v6_pipeline.model import BaseCurrency, ContractSpec, Holding, PositionUpdate, Quote
from v6_pipeline.state.keys import Key

_INSTANT = timedelta(microseconds=1)
"""Resolution of Delta's timestamps."""


class Portfolio:
    """The holdings of ``accounts``, or of all accounts if that is empty.

    Attributes:
        strategies: the strategies that each holding serves now.
    """

    def __init__(self, accounts: Iterable[str] = ()) -> None:
        self._accounts = frozenset(accounts)
        self._by_conid: dict[int, dict[str, Holding]] = {}
        self.strategies: dict[Key, tuple[str, ...]] = {}
        self._emitted_at: dict[Key, datetime] = {}
        self.contracts: dict[int, ContractSpec] = {}
        self.bases: dict[str, BaseCurrency] = {}

    def __iter__(self) -> Iterator[Holding]:
        for holders in self._by_conid.values():
            yield from holders.values()

    def __len__(self) -> int:
        return sum(len(holders) for holders in self._by_conid.values())

    def holders(self, conid: int) -> tuple[Holding, ...]:
        """Return the holdings of a contract, one per account."""
        return tuple(self._by_conid.get(conid, {}).values())

    def keeps(self, account: str) -> bool:
        """Return True if an account's holdings belong here."""
        return not self._accounts or account in self._accounts

    def replace(self, holdings: Iterable[Holding]) -> None:
        """Apply a complete download."""
        self._by_conid.clear()
        for holding in holdings:
            self.put(holding)
        kept = {holding.key for holding in self}
        self._emitted_at = {key: moment for key, moment in self._emitted_at.items() if key in kept}

    def put(self, holding: Holding) -> None:
        """Apply a change."""
        if self.keeps(holding.account):
            self._by_conid.setdefault(holding.contract.conid, {})[holding.account] = holding
            known = self.contracts.get(holding.contract.conid)
            if known is not None and known.symbol != holding.contract.symbol:
                # The newest position message names the contract; its definition is fetched again in the next pass.
                by = holding.contract
                named = replace(known, symbol=by.symbol, local_symbol=by.local_symbol or known.local_symbol)
                self.contracts[by.conid] = named

    def differs(self, holding: Holding) -> bool:
        """Return True if an observation differs from the known holding; an unknown one is flat.

        What counts is position, cost, and the contract's symbol, which a corporate action changes.
        """
        known = self._by_conid.get(holding.contract.conid, {}).get(holding.account)
        if known is None:
            return holding.position != 0
        return (known.position, known.average_cost, known.contract.symbol) != (
            holding.position,
            holding.average_cost,
            holding.contract.symbol,
        )

    def can_value(self, conid: int, quote: Quote | None) -> bool:
        """Return True if a quote gives the holdings of a contract a value: a price, and the unit is known."""
        contract = self.contracts.get(conid)
        has_unit = contract is not None and contract.value_per_price is not None
        return has_unit and quote is not None and mark_of(quote) is not None

    def discard(self, holding: Holding) -> None:
        """Forget a closed holding, unless it has been reopened since."""
        holders = self._by_conid.get(holding.contract.conid, {})
        if holders.get(holding.account) == holding:
            del holders[holding.account]
            self._emitted_at.pop(holding.key, None)
        if not holders:
            self._by_conid.pop(holding.contract.conid, None)

    def updates(self, conid: int, quote: Quote | None, now: datetime) -> list[PositionUpdate]:
        """Return one row for each account that holds a contract, valued at a quote.

        A holding's timestamps increase even if the clock does not: the lake never holds one (account, conid, timestamp)
        twice, and the newest row is the one made last.
        """
        rows = []
        for account, holding in self._by_conid.get(conid, {}).items():
            before = self._emitted_at.get(holding.key)
            at = now if before is None else max(now, before + _INSTANT)
            rows.append(
                streamed_update(
                    holding,
                    self.contracts.get(conid, holding.contract),
                    quote,
                    base=self.bases.get(account),
                    strategy_ids=self.strategies.get(holding.key, ()),
                    now=at,
                )
            )
            self._emitted_at[holding.key] = at
        return rows

    def silent(self, conids: Iterable[int], now: datetime, after: timedelta) -> list[int]:
        """Return those of ``conids`` for which some account's newest row is at least ``after`` old."""
        return [
            conid
            for conid in conids
            if any(
                now - self._emitted_at.get(holding.key, datetime.min.replace(tzinfo=now.tzinfo)) >= after
                for holding in self._by_conid.get(conid, {}).values()
            )
        ]
