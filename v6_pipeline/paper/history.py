"""Historical data: IB's rules for reqHistoricalData, its pacing of small bars, and ordered faults.

Pacing: https://interactivebrokers.github.io/tws-api/historical_limitations.html
"""

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from v6_pipeline.paper import messages
from v6_pipeline.paper.conditions import Farm, NextRequests, use_up
from v6_pipeline.paper.config import GatewayConfig
from v6_pipeline.paper.contracts import FUTURE, Contract
from v6_pipeline.paper.fields import Count, Seconds
from v6_pipeline.paper.history_bars import BAR_SECONDS, SMALL_BAR, What, bars_between
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.market_data import NO_DEFINITION, validation_error
from v6_pipeline.paper.prices import expiry_of
from v6_pipeline.paper.requests import HistoricalDataRequest, parse_historical_data, parse_versioned_id
from v6_pipeline.paper.session import ClientSession
from v6_pipeline.paper.statistics import Statistics
from v6_pipeline.paper.trading_hours import time_zone
from v6_pipeline.paper.wire import Fields

_SERVICE = "Historical Market Data Service error message:"
_SIX_MONTHS = timedelta(days=183)
_UNIT_SECONDS = {"S": 1, "D": 86_400, "W": 7 * 86_400, "M": 31 * 86_400, "Y": 366 * 86_400}
# The longest duration for which IB serves a bar size (its "step sizes"), in seconds.
_LONGEST = (
    (1, 1_800),
    (5, 3_600),
    (15, 14_400),
    (30, 28_800),
    (60, 86_400),
    (120, 2 * 86_400),
    (1_200, 7 * 86_400),
    (28_800, 31 * 86_400),
    (86_400, 366 * 86_400),
)
_END_FORMS = (
    (re.compile(r"(\d{8})-(\d\d:\d\d:\d\d)()"), "UTC"),
    (re.compile(r"(\d{8}) (\d\d:\d\d:\d\d)(?: (\S+))?"), "America/New_York"),
)

MOST_OPEN = 50
"""Requests that all clients together may have open, for bars of any size."""

_WINDOW_SECONDS, _MOST_IN_WINDOW = 600.0, 60
_IDENTICAL_SECONDS = 15.0
_SAME_CONTRACT_SECONDS, _TOO_MANY_OF_A_CONTRACT = 2.0, 6


class Refusal(StrEnum):
    """Ways in which an action refuses a request."""

    PACING = "pacing"
    NO_DATA = "no_data"
    PERMISSION = "permission"
    FAILED = "failed"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class _Query:
    """A validated request."""

    contract: Contract
    what: What
    bar_seconds: int
    begin: datetime
    end: datetime


class _RefusedError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class _Asked:
    at: float
    contract: str
    identity: str
    cost: int


class SmallBarPacing:
    """Requests for small bars in the last ten minutes, over all clients. Larger bars are only slowed down."""

    def __init__(self) -> None:
        self._asked: deque[_Asked] = deque()

    def admit(self, now: float, *, contract: str, identity: str, cost: int) -> bool:
        """Count a request at `now`, in monotonic seconds; return False, uncounted, if it violates a rule."""
        while self._asked and now - self._asked[0].at >= _WINDOW_SECONDS:
            self._asked.popleft()
        same = [item for item in self._asked if item.contract == contract and now - item.at < _SAME_CONTRACT_SECONDS]
        is_violation = (
            sum(item.cost for item in self._asked) + cost > _MOST_IN_WINDOW
            or any(item.identity == identity and now - item.at < _IDENTICAL_SECONDS for item in self._asked)
            or sum(item.cost for item in same) + cost >= _TOO_MANY_OF_A_CONTRACT
        )
        if not is_violation:
            self._asked.append(_Asked(now, contract, identity, cost))
        return not is_violation


