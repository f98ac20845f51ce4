"""Files of holdings and unusual contracts, as the paper gateway sends them to a real client."""

import json
import math
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import GatewayConfig, PaperGateway, load_holdings
from v6_pipeline_tests.integration.paper.client import FIRST, Client, Connect, contract_of, settled

SAMPLES = sorted((Path(__file__).parents[2] / "fixtures" / "gateway").glob("*.json"))
A_HOLDING = '"account": "DU1", "conId": 1, "symbol": "A", "secType": "STK", "exchanges": ["SMART"]'
IBUS500, NATURAL_GAS, BILL, GAW = 698_000_005, 698_000_013, 698_000_001, 698_000_003


def sample(name: str) -> Path:
    return next(path for path in SAMPLES if path.stem == name)


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["holdings"]
    return rows


async def served(name: str, config: GatewayConfig, stack: AsyncExitStack) -> PaperGateway:
    file = load_holdings(sample(name))
    changed = replace(config, accounts=file.accounts, positions=file.positions, holdings=file)
    return await stack.enter_async_context(PaperGateway(changed))


async def portfolio_of(client: Client, account: str) -> dict[int, Any]:
    await client.ib.reqAccountUpdatesAsync(account)
    return {item.contract.conId: item for item in client.ib.portfolio(account)}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
