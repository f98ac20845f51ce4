"""Scenario files, the registry behind them and the control port, and time that is not the wall's."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import (
    ControlClient,
    GatewayConfig,
    GatewayThread,
    PaperGateway,
    load_scenario,
    shipped_scenario,
    shipped_scenarios,
)
from v6_pipeline.paper.actions import Actions
from v6_pipeline_tests.integration.paper.client import AAPL, FIRST, IBM, NOW, Connect, contract_of, eventually

CONFIG = GatewayConfig(as_of=date(2026, 11, 20), tick_seconds=None, control_port=None)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer when nothing else is to be done."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


@pytest.fixture(scope="module")
def actions() -> Actions:
    """Actions against which a scenario is checked."""
    return PaperGateway(CONFIG).actions


@pytest.fixture
def loop() -> Iterator[JumpingLoop]:
    jumping = JumpingLoop()
    yield jumping
    jumping.close()


def written(folder: Path, text: str) -> Path:
    path = folder / "night.toml"
    path.write_text(text)
    return path


def play(loop: JumpingLoop, path: Path | str, seconds: float) -> list[tuple[float, str]]:
    """Play a scenario for `seconds`; return the times and names of its actions."""

    async def run() -> list[tuple[float, str]]:
        async with PaperGateway(replace(CONFIG, clock=loop.time)) as gateway:
            actions = gateway.actions
            gateway.play(load_scenario(path, actions) if isinstance(path, Path) else shipped_scenario(path, actions))
            await asyncio.sleep(seconds)
            return [(round(moment, 3), name) for moment, name, _ in gateway.statistics.actions]

    return loop.run_until_complete(run())


def test_a_scenario_plays_its_actions_at_their_moments_again_and_again(loop: JumpingLoop, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [[action]]
        at = 5
        every = 10.0
        until = 30
        do = "quiet"

        [[action]]
        at = 7.5
        do = "lines"
        lines = 40

        [[action]]
        at = 3601
        do = "heal"
        """,
    )
    assert play(loop, path, 3600.0) == [(5.0, "quiet"), (7.5, "lines"), (15.0, "quiet"), (25.0, "quiet")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("at = ", "is not TOML"),
        ("", "no [[action]] tables"),
        ("action = 5", "no [[action]] tables"),
        ("[[actions]]\nat = 1", "unknown table or key actions"),
        ("[[action]]\nat = 1", "action 1: do is missing"),
        ('[[action]]\ndo = "heal"', "action 1 (heal): at is missing"),
        ('[[action]]\ndo = "heal"\nat = -1', "action 1 (heal): at must be a number of seconds, at least 0"),
        ('[[action]]\ndo = "heal"\nat = nan', "at must be a number"),
        ('[[action]]\ndo = "heal"\nat = true', "at must be a number"),
        ('[[action]]\ndo = "heal"\nat = 1\nevery = 0', "every must be a number of seconds, at least 0.01"),
        ('[[action]]\ndo = "heal"\nat = 1\nuntil = 5', "until needs every"),
        ('[[action]]\ndo = "heal"\nat = 5\nevery = 1\nuntil = 2', "until must be a number of seconds, at least 5"),
        ('[[action]]\ndo = "heal"\nat = 1\n[[action]]\ndo = "explode"\nat = 1', "action 2 (explode): unknown action"),
        ('[[action]]\ndo = "stop"\nat = 1', "unknown action 'stop'"),
        ('[[action]]\ndo = "drop"\nat = 1\nid = 5', "action 1 (drop): unknown field id"),
        ('[[action]]\ndo = "blackhole"\nat = 1', "seconds is missing"),
        ('[[action]]\ndo = "blackhole"\nat = 1\nseconds = -1', "seconds must be a number between 0 and"),
        ('[[action]]\ndo = "drop"\nat = 1\nreset = 1', "reset must be true or false"),
        ('[[action]]\ndo = "farm_ok"\nat = 1\nfarm = "x"', "farm must be one of usfarm"),
        ('[[action]]\ndo = "advise"\nat = 1\ncode = 100', "code cannot be 100: 10089, 10090, 10091, 10167"),
        ('[[action]]\ndo = "halt"\nat = 1\nconids = [1]', "knows no contract 1"),
        ('[[action]]\ndo = "assign"\nat = 1\nconid = 1\naccount = "U1"', "knows no contract 1"),
        ('[[action]]\ndo = "evict_account_feed"\nat = 1\naccount = "U1"', "no account U1"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_file_entry_and_field(
    actions: Actions, tmp_path: Path, text: str, problem: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(GatewayError) as raised:
        load_scenario(path, actions)
    assert str(path) in str(raised.value)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_one_line(actions: Actions, tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="nightly_reset"):
        load_scenario(tmp_path / "none.toml", actions)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(GatewayError, match="UTF-8"):
        load_scenario(tmp_path / "bytes.toml", actions)
    with pytest.raises(GatewayError, match="directory"):
        load_scenario(tmp_path, actions)


def test_an_impossible_action_stops_the_gateway_and_is_named(loop: JumpingLoop, tmp_path: Path) -> None:
    entry = f'[[action]]\nat = 1\nevery = 1\ndo = "open"\naccount = "{FIRST}"\nconid = {IBM}\nquantity = 1'

    async def run() -> None:
        async with PaperGateway(replace(CONFIG, clock=loop.time)) as gateway:
            gateway.play(load_scenario(written(tmp_path, entry), gateway.actions))
            await gateway.wait_stopped()

    with pytest.raises(GatewayError, match=r"action 1 \(open\): SIM0000001 already holds 1 of 8314"):
        loop.run_until_complete(run())


def test_the_nightly_reset_runs_to_its_end_and_leaves_a_gateway_that_works(loop: JumpingLoop) -> None:
    assert shipped_scenarios() == ["nightly_reset"]
    states: list[tuple[float, bool, bool]] = []

    async def run() -> None:
        start = datetime(2026, 11, 20, tzinfo=UTC)
        virtual = replace(CONFIG, clock=loop.time, utcnow=lambda: start + timedelta(seconds=loop.time()))
        async with PaperGateway(virtual) as gateway:
            port = gateway.port
            gateway.perform("play", scenario="nightly_reset")
            for moment in (31.0, 50.0, 65.0, 90.0, 105.0, 120.0):
                await asyncio.sleep(moment - loop.time())
                states.append((moment, gateway.market.link.is_up, bool(gateway.addresses)))
            assert gateway.market.link.broken == set()
            assert gateway.addresses == [("127.0.0.1", port)]
            assert gateway.statistics.seconds == pytest.approx(120.0)

    loop.run_until_complete(run())
    assert states == [
        (31.0, True, True),
        (50.0, False, False),
        (65.0, False, True),
        (90.0, True, True),
        (105.0, False, True),
        (120.0, True, True),
    ]


def test_an_unknown_shipped_scenario_is_named(actions: Actions) -> None:
    with pytest.raises(GatewayError, match="one of nightly_reset"):
        actions.perform("play", {"scenario": "doomsday"})


async def test_prices_snapshots_and_portfolios_follow_the_loop_and_the_clocks_given(
    config: GatewayConfig, stack: AsyncExitStack, connect: Connect
) -> None:
    """All times in messages are those of `utcnow`, as far as the gateway has a choice."""
    gateway = await stack.enter_async_context(PaperGateway(replace(config, as_of=None)))
    assert gateway.universe.as_of == NOW.date()
    client = await connect(to=gateway)
    client.ib.reqMktData(contract_of(AAPL))
    await eventually(lambda: gateway.statistics.delivered_at.get(AAPL) == NOW)


def test_control_port_scenario_and_method_are_one_registry(tmp_path: Path) -> None:
    with (
        GatewayThread(replace(CONFIG, control_port=0)) as thread,
        ControlClient("127.0.0.1", thread.control_port) as control,
    ):
        actions = thread.gateway.actions
        assert set(actions.names) >= {"drop", "link_restored", "expire", "assign", "heal", "play"}
        fields: dict[str, Any] = {"farm": "usopt", "seconds": 60.0}
        reply = control.request("farm_broken", **fields)
        assert reply == {"ok": True, **fields}
        thread.call(lambda gateway: gateway.perform("farm_broken", **fields))
        path = written(tmp_path, '[[action]]\nat = 0\ndo = "farm_broken"\nfarm = "usopt"\nseconds = 60.0')
        thread.call(lambda gateway: gateway.play(load_scenario(path, gateway.actions)))
        report: Any = control.request("statistics")["statistics"]
        assert [[name, values] for _, name, values in report["actions"]] == [["farm_broken", fields]] * 3
        for wrong in ({"farm": "mars"}, {}, {"farm": "usopt", "x": 1}, {"farm": "usopt", "seconds": "5"}):
            with pytest.raises(GatewayError) as by_method:
                thread.gateway.perform("farm_broken", **wrong)
            with pytest.raises(GatewayError) as by_control:
                control.request("farm_broken", **wrong)
            assert str(by_control.value).endswith(f": {by_method.value}")


def test_every_action_can_be_described_and_names_a_missing_field(actions: Actions) -> None:
    for name in actions.names:
        specs = actions.fields(name).values()
        assert all(spec.kind in (int, float, str, bool, list[int]) or issubclass(spec.kind, StrEnum) for spec in specs)
        missing = [spec.name for spec in specs if spec.is_required]
        if missing:
            with pytest.raises(GatewayError, match=f"{missing[0]} is missing"):
                actions.perform(name, {})
