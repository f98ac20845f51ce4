"""``v6 demo``: the whole system on the paper gateway, in a home of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from v6_pipeline.cli import home, output
from v6_pipeline.cli.demo_strategies import Held, Strategies, by_kind
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import UsageError

if TYPE_CHECKING:
    from v6_pipeline.cli.system import Pages
    from v6_pipeline.paper import GatewayThread
    from v6_pipeline.settings import Settings

SETTINGS = {"market_hours": '"always"', "refresh_seconds": "60"}
"""As TOML: refreshes run on weekends too, every minute."""
STRATEGIES: Strategies = {
    "iron-condors": (10, ("symbol=SPX,sec_type=OPT", "symbol=NDX,sec_type=OPT", "symbol=RUT,sec_type=OPT")),
    "spx-puts": (20, ("symbol=SPX,sec_type=OPT,right=P",)),
}
"""The first has 12 of the 60 positions with any expiries; the second overlaps."""
POSITIONS, MOST_POSITIONS = 60, 15_000
"""Of the simulated accounts, by default and at most."""


def demo(
    *,
    port: Annotated[int, typer.Option(help="Port of Dagster's UI.")] = 3000,
    positions: Annotated[
        int,
        typer.Option(
            help="Positions of the simulated accounts in usual kinds; a few bonds, funds and other kinds come on top."
        ),
    ] = POSITIONS,
    strategies: Annotated[
        int | None,
        typer.Option(
            help="Active strategies, each an account's calls or puts of one underlying and expiry, the nearest first. "
            "Default: two that overlap.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="End this many seconds after it is ready. Default: at Ctrl-C.", show_default=False),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the UI once it is ready.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the whole system on a simulated account, without IB or network, until Ctrl-C.

    Its home is the folder demo in the home in use; settings and environment of a real home have no effect. Strategies
    are made for a new demo; those of an earlier one stay.
    """
    if not 0 <= positions <= MOST_POSITIONS:
        raise UsageError(f"--positions {positions} is not between 0 and {MOST_POSITIONS}")
    if strategies is not None and strategies < 0:
        raise UsageError(f"--strategies {strategies} is less than 0")
    if seconds is not None and not seconds > 0:
        raise UsageError(f"--seconds {seconds:g} is not greater than 0")
    folder = home.path_in_use() / "demo"
    _leave_environment(folder)
    home.write_settings_file(folder, SETTINGS | {"start_date": _six_weeks_ago()})
    from v6_pipeline.cli import supervise, system
    from v6_pipeline.paper import GatewayConfig, GatewayThread

    home.load(protect=False)  # reports a broken setting before anything starts
    supervise.check_unused(folder / system.RECORD_FILE)  # before its file is changed
    with GatewayThread(GatewayConfig(positions=positions, unusual=True, seed=1, flex_port=0)) as gateway:
        chosen = STRATEGIES if strategies is None else by_kind(_held(gateway), strategies)
        # In the file, so that 'v6 --home .v6/demo refresh' in another terminal finds the gateway.
        flex = gateway.gateway.flex
        addresses = {
            "ib_port": str(gateway.port),
            "flex_url": json.dumps(flex.url),
            "flex_token": json.dumps(flex.config.token),
            "flex_query_id": json.dumps(flex.config.query_id),
        }
        _set(folder / "v6.toml", addresses)
        settings = home.load(protect=False)

        def prepare() -> None:
            system.check_parts(settings)
            if not _seed(settings, chosen) and strategies is not None:
                output.notice(
                    f"--strategies {strategies} has no effect: this demo has strategies; for new ones delete {folder}"
                )

        def ready(pages: Pages) -> None:
            _show(settings, gateway, pages, positions=len(_held(gateway)), as_json=as_json)
            if browser:
                import webbrowser

                webbrowser.open(pages.assets)

        system.run(settings, port=port, prepare=prepare, on_ready=ready, seconds=seconds)


def _six_weeks_ago() -> str:
    """Return a start date as TOML, recent enough that the current day is visible among the partitions."""
    return (datetime.now(UTC).date() - timedelta(weeks=6)).isoformat()


def _leave_environment(folder: Path) -> None:
    """Remove the V6_ variables: simulated rows must not reach the lake or the state that they name."""
    dropped = [name for name in os.environ if name.startswith("V6_") and name != "V6_HOME"]
    for name in dropped:
        del os.environ[name]
    if dropped:
        output.notice(f"the demo ignores {', '.join(sorted(dropped))}")
    os.environ["V6_HOME"] = str(folder)


def _set(path: Path, values: dict[str, str]) -> None:
    """Set lines of a settings file, values as TOML; add a line that an older version did not write."""
    with home.disk_faults():
        text = path.read_text(encoding="utf-8")
        for name, value in values.items():
            line = f"{name} = {value}"
            text, found = re.subn(rf"(?m)^(# )?{name} = .*$", line, text)
            if not found:
                text = f"{text.rstrip()}\n\n{line}\n"
        path.write_text(text, encoding="utf-8")


def _held(gateway: GatewayThread) -> list[Held]:
    """Return what the simulated accounts hold."""
    holdings = gateway.call(lambda running: running.book.held(None))
    return [(holding.account, gateway.gateway.universe.contracts[holding.conid]) for holding in holdings]


def _seed(settings: Settings, strategies: Strategies = STRATEGIES) -> bool:
    """Add the strategies of a new demo; existing strategies stay unchanged. Return whether it is a new one."""
    from v6_pipeline.state.registry.registry import StrategyRegistry

    with home.open_state(settings) as database:
        registry = StrategyRegistry(database, timezone=settings.timezone)
        if registry.entries():
            return False
        for strategy, (priority, selectors) in strategies.items():
            for selector in selectors:
                registry.add_selector(strategy, selector, priority)
    return True


def _show(
    settings: Settings, gateway: GatewayThread, pages: Pages, *, positions: int = POSITIONS, as_json: bool
) -> None:
    ports = {"port": gateway.port, "control_port": gateway.control_port}
    command = f"{_program()} --home {shlex.quote(_short(settings.home))}"
    output.result(
        {"home": settings.home, "gateway": ports, "pages": pages},
        f"ready: {pages.ui}  (Ctrl-C stops everything)",
        f"Two simulated accounts hold {positions} positions: those of active strategies are streamed as far as the "
        "lines reach, the rest is refreshed every minute.",
        f"  assets    {pages.assets}",
        f"  sensor    {pages.sensor}",
        f"  history   {pages.history}: click Materialize all, All, Launch backfill",
        f"  schedule  {pages.schedule}",
        f"  slots     {command} slots",
        f"  values    {command} positions",
        f"  strategies and their contracts: {command} strategies list",
        f"  gateway   127.0.0.1:{gateway.port}, control port {gateway.control_port}",
        f"  logs      {settings.log_dir}",
        as_json=as_json,
    )


def _program() -> str:
    """Return how to call this program: by its name if the shell finds it, else by its path, as after ``make demo``."""
    own = Path(sys.argv[0]).absolute()
    if own.name == "__main__.py":
        return "python -m v6_pipeline.cli"
    found = shutil.which(own.name)
    if found is None or not own.exists() or not Path(found).samefile(own):
        return shlex.quote(_short(own))
    return own.name


def _short(path: Path) -> str:
    """Return the path relative to the working folder, if it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
