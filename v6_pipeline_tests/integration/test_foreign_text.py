"""Text of a gateway with terminal escapes and markup: visible in rows, errors, logs, the terminal and Dagster."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from v6_pipeline.cli import output
from v6_pipeline.errors import RequestRefusedError
from v6_pipeline.ib.connection import IBConnectionManager
from v6_pipeline.ib.contracts import qualify
from v6_pipeline.ib.positions import download_positions
from v6_pipeline.paper import PaperGateway
from v6_pipeline_tests.integration.conftest import OpenConnection
from v6_pipeline_tests.integration.scripted_gateway import START_API, ScriptedGateway
from v6_pipeline_tests.integration.test_ib_positions import AAPL, ACCOUNT, POSITIONS, position
from v6_pipeline_tests.integration.test_worker import Rig, rig
from v6_pipeline_tests.unit.state.databases import ManualClock

__all__ = ["rig"]

EVIL = "\x1b]0;owned\x07\x1b[31mA\u202eB\n[x](http://a/)"
SHOWN = r"\x1b]0;owned\x07\x1b[31mA\u202eB [x](http://a/)"
ESCAPES = "\x1b\x07\u202e\n"


@pytest.fixture
def renamed(gateway: PaperGateway) -> PaperGateway:
    """Every text of one contract is evil."""
    contracts = gateway.universe.contracts
    texts = dict.fromkeys(("symbol", "local_symbol", "trading_class", "long_name", "market_name"), EVIL)
    contracts[AAPL] = replace(contracts[AAPL], **texts)  # type: ignore[arg-type]
    return gateway


async def test_positions_and_definitions_have_visible_texts(
    renamed: PaperGateway, connection: IBConnectionManager, clock: ManualClock
) -> None:
    held = next(item for item in await download_positions(connection, clock) if item.contract.conid == AAPL)
    defined = await qualify(connection, AAPL)

    for spec in (held.contract, defined):
        assert (spec.symbol, spec.local_symbol, spec.trading_class) == (SHOWN, SHOWN, SHOWN)


async def test_the_rows_of_a_refresh_and_the_terminal_have_them_too(
    renamed: PaperGateway, rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    await rig.refresh()

    rows = [row for row in rig.rows().to_dicts() if row["conid"] == AAPL]
    assert {(row["symbol"], row["local_symbol"], row["trading_class"]) for row in rows} == {(SHOWN, SHOWN, SHOWN)}
    output.table(("symbol",), [(row["symbol"],) for row in rows])
    output.line(rows[0]["symbol"])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert SHOWN in printed


async def test_an_error_has_visible_words(
    open_connection: OpenConnection, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refusal = [(4, 2, -1, 10275, EVIL, "")]
    async with ScriptedGateway({POSITIONS: refusal, 74: refusal}) as scripted:
        connection = await open_connection(port=scripted.port, refusal_timeout=0.02)

        with pytest.raises(RequestRefusedError) as raised:
            await download_positions(connection, clock)

    assert SHOWN in str(raised.value)
    for text in (str(raised.value), *(record.getMessage() for record in caplog.records)):
        assert not set(text) & set(ESCAPES)


async def test_names_of_accounts_are_visible(open_connection: OpenConnection) -> None:
    scripted = ScriptedGateway()
    scripted._answers[START_API] = [(15, 1, f"{ACCOUNT},DU\x1b[2J1,"), (9, 1, 1)]
    async with scripted:
        connection = await open_connection(port=scripted.port)

        assert connection.accounts == (ACCOUNT, r"DU\x1b[2J1")


async def test_bytes_that_are_no_utf_8_are_visible(open_connection: OpenConnection, clock: ManualClock) -> None:
    async with ScriptedGateway({POSITIONS: [(62, 1)]}) as scripted:
        connection = await open_connection(port=scripted.port)
        row = [str(field).encode() for field in position(1, 5)]
        row[4] = b"A\x9b\xff"
        payload = b"".join(field + b"\0" for field in row)
        for writer in scripted._writers:
            writer.write(len(payload).to_bytes(4, "big") + payload)
        await connection.request(connection.ib.reqPositionsAsync(), "positions")
        [held] = connection.ib.positions()

    assert held.contract.symbol == r"A\x9b\xff"
