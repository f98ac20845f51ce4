"""The tick messages of a quote."""

from dataclasses import replace

from v6_pipeline.paper.contracts import Contract, Universe
from v6_pipeline.paper.prices import Quote, quote_at
from v6_pipeline.paper.ticks import DELAYED_TICKS, LIVE_TICKS, Burst, burst

from .conftest import by_symbol


def ticks_of(contract: Contract, quote: Quote, previous: Quote | None = None, *, mark: bool = True) -> Burst:
    return burst(9, contract, quote, previous=previous, wants_mark=mark, types=LIVE_TICKS, timestamp=1_700_000_000)


def test_an_unchanged_quote_sends_nothing(universe: Universe, options: list[Contract]) -> None:
    quote = quote_at(universe, options[0].conid, 2)
    assert ticks_of(options[0], quote, quote) == Burst((), {})


def test_a_changed_size_alone_is_sent_as_a_size(universe: Universe) -> None:
    contract = by_symbol(universe, "AAPL", "STK")
    before = quote_at(universe, contract.conid, 2)
    after = replace(before, bid_size=before.bid_size + 1)
    assert ticks_of(contract, after, before).messages == ((2, 6, 9, 0, int(after.bid_size)),)


def test_a_changed_price_is_sent_with_its_size(universe: Universe) -> None:
    contract = by_symbol(universe, "AAPL", "STK")
    before = quote_at(universe, contract.conid, 2)
    after = replace(before, ask=99.0)
    assert ticks_of(contract, after, before).messages == ((1, 6, 9, 2, 99.0, int(after.ask_size), 1),)


def test_a_missing_bid_is_minus_one_with_size_zero(universe: Universe, options: list[Contract]) -> None:
    quote = replace(quote_at(universe, options[0].conid, 2), bid=None, bid_size=0.0)
    ticks = ticks_of(options[0], quote)
    assert (1, 6, 9, 1, -1.0, 0, 0) in ticks.messages
    assert (ticks.values["bid"], ticks.values["bid_size"]) == (-1.0, 0.0)


def test_the_mark_price_comes_only_to_those_who_ask(universe: Universe) -> None:
    contract = by_symbol(universe, "AAPL", "STK")
    quote = quote_at(universe, contract.conid, 2)
    assert "mark" not in ticks_of(contract, quote, mark=False).values
    assert (1, 6, 9, 37, quote.mark, 0, 0) in ticks_of(contract, quote).messages


def test_an_index_gets_neither_bid_nor_ask(universe: Universe) -> None:
    contract = by_symbol(universe, "SPX", "IND")
    ticks = ticks_of(contract, quote_at(universe, contract.conid, 2))
    assert ticks.values.keys() == {"last", "last_size", "close", "mark"}


def test_an_option_gets_all_four_computations(universe: Universe, options: list[Contract]) -> None:
    messages = ticks_of(options[0], quote_at(universe, options[0].conid, 2)).messages
    assert [message[2] for message in messages if message[0] == 21] == [10, 11, 12, 13]


def test_delayed_data_have_tick_types_of_their_own(universe: Universe, options: list[Contract]) -> None:
    quote = quote_at(universe, options[0].conid, 2)
    delayed = burst(9, options[0], quote, previous=None, wants_mark=False, types=DELAYED_TICKS, timestamp=1_700_000_000)
    kinds = {message[2] if message[0] == 21 else message[3] for message in delayed.messages}
    assert kinds == {66, 67, 68, 74, 75, 88, 80, 81, 82, 83}
