"""The state of the simulated market that all clients share: sequence numbers, lines in use, active faults."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.conditions import ContractConditions, LinkConditions
from v6_pipeline.paper.contracts import Contract, Universe
from v6_pipeline.paper.given import GivenPrices
from v6_pipeline.paper.instruments import BASE_CURRENCY, CURRENCY_PAIRS
from v6_pipeline.paper.prices import Quote, closing_quote, quote_at
from v6_pipeline.paper.statistics import Statistics
from v6_pipeline.paper.trading_hours import auction_at


class Market:
    """Quotes at their current sequence numbers, and the limit of `lines` over all clients and the windows of TWS.

    With `clock` the market keeps hours: after a contract's close on the live day its price is that close. Without, it
    trades at all hours, so that a demo and a test do not depend on the time of day.
    """

    def __init__(
        self, universe: Universe, statistics: Statistics, lines: int, clock: Callable[[], datetime] | None = None
    ) -> None:
        self.universe = universe
        self.lines = lines
        self.is_closed = False
        self._clock = clock
        self.conditions = ContractConditions()
        self.link = LinkConditions()
        self._all_quiet = False
        self._statistics = statistics
        self._sequences: dict[int, int] = {}
        self._quotes: dict[int, Quote] = {}
        self.quiet(conid for conid, prices in universe.given.prices.items() if prices.is_silent)
        self.conditions.remarks.update(universe.given.advice)

    def contract(self, conid: int) -> Contract:
        """Return a contract of the universe.

        Raises:
            GatewayError: there is none with this conid.
        """
        contract = self.universe.contracts.get(conid)
        if contract is None:
            raise GatewayError(f"the paper gateway knows no contract {conid}")
        return contract

    def sequence(self, conid: int) -> int:
        """Return the current sequence number of a contract; 0 until it moves."""
        return self._sequences.get(conid, 0)

    def quote(self, conid: int) -> Quote:
        """Return the quote of a contract at its current sequence number, or of the closing auction after it."""
        if self._is_over(conid):
            return closing_quote(self.universe, conid, self.sequence(conid))
        quote = self._quotes.get(conid)
        if quote is None:
            quote = self._quotes[conid] = quote_at(self.universe, conid, self.sequence(conid))
        return quote

    def prescribe(self, conid: int, ticks: Mapping[str, float]) -> None:
        """Let a contract show exactly these prices and sizes; none of them ends that."""
        own = quote_at(self.universe, conid, self.sequence(conid)).mark
        prices = dict(self.universe.given.prices)
        if ticks:
            prices[conid] = GivenPrices(ticks.get("mark", ticks.get("last", own)), ticks)
        else:
            prices.pop(conid, None)
        self.universe.given = replace(self.universe.given, prices=prices)
        self._quotes.pop(conid, None)

    def close(self) -> None:
        """End the live day: every contract trades at its close of the day from now on."""
        self.is_closed = True

    def _is_over(self, conid: int) -> bool:
        if self.is_closed or self._clock is None:
            return self.is_closed
        closes = auction_at(self.universe.contracts[conid], self.universe.as_of)
        return closes is not None and self._clock() >= closes

    def advance(self, conids: Iterable[int]) -> None:
        """Advance contracts by one sequence number, except those whose price is frozen."""
        for conid in conids:
            if not (self._all_quiet or self.conditions.stands_still(conid)):
                self._sequences[conid] = self.sequence(conid) + 1
                self._quotes.pop(conid, None)

    def exchange_rate(self, currency: str) -> float:
        """Return the value of one unit of a currency in the base currency."""
        base = self.universe.given.base
        return 1.0 if currency == base else self._in_dollars(currency) / self._in_dollars(base)

    def _in_dollars(self, currency: str) -> float:
        return 1.0 if currency == BASE_CURRENCY else self.quote(CURRENCY_PAIRS[currency]).mark

    def is_quiet(self, conid: int) -> bool:
        """Return whether an action has silenced a contract."""
        return self._all_quiet or conid in self.conditions.quiet

    def flows(self, conid: int) -> bool:
        """Return whether ticks of a contract reach clients at present."""
        return (
            not self.is_quiet(conid)
            and conid not in self.conditions.expired
            and self.link.carries(self.universe.contracts[conid])
        )

    def quiet(self, conids: Iterable[int] | None) -> None:
        """Silence contracts, all of them for `None`: their prices are frozen and no tick is sent."""
        if conids is None:
            self._all_quiet = True
        else:
            self.conditions.quiet.update(conids)

    def resume(self, conids: Iterable[int] | None) -> None:
        """Let contracts tick again; `None` ends all silence."""
        if conids is None:
            self._all_quiet = False
            self.conditions.quiet.clear()
        else:
            self.conditions.quiet.difference_update(conids)

    def take_line(self, conid: int) -> bool:
        """Take a line if one is free; lines of TWS windows count against the same limit."""
        if self._statistics.lines + self._statistics.tws_lines >= self.lines:
            return False
        self._statistics.line_taken(conid)
        return True

    def release_line(self, conid: int) -> None:
        """Release a line."""
        self._statistics.line_released(conid)
