"""Historical bars: pure functions of the universe, a contract and a span of time.

Within a day prices move from the close of the day before to `prices.daily_close`, which they reach at the close of US
exchanges or, if that is earlier, of the regular session. Later prices in the extended hours differ, so that a client
that uses too late a bar is detected.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from v6_pipeline.paper.contracts import CASH, CRYPTO, INDEX, OPTION, Contract, Universe
from v6_pipeline.paper.prices import daily_close, to_tick, unit
from v6_pipeline.paper.trading_hours import auction_at, session, session_before
from v6_pipeline.paper.wire import Message

BAR_SECONDS = {
    **{f"{count} secs": count for count in (1, 5, 10, 15, 30)},
    "1 min": 60,
    **{f"{count} mins": count * 60 for count in (2, 3, 5, 10, 15, 20, 30)},
    "1 hour": 3_600,
    **{f"{count} hours": count * 3_600 for count in (2, 3, 4, 8)},
    "1 day": 86_400,
}
"""IB's bar sizes, but for weeks and months."""
DAY = 86_400
SMALL_BAR = 30
"""Bars of at most so many seconds are IB's "small bars"."""

_TRADES_THAT_DAY = 0.7
_TRADES_IN_A_BAR = 0.6
_NO_TRADES = -1
_TRADES_SALT, _BAR_SALT, _NOISE_SALT, _LATE_SALT, _VOLUME_SALT = 30, 31, 32, 33, 34


class What(StrEnum):
    """Data from which bars are made."""

    TRADES = "TRADES"
    AGGTRADES = "AGGTRADES"
    """Trades of a cryptocurrency, which has no others."""
    MIDPOINT = "MIDPOINT"
    BID = "BID"
    ASK = "ASK"
    BID_ASK = "BID_ASK"


TRADED = frozenset({What.TRADES, What.AGGTRADES})
"""Bars that are made of trades."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `begin` is a date for bars of a day. Volume and count are -1 for any data but trades."""

    begin: datetime | date
    open: float
    high: float
    low: float
    close: float
    volume: float
    average: float
    count: int

    def fields(self, *, as_epoch: bool, zone: str) -> Message:
        """Return the fields of the bar in a message: a day as a date, other times with zone or as epoch seconds."""
        if not isinstance(self.begin, datetime):
            text = f"{self.begin:%Y%m%d}"
        elif as_epoch:
            text = str(int(self.begin.timestamp()))
        else:
            text = f"{self.begin.astimezone(ZoneInfo(zone)):%Y%m%d %H:%M:%S} {zone}"
        return text, self.open, self.high, self.low, self.close, self.volume, self.average, self.count


def has_data(contract: Contract, what: What, bar_seconds: int) -> bool:
    """Return whether IB has such bars: no day bars of options, no trades of currencies, only trades of indices."""
    if contract.sec_type == OPTION and bar_seconds >= DAY:
        return False
    if contract.sec_type == CASH and what in TRADED:
        return False
    if (contract.sec_type == CRYPTO) != (what is What.AGGTRADES) and what in TRADED:
        return False
    return contract.sec_type != INDEX or what is What.TRADES


def bars_between(
    universe: Universe,
    contract: Contract,
    what: What,
    bar_seconds: int,
    begin: datetime,
    end: datetime,
    *,
    regular: bool,
) -> list[Bar]:
    """Return the bars that begin in [begin, end), oldest first; none contains prices after `end`."""
    if not has_data(contract, what, bar_seconds):
        return []
    found: list[Bar] = []
    day, last = begin.date() - timedelta(days=1), end.date() + timedelta(days=1)
    while day <= last:
        path = day_path(universe, contract, day)
        if path is not None:
            found += _day(path, what, bar_seconds, day, begin, end, regular=regular)
        day += timedelta(days=1)
    return found


