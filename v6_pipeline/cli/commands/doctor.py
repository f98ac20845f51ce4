"""``v6 doctor``: is everything as it must be, and if not, what to do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from v6_pipeline.cli import home, output
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import SettingsError, StateError

if TYPE_CHECKING:
    from v6_pipeline.settings import Settings
    from v6_pipeline.sync.findings import Finding

_FAILED = 1


def doctor(*, as_json: JsonOption = False) -> int:
    """Look at settings, home, state, lake, calendar, Dagster and the gateway; exit code 1 if anything is at fault.

    Warnings, and what could not be examined, are counted and leave the exit code at 0. Nothing is created, migrated or
    ordered. At the gateway it opens a short session under each client id that is free, and asks for a quote of up to
    four contracts.
    """
    from v6_pipeline.state.instants import utc_now
    from v6_pipeline.sync.findings import Verdict

    # What the parts log meanwhile is told as findings; without a handler Python would print it between them.
    logging.getLogger("v6_pipeline").addHandler(logging.NullHandler())
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            for text in _lines(finding):
                output.line(text)

    _examine(tell, utc_now)
    count = Counter(finding.verdict for finding in found)
    faults, warnings, unseen = count[Verdict.FAULT], count[Verdict.WARNING], count[Verdict.SKIPPED]
    if as_json:
        output.document({"faults": faults, "warnings": warnings, "skipped": unseen, "findings": found})
    else:
        counts = f"{output.counted(faults, 'fault')}, {output.counted(warnings, 'warning')}"
        output.line(f"{counts}, {unseen} not examined")
    return _FAILED if faults else 0


def _examine(tell: Callable[[Finding], None], clock: Callable[[], datetime]) -> None:
    from v6_pipeline.sync.findings import Verdict, fault
    from v6_pipeline.sync.place_examination import examine_places, examine_settings

    try:
        settings = home.load()
    except SettingsError as error:
        tell(fault("settings", str(error)))
        return
    for finding in examine_settings(settings):
        tell(finding)
    state_is_usable = False
    for finding in examine_places(settings, clock()):
        if finding.what == "state":
            state_is_usable = finding.verdict is Verdict.OK
        tell(finding)
    tell(_dagster(settings))
    asyncio.run(_gateway(settings, tell, clock, with_state=state_is_usable))


async def _gateway(
    settings: Settings, tell: Callable[[Finding], None], clock: Callable[[], datetime], *, with_state: bool
) -> None:
    from v6_pipeline.sync.findings import fault
    from v6_pipeline.sync.gateway_examination import examine_gateway

    with contextlib.ExitStack() as stack:
        database = stack.enter_context(home.open_state(settings, must_exist=True)) if with_state else None
        try:
            async for finding in examine_gateway(settings, database, clock):
                tell(finding)
        except StateError as error:  # locked by others for longer than all attempts
            tell(fault("state", str(error)))


def _dagster(settings: Settings) -> Finding:
    from v6_pipeline.cli import dagster_processes
    from v6_pipeline.sync.findings import fault, ok

    path = settings.dagster_home / "dagster.yaml"
    if not path.exists():
        return fault("Dagster", f"there is no {path}", "run 'v6 init'")
    reason = dagster_processes.instance_fault(settings, os.environ)
    if reason is not None:
        return fault(
            "Dagster",
            f"the instance of {path} cannot be used: {reason}",
            "correct the file, or remove it and run 'v6 init'",
        )
    return ok("Dagster", f"the instance of {path}")


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.verdict:8} {finding.what:18} {finding.says}"
    return [head, f"{'':27} -> {finding.remedy}"] if finding.remedy else [head]