class HistoryDesk:
    """Serves historical bars to all clients; a fault sets `extra_seconds` of an answer, or `refusals` to come."""

    def __init__(self, config: GatewayConfig, market: Market, statistics: Statistics) -> None:
        self.extra_seconds = 0.0
        self.refusals: list[NextRequests[Refusal]] = []
        self._config = config
        self._market = market
        self._statistics = statistics
        self._pacing = SmallBarPacing()
        self._open: dict[tuple[ClientSession, int], asyncio.TimerHandle | None] = {}
        self._next_answer_at = 0.0

    def request(self, session: ClientSession, fields: Fields) -> None:
        """Serve reqHistoricalData: an answer later, or an error at once."""
        request = parse_historical_data(fields)
        try:
            query = self._understand(session, request)
            self._log(request, query)
            self._admit(request, query)
        except _RefusedError as refused:
            session.error(request.request_id, refused.code, refused.text)
            return
        key = session, request.request_id
        self._statistics.history.opened()
        self._open[key] = None
        if self._has_fault(Refusal.SILENCE, query.contract) or not self._is_served():
            return
        seconds = self._seconds(query)
        if seconds:
            self._open[key] = asyncio.get_running_loop().call_later(seconds, self._answer, session, request, query)
        else:
            self._answer(session, request, query)

    def cancel(self, session: ClientSession, fields: Fields) -> None:
        """Serve cancelHistoricalData: 162 for an open request, 366 for any other."""
        request_id = parse_versioned_id(fields)
        if (session, request_id) not in self._open:
            session.error(request_id, 366, f"No historical data query found for ticker id:{request_id}")
            return
        self._close(session, request_id)
        session.error(request_id, 162, f"{_SERVICE}API historical data query cancelled: {request_id}")

    def disconnected(self, session: ClientSession) -> None:
        """Drop the open requests of a client that is gone."""
        for owner, request_id in list(self._open):
            if owner is session:
                self._close(session, request_id)

    def _understand(self, session: ClientSession, request: HistoricalDataRequest) -> _Query:
        if (session, request.request_id) in self._open:
            raise _RefusedError(322, "Error processing request.-'bQ' : cause - Duplicate ticker id")
        if not request.query.exchange:
            raise _RefusedError(321, validation_error("Please enter exchange"))
        if request.keep_up_to_date:
            raise _RefusedError(321, validation_error("Historical bars that are kept up to date are not simulated"))
        if request.bar_size not in BAR_SECONDS:
            text = f"Historical data bar size setting is invalid. Legal ones are: {', '.join(BAR_SECONDS)}"
            raise _RefusedError(321, validation_error(text))
        if request.what_to_show not in set(What):
            raise _RefusedError(321, validation_error("Incorrect historical data query end date/time or what to show"))
        seconds = _duration(request.duration)
        now = self._config.utcnow()
        end = min(_end(request.end, now), now)
        begin = end - timedelta(seconds=seconds)
        contract = self._contract(request, end)
        bar_seconds = BAR_SECONDS[request.bar_size]
        return _Query(contract, What(request.what_to_show), bar_seconds, begin, end)

    def _contract(self, request: HistoricalDataRequest, end: datetime) -> Contract:
        conditions = self._market.conditions
        found = [
            contract
            for contract in self._market.universe.find(request.query)
            if conditions.is_defined(contract.conid) and self._is_alive(contract, request, end)
        ]
        if not found:
            raise _RefusedError(200, NO_DEFINITION)
        if len(found) > 1:
            text = f"The contract description specified for {request.query.symbol} is ambiguous."
            raise _RefusedError(200, text)
        return found[0]

    def _is_alive(self, contract: Contract, request: HistoricalDataRequest, end: datetime) -> bool:
        """Return whether IB knows the contract: no expired option, and expired futures only if requested."""
        expiry = expiry_of(contract)
        if expiry is None or expiry >= self._config.utcnow().astimezone(ZoneInfo("America/New_York")).date():
            return True
        return contract.sec_type == FUTURE and request.include_expired and end.year - expiry.year <= 2

    def _log(self, request: HistoricalDataRequest, query: _Query) -> None:
        statistics, conid = self._statistics, query.contract.conid
        statistics.history.asked[conid] += 1
        what = request.bar_size, request.what_to_show, request.end, request.duration
        statistics.history.log.append((statistics.seconds, conid, *what))

    def _admit(self, request: HistoricalDataRequest, query: _Query) -> None:
        """Refuse requests beyond IB's limits and requests for data that IB does not serve."""
        contract = query.contract
        where = f"{contract.local_symbol}@{request.query.exchange} {query.what.value.title()}"
        if len(self._open) >= MOST_OPEN:
            self._statistics.history.violations += 1
            text = f"Only {MOST_OPEN} simultaneous API historical data requests allowed."
            raise _RefusedError(322, f"Error processing request.-'bQ' : cause - {text}")
        is_small = query.bar_seconds <= SMALL_BAR
        if is_small and not self._is_paced(request, query):
            self._violated()
        if self._has_fault(Refusal.PACING, contract):
            self._violated()
        longest = next(limit for size, limit in _LONGEST if query.bar_seconds <= size)
        if (query.end - query.begin).total_seconds() > longest:
            raise _RefusedError(162, f"{_SERVICE}Time length exceed max.")
        if contract.conid in self._market.conditions.denied or self._has_fault(Refusal.PERMISSION, contract):
            exchange = contract.exchanges[-1]
            raise _RefusedError(162, f"{_SERVICE}No market data permissions for {exchange} {contract.sec_type}")
        if self._has_fault(Refusal.FAILED, contract):
            raise _RefusedError(162, f"{_SERVICE}HMDS server failed to process the query")
        is_too_old = is_small and query.begin < self._config.utcnow() - _SIX_MONTHS
        if is_too_old or self._has_fault(Refusal.NO_DATA, contract):
            raise _RefusedError(162, f"{_SERVICE}HMDS query returned no data: {where}")

    def _violated(self) -> None:
        self._statistics.history.violations += 1
        raise _RefusedError(162, f"{_SERVICE}Historical data request pacing violation")

    def _is_paced(self, request: HistoricalDataRequest, query: _Query) -> bool:
        key = f"{query.contract.conid} {request.query.exchange} {query.what}"
        return self._pacing.admit(
            self._config.clock(),
            contract=key,
            identity=f"{key} {request.end} {request.duration} {request.bar_size} {request.use_rth}",
            cost=2 if query.what is What.BID_ASK else 1,
        )

    def _has_fault(self, why: Refusal, contract: Contract) -> bool:
        return use_up(self.refusals, contract.conid, why) is not None

    def _is_served(self) -> bool:
        """Return whether IB's servers can answer; if not, a request stays open."""
        return self._market.link.is_up and Farm.USHMDS not in self._market.link.broken

    def _seconds(self, query: _Query) -> float:
        """Return the seconds until the answer; answers with large bars are also spaced by `history_rate`."""
        seconds = self._config.history_seconds + self.extra_seconds
        if query.bar_seconds <= SMALL_BAR:
            return seconds
        now = self._config.clock()
        begins_at = max(now, self._next_answer_at)
        self._next_answer_at = begins_at + 1 / self._config.history_rate
        # A client that requests no faster than the rate does not wait.
        return seconds + (begins_at - now)

    def _answer(self, session: ClientSession, request: HistoricalDataRequest, query: _Query) -> None:
        self._close(session, request.request_id)
        bars = bars_between(
            self._market.universe,
            query.contract,
            query.what,
            query.bar_seconds,
            query.begin,
            query.end,
            regular=request.use_rth,
        )
        if not bars:
            self._statistics.history.empty += 1
            where = f"{query.contract.local_symbol}@{request.query.exchange} {query.what.value.title()}"
            session.error(request.request_id, 162, f"{_SERVICE}HMDS query returned no data: {where}")
            return
        self._statistics.history.answers += 1
        zone = time_zone(query.contract)
        begin, end = (
            f"{moment.astimezone(ZoneInfo(zone)):%Y%m%d %H:%M:%S} {zone}" for moment in (query.begin, query.end)
        )
        rows = [bar.fields(as_epoch=request.format_date == 2, zone=zone) for bar in bars]
        session.send(messages.historical_data(request.request_id, begin, end, rows))

    def _close(self, session: ClientSession, request_id: int) -> None:
        timer = self._open.pop((session, request_id))
        self._statistics.history.closed()
        if timer is not None:
            timer.cancel()


