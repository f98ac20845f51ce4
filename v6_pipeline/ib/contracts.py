"""Contracts: converted from ib_async's, and qualified by conid.

Positions carry an empty exchange for options and futures, and a primary one for stocks; a market-data request for such
a contract draws 321 or 200. So each contract is looked up once by its conid, and requested at ``SMART`` where IB routes
it so, else at its own exchange. The answers are cached in ``v6_pipeline.ib.contract_cache``.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import date, datetime

from ib_async import Contract, ContractDetails
from ib_async.wrapper import RequestError

from v6_pipeline.errors import GatewayError, UnknownContractError
from v6_pipeline.ib.codes import Reaction, reaction_to
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.model import ContractSpec, SecType, known

SMART = "SMART"


def spec_from_ib(contract: Contract) -> ContractSpec:
    """Convert ib_async's contract of a position or portfolio message (not qualified: no exchange)."""
    return ContractSpec(
        conid=contract.conId,
        symbol=contract.symbol,
        sec_type=SecType.parse(contract.secType),
        currency=contract.currency,
        local_symbol=contract.localSymbol,
        trading_class=contract.tradingClass,
        right=_right(contract.right),
        strike=_strike(contract),
        expiry=parse_expiry(contract.lastTradeDateOrContractMonth),
        multiplier=_multiplier(contract.multiplier),
    )


def spec_from_details(details: ContractDetails) -> ContractSpec:
    """Convert a contract definition: qualified, with magnifier and underlying."""
    contract = details.contract
    if contract is None:
        raise GatewayError("the gateway sent a contract definition without a contract")
    exchanges = details.validExchanges.split(",")
    return replace(
        spec_from_ib(contract),
        exchange=SMART if SMART in exchanges else contract.exchange or contract.primaryExchange or exchanges[0],
        price_magnifier=details.priceMagnifier or 1,
        underlying_conid=details.underConId or None,
    )


def request_contract(spec: ContractSpec) -> Contract:
    """Return the contract of a request for market data or history: conid and exchange, which suffice.

    Symbol and security type could only contradict the conid: IB refuses then with 200 or 478, as after a renaming, or
    for a type that it spells otherwise.
    """
    return Contract(conId=spec.conid, exchange=spec.exchange)


async def qualify(connection: IBConnectionManager, conid: int) -> ContractSpec:
    """Look a contract up by its conid.

    Raises:
        UnknownContractError: IB has no definition (200; expired options have none).
        RequestTimeoutError: no answer in time.
        GatewayError: the request was refused, or the connection closed.
    """
    ib = connection.ib
    req_id = ib.client.getReqId()
    answer = ib.wrapper.startReq(req_id, Contract(conId=conid))

    def on_error(failed_id: int, code: int, text: str, _contract: object) -> None:
        # ib_async treats 321 as a warning and never ends the request.
        if failed_id == req_id and reaction_to(code) is Reaction.FAIL_REQUEST and not answer.done():
            answer.set_exception(RequestError(req_id, code, text))

    ib.errorEvent += on_error
    try:
        ib.client.reqContractDetails(req_id, Contract(conId=conid))
        found = await connection.request(answer, f"the definition of contract {conid}")
    except GatewayError as error:
        if isinstance(error.__cause__, RequestError) and error.__cause__.code == 200:
            raise UnknownContractError(
                f"the gateway knows no contract with conid {conid}: check the number; IB forgets expired options"
            ) from error
        raise
    finally:
        ib.errorEvent -= on_error
    if not found:
        raise UnknownContractError(f"the gateway knows no contract with conid {conid}: check the number")
    return spec_from_details(found[0])


async def qualify_all(
    connection: IBConnectionManager, conids: list[int], *, at_once: int = 20
) -> dict[int, ContractSpec | GatewayError]:
    """Look up many contracts; the result of a failed one is its error, so that it does not fail the others.

    At most ``at_once`` requests are under way: a burst of thousands would exceed IB's message rate.
    """
    gate = asyncio.Semaphore(at_once)

    async def one(conid: int) -> ContractSpec | GatewayError:
        async with gate:
            try:
                return await qualify(connection, conid)
            except GatewayError as error:
                return error

    return dict(zip(conids, await asyncio.gather(*(one(conid) for conid in conids)), strict=True))


def parse_expiry(text: str) -> date | None:
    """Parse IB's last trade date, ``20261218`` with or without a time after it; a month alone gives None."""
    digits = text[:8]
    if len(digits) < 8 or not digits.isdigit():
        return None
    try:
        return datetime.strptime(digits, "%Y%m%d").date()  # noqa: DTZ007  (a date, not an instant)
    except ValueError:
        return None


def _right(text: str) -> str | None:
    first = text[:1].upper()
    return first if first in {"C", "P"} else None


def _strike(contract: Contract) -> float | None:
    strike = known(contract.strike)
    is_option = SecType.parse(contract.secType).is_option or _right(contract.right) is not None
    return strike if strike and is_option else None


def _multiplier(text: str) -> float:
    try:
        return float(text) or 1.0
    except ValueError:
        return 1.0
