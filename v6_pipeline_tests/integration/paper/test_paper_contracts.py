"""Contract details of the paper gateway."""

from v6_pipeline.paper import PaperGateway
from v6_pipeline_tests.integration.paper.client import (
    NOW,
    SPX,
    Connect,
    an_option,
    contract_of,
    settled,
)


async def test_details_of_a_conid_alone_make_a_contract_that_can_be_requested(
    gateway: PaperGateway, connect: Connect
) -> None:
    client = await connect()
    conid = an_option(gateway)
    own = gateway.universe.contracts[conid]
    (details,) = await client.ib.reqContractDetailsAsync(contract_of(conid, ""))
    contract = details.contract
    assert contract is not None
    assert (contract.conId, contract.strike, contract.right, contract.exchange) == (
        conid,
        own.strike,
        own.right,
        "SMART",
    )
    assert (contract.lastTradeDateOrContractMonth, contract.localSymbol) == (own.expiry, own.local_symbol)
    assert (details.lastTradeTime, details.realExpirationDate, details.contractMonth) == (
        "16:00:00",
        own.expiry,
        own.expiry[:6],
    )
    assert (details.minTick, details.underConId, details.priceMagnifier) == (0.05, SPX, 1)
    assert details.validExchanges.split(",")[0] == "SMART"
    assert details.longName == "S&P 500 Stock Index"
    assert details.marketName == "SPXW"
    assert details.timeZoneId == "US/Eastern"
    assert details.tradingSessions()[0].start.date() == NOW.date()
    assert len(details.liquidSessions()) == 4  # Friday 20 to Wednesday 25 November, but for the weekend


async def test_details_of_a_future_name_its_exchange_and_magnifier(connect: Connect) -> None:
    from ib_async import Future

    client = await connect()
    found = await client.ib.reqContractDetailsAsync(Future("ZC", exchange="CBOT"))
    assert [details.contract.exchange for details in found if details.contract] == ["CBOT"] * 3
    assert {(details.priceMagnifier, details.contract.multiplier) for details in found if details.contract} == {
        (100, "5000")
    }


async def test_an_unknown_contract_is_error_200_with_ibs_text(connect: Connect) -> None:
    client = await connect()
    assert await client.ib.reqContractDetailsAsync(contract_of(12345, "")) == []
    client.ib.reqMktData(contract_of(12345))
    await settled(client)
    assert client.codes() == [200, 200]
    assert client.text(200) == "No security definition has been found for the request"


async def test_a_description_without_security_type_is_321(connect: Connect) -> None:
    from ib_async import Contract

    client = await connect()
    client.ib.client.reqContractDetails(60, Contract(symbol="AAPL"))
    await settled(client)
    assert client.codes() == [321]


async def test_an_ambiguous_contract_is_error_200(gateway: PaperGateway, connect: Connect) -> None:
    from ib_async import Option

    client = await connect()
    client.ib.client.reqMktData(50, Option("SPX", exchange="SMART"), "", False, False, [])
    await settled(client)
    assert client.codes() == [200]
    assert gateway.statistics.lines == 0