class HistoryFaults:
    """Faults of the historical data of one gateway. Every public method is an action; see `actions`."""

    def __init__(self, desk: HistoryDesk) -> None:
        self._desk = desk

    def delay_history(self, seconds: Seconds) -> None:
        """Answer historical requests so many seconds later, until healed."""
        self._desk.extra_seconds = seconds

    def ignore_history(self, count: Count = 1, conids: list[int] | None = None) -> None:
        """Never answer the next historical requests for these contracts, or for any."""
        self.refuse_history(Refusal.SILENCE, count, conids)

    def refuse_history(self, why: Refusal = Refusal.PACING, count: Count = 1, conids: list[int] | None = None) -> None:
        """Refuse the next historical requests for these contracts, or for any."""
        self._desk.refusals.append(NextRequests.of(why, count, conids))

    def heal(self) -> None:
        """Cancel all faults of historical data."""
        self._desk.extra_seconds = 0.0
        self._desk.refusals.clear()


def _duration(text: str) -> int:
    """Return the seconds of an IB duration such as ``30 D``."""
    found = re.fullmatch(r"(\d{1,5}) ([SDWMY])", text)
    if found is None or not int(found[1]):
        raise _RefusedError(321, validation_error("Historical data query duration is invalid: use 'n S', D, W, M or Y"))
    if found[2] == "D" and int(found[1]) > 365:
        text = "Historical data requests for durations longer than 365 days must be made in years."
        raise _RefusedError(321, validation_error(text))
    return int(found[1]) * _UNIT_SECONDS[found[2]]


def _end(text: str, now: datetime) -> datetime:
    """Return the instant of an endDateTime; without a zone it is in the login's zone, and empty is now."""
    if not text:
        return now
    for form, zone in _END_FORMS:
        if found := form.fullmatch(text):
            try:
                moment = datetime.strptime(found[1] + found[2], "%Y%m%d%H:%M:%S").replace(
                    tzinfo=ZoneInfo(found[3] or zone)
                )
            except (ValueError, KeyError, OSError):
                break
            return moment.astimezone(UTC)
    correct = "The correct format is yyyymmdd hh:mm:ss xx/xxxx where yyyymmdd and xx/xxxx are optional."
    raise _RefusedError(10314, f"End Date/Time: The date, time, or time-zone entered is invalid. {correct}")
