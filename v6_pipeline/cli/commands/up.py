"""``v6 up``: the whole system on the configured gateway."""

from __future__ import annotations

import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer

from v6_pipeline.cli import home, output
from v6_pipeline.cli.output import JsonOption

if TYPE_CHECKING:
    from v6_pipeline.cli.system import Pages


def up(
    *,
    port: Annotated[int, typer.Option(help="Port of Dagster's UI.")] = 3000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the UI once it is ready.")] = False,
    look: Annotated[
        bool, typer.Option("--doctor/--no-doctor", help="Examine everything first, as v6 doctor does.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Run Dagster and, through its sensor, the streamer, on the configured gateway, until Ctrl-C.

    Creates what is missing in the home. Then examines everything that v6 doctor examines: a fault prevents the start
    with exit code 1 and one line per fault; warnings do not. With --no-doctor only state, lake and the gateway's
    handshake are tried.
    """
    settings = home.load(protect=False)
    from v6_pipeline.cli import system
    from v6_pipeline.state.instants import utc_now

    def ready(pages: Pages) -> None:
        output.result(
            {"home": settings.home, "gateway": settings.ib_address, "pages": pages},
            f"ready: {pages.ui}  (Ctrl-C stops everything)",
            f"  assets    {pages.assets}",
            f"  sensor    {pages.sensor}",
            f"  schedule  {pages.schedule}",
            f"  gateway   {settings.ib_address}",
            f"  logs      {settings.log_dir}",
            as_json=as_json,
        )
        if browser:
            webbrowser.open(pages.assets)

    def prepare() -> None:
        if look:
            system.prepare_by_doctor(settings, utc_now)
        else:
            system.check_parts(settings)

    system.run(settings, port=port, prepare=prepare, on_ready=ready)
