"""Requests for historical bars, and the daily closes that they give; ``close_plan`` chooses the bars."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from ib_async import BarData, BarDataList, Contract
from ib_async.wrapper import RequestError

from v6_pipeline.errors import GatewayError, HistoryRefusedError, RequestTimeoutError
from v6_pipeline.ib.close_plan import (
    Bar,
    BarType,
    CloseReason,
    CloseWindow,
    FoundClose,
    bar_types,
    closes_in,
    days_of,
    is_forgotten,
    spans,
)
from v6_pipeline.ib.codes import Reaction, reaction_to
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import request_contract
from v6_pipeline.ib.historical_pacing import HistoricalPacer
from v6_pipeline.model import ContractSpec, SecType, known
from v6_pipeline.state.account.closes import FetchedClose
from v6_pipeline.state.instants import Clock

log = logging.getLogger(__name__)

ANSWER_SECONDS = 60.0
"""Time-out of a request once it has left: IB answers a client with many requests slowly."""
ATTEMPTS = 2
"""An unanswered request is made once more."""
PACING_ATTEMPTS = 6
"""A request refused as too fast is made again at half the rate, and so on."""
_DAY_SECONDS = 86_400
_EPOCH = 2  # instants as seconds since 1970, which no time zone changes
_NEW_YORK = ZoneInfo("America/New_York")
_PERMISSION_CODES = frozenset({354, 10168, 10186, 10187})


@dataclass(frozen=True, slots=True, kw_only=True)
class BarsRequest:
    """Bars of a contract in its regular hours, from ``seconds`` before ``end`` to ``end`` (UTC)."""

    contract: ContractSpec
    bar_type: BarType
    end: datetime
    seconds: int

    @property
    def duration(self) -> str:
        """The span in IB's notation: seconds below a day, else whole days."""
        return f"{self.seconds} S" if self.seconds < _DAY_SECONDS else f"{-(-self.seconds // _DAY_SECONDS)} D"

    def __str__(self) -> str:
        kind = f"{self.bar_type.bar_size} {self.bar_type.what_to_show}"
        return f"{kind} bars of contract {self.contract.conid}, {self.duration} to {self.end:%Y-%m-%d %H:%M} UTC"


async def request_bars(
    connection: IBConnectionManager,
    request: BarsRequest,
    *,
    timeout: float = ANSWER_SECONDS,  # noqa: ASYNC109
) -> list[Bar]:
    """Make one request and return its bars; none if IB has none. Cancel it when it takes too long.

    ``timeout`` is in seconds from when the message has left.

    Raises:
        HistoryRefusedError: IB refused it; the code says why.
        RequestTimeoutError: no answer in time.
        GatewayError: the connection closed.
    """
    ib = connection.ib
    client: Any = ib.client
    req_id = client.getReqId()
    contract = _contract(request.contract)
    answer = ib.wrapper.startReq(req_id, contract, container=BarDataList())

    def on_error(failed_id: int, code: int, text: str, _contract: object) -> None:
        # ib_async treats 321 as a warning and never ends the request.
        if failed_id == req_id and reaction_to(code) is Reaction.FAIL_REQUEST and not answer.done():
            answer.set_exception(RequestError(req_id, code, text))

    ib.errorEvent += on_error
    try:
        client.reqHistoricalData(
            req_id,
            contract,
            endDateTime=f"{request.end.astimezone(UTC):%Y%m%d-%H:%M:%S}",
            durationStr=request.duration,
            barSizeSetting=request.bar_type.bar_size,
            whatToShow=request.bar_type.what_to_show,
            useRTH=True,
            formatDate=_EPOCH,
            keepUpToDate=False,
            chartOptions=[],
        )
        bars: BarDataList = await connection.request(answer, str(request), timeout=timeout)
    except (RequestTimeoutError, asyncio.CancelledError):
        if connection.is_connected:  # else it would stay open at the gateway, which allows 50
            client.cancelHistoricalData(req_id)
        raise
    except GatewayError as error:
        return _refused(error, request)
    finally:
        ib.errorEvent -= on_error
        ib.wrapper._endReq(req_id)  # noqa: SLF001  (else ib_async keeps an unanswered request for ever)
    return [bar for item in bars if (bar := _bar(item, request.contract)) is not None]