async def test_each_sample_is_served_with_its_ticks_and_its_portfolio_rows(
    path: Path, config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    gateway = await served(path.stem, config, stack)
    client = await connect(to=gateway)
    rows = rows_of(path)
    positions = {item.contract.conId: item for item in await client.ib.reqPositionsAsync()}
    portfolio = await portfolio_of(client, gateway.config.accounts[0])
    tickers = {}
    for row in rows:
        tickers[row["conId"]] = client.ib.reqMktData(contract_of(row["conId"], row["exchanges"][0]), "221")
    await settled(client)
    for row in rows:
        conid = row["conId"]
        assert (positions[conid].position, positions[conid].avgCost) == (row["qty"], row["avgCost"])
        # ib_async makes a warrant of an IOPT.
        sec_type = {"IOPT": "WAR"}.get(row["secType"], row["secType"])
        assert (positions[conid].contract.secType, positions[conid].contract.symbol) == (sec_type, row["symbol"])
        for key, field in (
            ("value", "marketValue"),
            ("portfolioPrice", "marketPrice"),
            ("unrealized", "unrealizedPNL"),
        ):
            if isinstance(row.get(key), float):
                assert getattr(portfolio[conid], field) == row[key]
        ticker = tickers[conid]
        assert (ticker.time is None) == row.get("silent", False)
        for name, price in row.get("tick", {}).items():
            quiet = name.removesuffix("Size") in {"bid", "ask"} and row["tick"].get(f"{name}Size", 1) == 0
            if not name.endswith("Size") and not quiet and price:
                assert getattr(ticker, "markPrice" if name == "mark" else name) == price
        if row["secType"] not in {"BOND", "BILL"}:  # ib_async cannot read the coupon of their definition
            (details,) = await client.ib.reqContractDetailsAsync(contract_of(conid, ""))
            assert details.contract is not None
            assert (details.contract.secType, details.contract.symbol) == (row["secType"], row["symbol"])
            assert details.priceMagnifier == row.get("magnifier", 1)


async def test_unknown_numbers_of_a_portfolio_row_are_sent_as_they_stand(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    client = await connect(to=await served("unusual_security_types", config, stack))
    portfolio = await portfolio_of(client, "SIM900001")
    assert portfolio[713].marketValue > 1e308
    assert math.isnan(portfolio[713].unrealizedPNL)
    assert 714 not in portfolio  # ib_async cannot read an empty number, and drops the row


async def test_advised_contracts_get_the_error_and_only_the_silent_ones_no_tick(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    gateway = await served("advised_and_silent", config, stack)
    client = await connect(to=gateway)
    tickers = {conid: client.ib.reqMktData(contract_of(conid)) for conid in range(800, 808)}
    await settled(client)
    assert client.codes() == [10089] * 4
    assert [conid for conid, ticker in tickers.items() if ticker.time] == [804, 805, 806, 807]
    assert gateway.statistics.lines == 8


async def test_contradicting_fields_draw_478_and_another_security_type_200(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    from ib_async import Contract

    gateway = await served("renamed_symbol", config, stack)
    client = await connect(to=gateway)
    gateway.perform("rename", conid=601, symbol="META")
    others = [Contract(symbol="FB"), Contract(secType="OTHER"), Contract(currency="EUR"), Contract(symbol="META")]
    for contract in (*others, Contract()):
        contract.conId, contract.exchange = 601, "SMART"
        client.ib.client.reqMktData(client.ib.client.getReqId(), contract, "", False, False, [])
    await settled(client)
    assert client.codes() == [478, 200, 478]
    assert gateway.statistics.lines == 2


async def test_a_renamed_contract_is_named_by_the_next_position_message(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    gateway = await served("renamed_symbol", config, stack)
    client = await connect(to=gateway)
    await client.ib.reqPositionsAsync()
    gateway.perform("rename", conid=601, symbol="META")
    await settled(client)
    names = {item.contract.conId: (item.contract.symbol, item.contract.localSymbol) for item in client.ib.positions()}
    assert names == {601: ("META", "META"), 602: ("MSFT", "MSFT")}


async def test_prescribed_prices_are_sent_exactly_and_end_again(gateway: PaperGateway, connect: Connect) -> None:
    client = await connect()
    ticker = client.ib.reqMktData(contract_of(265598), "221")
    gateway.perform("quote", conid=265598, bid=0.05, ask=20.0, last=0.0, last_size=0.0)
    gateway.tick_once()
    await settled(client)
    assert (ticker.bid, ticker.ask, ticker.last, ticker.lastSize) == (0.05, 20.0, 0.0, 0.0)
    gateway.perform("quote", conid=265598)
    gateway.tick_once()
    await settled(client)
    assert ticker.bid == gateway.market.quote(265598).bid


async def test_unusual_kinds_are_held_quoted_and_valued(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    gateway = await stack.enter_async_context(PaperGateway(replace(config, unusual=True)))
    client = await connect(to=gateway)
    held = {item.contract.conId: item for item in await client.ib.reqPositionsAsync()}
    tickers = {}
    for conid in (IBUS500, NATURAL_GAS, BILL, GAW):
        exchange = gateway.universe.contracts[conid].exchanges[0]
        tickers[conid] = client.ib.reqMktData(contract_of(conid, exchange), "221")
    await settled(client)
    portfolio = await portfolio_of(client, FIRST)
    kinds = {item.contract.secType for item in held.values()}
    assert kinds >= {"BILL", "BOND", "CFD", "WAR", "EC", "ICU", "ICS", "FUND", "CRYPTO"}
    assert tickers[NATURAL_GAS].bid < tickers[NATURAL_GAS].ask < 0
    assert tickers[GAW].bid > 3_000  # pence
    bill = portfolio[BILL]
    assert bill.marketValue == pytest.approx(21 * bill.marketPrice * 10)
    assert bill.averageCost == pytest.approx(987, rel=0.2)
    assert tickers[IBUS500].bid == pytest.approx(gateway.market.quote(416904).mark, rel=1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "holdings file .*: Expecting"),
        ("[]", "not an object"),
        ('{"accounts": "DU1"}', "has no 'holdings'"),
        ('{"accounts": "no", "holdings": []}', "account 'no' is not letters and digits"),
        ('{"accounts": "DU1", "holdings": [{"conid": 1}]}', "holding 1 has the unknown key 'conid'"),
        ('{"accounts": "DU1", "holdings": [], "advise": {"5": [1, "x"]}}', "advise names '5'"),
        (
            f'{{"accounts": "DU1", "holdings": [{{{A_HOLDING}, "qty": "x", "avgCost": 1, "price": 1}}]}}',
            "qty of holding 1 must be a number",
        ),
    ],
)
def test_an_impossible_file_is_refused_with_the_place(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "holdings.json"
    path.write_text(content)
    with pytest.raises(GatewayError, match=message):
        load_holdings(path)