@dataclass(frozen=True, slots=True)
class DayPath:
    """Price path of a contract on one day: from the close `before` to `close`, between `begin` and `end`.

    The price stays at `close` until `late_from`, the end of the regular session.
    """

    seed: int
    contract: Contract
    before: float
    close: float
    begin: datetime
    end: datetime
    late_from: datetime

    def price_at(self, moment: datetime) -> float:
        """Return the price at a moment, rounded to the tick."""
        if moment > self.late_from:  # off by a thousandth and more, so that it is never the close
            off = 0.001 + 0.01 * unit(self.seed, self.contract.conid, _LATE_SALT, int(moment.timestamp()))
            return self._to_tick(self.close * (1 + off) + self.contract.min_tick)
        if moment >= self.end:
            return self.close
        share = max(0.0, (moment - self.begin) / (self.end - self.begin))
        noise = unit(self.seed, self.contract.conid, _NOISE_SALT, int(moment.timestamp())) - 0.5
        wave = 0.02 * self.before * noise * math.sqrt(share * (1 - share))
        return self._to_tick(self.before + (self.close - self.before) * share + wave)

    def _to_tick(self, price: float) -> float:
        return max(self.floor, to_tick(price, self.contract.min_tick))

    @property
    def floor(self) -> float:
        """The lowest possible price: only what closes below 0, such as a spread, trades there."""
        return 0.0 if self.close >= 0 and self.before >= 0 else -math.inf


def day_path(universe: Universe, contract: Contract, day: date) -> DayPath | None:
    """Return the path of a day; `None` if the contract has no session then, or has expired."""
    close = daily_close(universe, contract.conid, day)
    hours = session(contract, day, regular=True)
    end = auction_at(contract, day)
    if close is None or hours is None or end is None:
        return None
    begin, late_from = hours
    before = daily_close(universe, contract.conid, session_before(day))
    return DayPath(
        seed=universe.seed,
        contract=contract,
        before=close if before is None else before,
        close=close,
        begin=begin,
        end=end,
        late_from=late_from,
    )


def _day(
    path: DayPath, what: What, bar_seconds: int, day: date, begin: datetime, end: datetime, *, regular: bool
) -> Iterator[Bar]:
    if bar_seconds >= DAY:
        # Any moment of a day selects its bar.
        if begin < path.late_from and path.begin < end:
            yield _bar(path, what, day, path.begin, min(path.late_from, end))
        return
    hours = session(path.contract, day, regular=regular)
    if hours is None or (what in TRADED and not _trades_on(path, day)):
        return
    at, closes = hours
    while at < closes:
        until = min(_next_boundary(at, bar_seconds), closes)
        if begin <= at < end and (what not in TRADED or until >= closes or _trades_in(path, at)):
            yield _bar(path, what, at, at, min(until, end))
        at = until


def _bar(path: DayPath, what: What, label: datetime | date, at: datetime, until: datetime) -> Bar:
    opened, between, closed = (path.price_at(moment) for moment in (at, at + (until - at) / 2, until))
    high, low = max(opened, between, closed), min(opened, between, closed)
    half = path.contract.min_tick
    if what is What.BID_ASK:  # the averages of bid and ask, the highest ask and the lowest bid
        return Bar(
            label,
            max(closed - half, path.floor),
            high + half,
            max(low - half, path.floor),
            closed + half,
            -1,
            -1,
            _NO_TRADES,
        )
    shift = {What.BID: -half, What.ASK: half}.get(what, 0.0)
    opened, high, low, closed = (round(max(price + shift, path.floor), 9) for price in (opened, high, low, closed))
    if what not in TRADED:
        return Bar(label, opened, high, low, closed, _NO_TRADES, -1, _NO_TRADES)
    volume = 1 + math.floor(900 * unit(path.seed, path.contract.conid, _VOLUME_SALT, int(at.timestamp())))
    average = round((opened + closed) / 2, 9)
    return Bar(label, opened, high, low, closed, volume, average, max(1, volume // 3))


def _next_boundary(at: datetime, seconds: int) -> datetime:
    """Return the end of the bar that begins at `at`: bars begin at multiples of their size since local midnight."""
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    elapsed = int((at - midnight).total_seconds())
    return at + timedelta(seconds=seconds - elapsed % seconds)


def _trades_on(path: DayPath, day: date) -> bool:
    """Return whether a contract trades on a day: options do not on three days in ten."""
    conid = path.contract.conid
    return path.contract.sec_type != OPTION or unit(path.seed, conid, _TRADES_SALT, day.toordinal()) < _TRADES_THAT_DAY


def _trades_in(path: DayPath, at: datetime) -> bool:
    """Return whether a contract that trades on the day does so in a bar; in the last bar it always does."""
    minute = int(at.timestamp()) // 60
    return (
        path.contract.sec_type != OPTION or unit(path.seed, path.contract.conid, _BAR_SALT, minute) < _TRADES_IN_A_BAR
    )
