"""``v6 gateway``: the paper gateway alone, in the foreground."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from v6_pipeline.cli import home, output
from v6_pipeline.cli.options import parse_date
from v6_pipeline.errors import UsageError

if TYPE_CHECKING:
    from v6_pipeline.paper import GatewayConfig, PaperGateway, Scenario


def gateway(
    *,
    port: Annotated[
        int | None, typer.Option(help="API port; 0 picks a free one. Default: V6_IB_PORT.", show_default=False)
    ] = None,
    control_port: Annotated[int, typer.Option(help="Control port; 0 picks a free one.")] = 0,
    flex_port: Annotated[
        int | None,
        typer.Option(help="Port of a Flex Web Service for these accounts; 0 picks a free one. Default: none."),
    ] = None,
    accounts: Annotated[str, typer.Option(help="Number of accounts, or their names: SIM1,SIM2.")] = "2",
    tws_version: Annotated[
        str, typer.Option(help="Release of TWS whose wording of account values is used, such as 10.47.")
    ] = "10.30",
    positions: Annotated[int, typer.Option(help="Number of positions in all accounts together.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of quantities, costs and prices.")] = 1,
    lines: Annotated[int, typer.Option(help="Market-data lines over all clients.")] = 100,
    message_rate: Annotated[int, typer.Option(help="Messages that one client may send per second.")] = 100,
    tick_seconds: Annotated[float, typer.Option(help="Time between price changes.")] = 1.0,
    portfolio_seconds: Annotated[float, typer.Option(help="Time between updates of account values.")] = 180.0,
    snapshot_seconds: Annotated[
        float, typer.Option(help="Time until a snapshot request ends; IB's is about 11.")
    ] = 11.0,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Faults to play from the start: a TOML file, or the name of a shipped one (nightly_reset).",
        ),
    ] = None,
    holdings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON file of exact holdings, prices and portfolio rows, instead of --accounts and --positions.",
            show_default=False,
        ),
    ] = None,
    unusual: Annotated[
        bool, typer.Option("--unusual", help="Hold bonds, bills, prices in pence, CFDs, spreads and funds besides.")
    ] = False,
    list_actions: Annotated[
        bool, typer.Option("--actions", help="List the actions of scenarios and the control port, and start nothing.")
    ] = False,
    as_of: Annotated[
        str | None, typer.Option(metavar="DATE", help="Day from which expiries are laid out. Default: today.")
    ] = None,
) -> None:
    """Run the paper gateway until Ctrl-C; print its ports, accounts and number of positions as one line of JSON.

    It serves on 127.0.0.1 only, and its accounts are named SIM...
    """
    from v6_pipeline.paper import GatewayConfig, PaperGateway, load_holdings

    file = None if holdings is None else load_holdings(holdings)
    config = GatewayConfig(
        port=home.load().ib_port if port is None else port,
        control_port=control_port,
        flex_port=flex_port,
        accounts=_account_names(accounts) if file is None else file.accounts,
        tws_version=tws_version,
        positions=positions if file is None else file.positions,
        unusual=unusual,
        holdings=file,
        seed=seed,
        lines=lines,
        message_rate=message_rate,
        tick_seconds=tick_seconds,
        portfolio_seconds=portfolio_seconds,
        snapshot_seconds=snapshot_seconds,
        as_of=None if as_of is None else parse_date("--as-of", as_of),
    )
    if list_actions:
        output.table(("action", "fields", "does"), PaperGateway(config).actions.describe())
        return
    asyncio.run(_serve(config, scenario))


def _account_names(text: str) -> tuple[str, ...]:
    from v6_pipeline.paper import simulated_accounts

    if text.isascii() and text.isdigit():
        if not 1 <= int(text) <= 1_000:
            raise UsageError(f"--accounts {text} is not between 1 and 1000")
        return simulated_accounts(int(text))
    return tuple(part.strip() for part in text.split(","))


def _read_scenario(name: str, paper: PaperGateway) -> Scenario:
    """Read the file of this name, or else the shipped scenario; check all of it before the gateway starts."""
    from v6_pipeline.paper import load_scenario, shipped_scenario, shipped_scenarios

    if name in shipped_scenarios() and not Path(name).exists():
        return shipped_scenario(name, paper.actions)
    return load_scenario(Path(name), paper.actions)


async def _serve(config: GatewayConfig, scenario: str | None) -> None:
    from v6_pipeline.paper import PaperGateway

    paper = PaperGateway(config)
    script = None if scenario is None else _read_scenario(scenario, paper)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A process that a shell starts in the background inherits SIGINT as ignored, so it must be set again.
        try:
            loop.add_signal_handler(number, paper.request_stop)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(paper.request_stop))
    async with paper:
        if script is not None:
            paper.play(script)
        output.document(
            {
                "port": paper.port,
                "control_port": paper.control_port,
                "accounts": config.accounts,
                "positions": len(paper.book.held()),
                **({} if config.flex_port is None else _flex(paper)),
            }
        )
        await paper.wait_stopped()


def _flex(paper: PaperGateway) -> dict[str, object]:
    """Return the values of V6_FLEX_URL, V6_FLEX_TOKEN and V6_FLEX_QUERY_ID; the token opens only the simulation."""
    return {
        "flex_port": paper.flex.port,
        "flex_url": paper.flex.url,
        "flex_token": paper.flex.config.token,
        "flex_query_id": paper.flex.config.query_id,
    }
