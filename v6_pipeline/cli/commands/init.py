"""``v6 init``: create a home."""

from __future__ import annotations

from typing import Annotated

import typer

from v6_pipeline.cli import home, output
from v6_pipeline.cli.output import JsonOption


def init(
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Write a new v6.toml; keep the old one as v6.toml.old.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a home: settings file, state database, logs and Dagster home. Existing files are kept.

    A state database of an older version is migrated; a SQLite file is copied first. Everything in the home becomes
    readable for this user only.
    """
    if not force:
        home.load(protect=False)  # fails before anything is written if the environment or the file is wrong
    steps = [home.write_settings_file(home.path_in_use(), force=force)]
    settings = home.load(protect=False)
    steps += [home.prepare_state(settings), home.prepare_log_folder(settings), home.prepare_dagster_home(settings)]
    if closed := home.close_to_others(settings):
        steps.append(closed)
    lines = [f"{step.action:8} {step.what:8} {step.path}" + (f" ({step.note})" if step.note else "") for step in steps]
    ready = f"home {settings.home} is ready: set the gateway's port in {settings.file.name}, then run 'v6 up'"
    output.result({"home": settings.home, "steps": steps}, *lines, ready, as_json=as_json)