async def daily_closes(
    connection: IBConnectionManager,
    pacer: HistoricalPacer,
    contract: ContractSpec,
    windows: Sequence[CloseWindow],
    *,
    clock: Clock,
    timeout: float = ANSWER_SECONDS,  # noqa: ASYNC109
) -> list[FetchedClose]:
    """Return each day's close, or the reason for none: one request per span of days, a second kind of bars for gaps.

    ``contract`` is qualified; ``timeout`` is in seconds per request.

    Raises:
        GatewayError: the connection closed.
        StateError: the state database failed.
    """
    now = clock()
    if is_forgotten(contract, now.astimezone(_NEW_YORK).date()):
        return [without_close(contract.conid, window.day, CloseReason.EXPIRED, now) for window in windows]
    found: dict[date, FetchedClose] = {}
    reasons: dict[date, CloseReason] = {}
    for bar_type in bar_types(contract.sec_type):
        missing = [window for window in windows if window.day not in found]
        for span in spans(missing, bar_type.longest_days):
            request = _request(contract, bar_type, span, now)
            try:
                bars = await _request_with_retries(connection, pacer, request, timeout)
            except (HistoryRefusedError, RequestTimeoutError) as error:
                if not connection.is_connected:
                    raise
                reason = reason_of(error)
                log.warning("no close: %s", error)
                reasons |= {window.day: reason for window in span}
                if reason in {CloseReason.UNKNOWN_CONTRACT, CloseReason.EXPIRED, CloseReason.NO_PERMISSION}:
                    # The reason is the contract, not the span: every other request would fail as well.
                    reasons |= {window.day: reason for window in missing}
                    return _complete(contract.conid, windows, found, reasons, now)
            else:
                closes = closes_in(bars, bar_type, span, now=now)
                found |= {day: _fetched(contract.conid, day, bar_type, close, now) for day, close in closes.items()}
    return _complete(contract.conid, windows, found, reasons, now)


def reason_of(error: HistoryRefusedError | RequestTimeoutError) -> CloseReason:
    """Return the reason that a failed request gives for the missing closes."""
    if isinstance(error, RequestTimeoutError):
        return CloseReason.NO_ANSWER
    if error.code == 200:
        return CloseReason.UNKNOWN_CONTRACT
    if error.code == 166:
        return CloseReason.EXPIRED
    text = error.text.casefold()
    if error.code in _PERMISSION_CODES or "permission" in text or "not subscribed" in text:
        return CloseReason.NO_PERMISSION
    return CloseReason.NO_ANSWER


def without_close(conid: int, day: date, reason: CloseReason, now: datetime) -> FetchedClose:
    """Return the entry of a day without a close."""
    return FetchedClose(conid=conid, day=day, reason=reason.value, fetched_at=now)


async def _request_with_retries(
    connection: IBConnectionManager,
    pacer: HistoricalPacer,
    request: BarsRequest,
    timeout: float,  # noqa: ASYNC109
) -> list[Bar]:
    """Make one request; repeat it when it came too fast or was not answered."""
    unanswered = too_fast = 0
    while True:
        async with pacer.admission():
            try:
                return await request_bars(connection, request, timeout=timeout)
            except RequestTimeoutError:
                unanswered += 1
                if unanswered >= ATTEMPTS or not connection.is_connected:
                    raise
            except HistoryRefusedError as error:
                too_fast += 1
                if not is_too_fast(error.code, error.text) or too_fast >= PACING_ATTEMPTS:
                    raise
                await pacer.back_off(f"{error.code} {error.text}")


def is_too_fast(code: int, text: str) -> bool:
    """Return whether IB refused because requests came too fast, or too many were open."""
    return reaction_to(code, text) is Reaction.BACK_OFF or (code == 322 and "simultaneous" in text.casefold())


def _request(contract: ContractSpec, bar_type: BarType, span: Sequence[CloseWindow], now: datetime) -> BarsRequest:
    """Return the request for a span of days, newest first; it ends with the newest one's cut-off, or now."""
    end = max(min(span[0].cut_off, now), span[-1].begins_at)
    seconds = days_of(end, span[-1]) * _DAY_SECONDS
    return BarsRequest(contract=contract, bar_type=bar_type, end=end, seconds=seconds)


def _contract(spec: ContractSpec) -> Contract:
    contract = request_contract(spec)
    contract.includeExpired = spec.sec_type is SecType.FUTURE
    return contract


def _refused(error: GatewayError, request: BarsRequest) -> list[Bar]:
    """Return no bars if IB's refusal means that there are none; else raise the refusal with its code."""
    cause = error.__cause__
    if not isinstance(cause, RequestError):
        raise error
    if reaction_to(cause.code, cause.message) is Reaction.NO_DATA:
        return []
    message = f"the gateway refused the request for {request}: {cause.code} {cause.message}"
    raise HistoryRefusedError(message, code=cause.code, text=cause.message) from error


def _bar(item: BarData, contract: ContractSpec) -> Bar | None:
    """Convert IB's bar, whose prices are as quoted; return None for one without a price.

    A future can close at 0 or below, anything else cannot: 0 and -1 are IB's "no data".
    """
    close = known(item.close)
    if close is None or (close <= 0 and not contract.sec_type.is_signed):
        return None
    return Bar(item.date, close)


def _fetched(conid: int, day: date, bar_type: BarType, found: FoundClose, now: datetime) -> FetchedClose:
    return FetchedClose(
        conid=conid,
        day=day,
        close=found.close,
        bar_size=bar_type.bar_size,
        what_to_show=bar_type.what_to_show,
        bar_time=found.bar_time,
        fetched_at=now,
    )


def _complete(
    conid: int,
    windows: Sequence[CloseWindow],
    found: dict[date, FetchedClose],
    reasons: dict[date, CloseReason],
    now: datetime,
) -> list[FetchedClose]:
    """Return an entry for each day."""
    return [
        found.get(window.day) or without_close(conid, window.day, reasons.get(window.day, CloseReason.NO_DATA), now)
        for window in windows
    ]
