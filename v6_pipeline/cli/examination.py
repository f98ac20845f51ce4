"""The examination of an installation by ``v6 doctor``, and before a start, which a fault prevents.

Belongs here: the order of the probes, and the probe of Dagster's instance. The other probes are in ``doctor``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from v6_pipeline.cli import dagster_processes, home, output
from v6_pipeline.errors import ExaminationError, StateError

if TYPE_CHECKING:
    from v6_pipeline.doctor.findings import Finding
    from v6_pipeline.settings import Settings

Report = Callable[["Finding"], None]
Clock = Callable[[], datetime]


def examine(settings: Settings, report: Report, clock: Clock) -> None:
    """Examine everything and call ``report`` with each finding as it is made."""
    from v6_pipeline.doctor.findings import Verdict
    from v6_pipeline.doctor.places import examine_places, examine_settings

    with _silent_logs():
        for finding in examine_settings(settings):
            report(finding)
        state_is_usable = False
        for finding in examine_places(settings, clock()):
            if finding.what == "state":
                state_is_usable = finding.verdict is Verdict.OK
            report(finding)
        report(_dagster(settings))
        asyncio.run(_gateway(settings, report, clock, with_state=state_is_usable))


def require(settings: Settings, clock: Clock) -> None:
    """Examine everything before a start; print warnings and what could not be examined on stderr.

    Raises:
        ExaminationError: there are faults.
    """
    from v6_pipeline.doctor.findings import Verdict

    faults: list[str] = []

    def report(finding: Finding) -> None:
        text = f"{finding.what}: {finding.says}" + (f"; {finding.remedy}" if finding.remedy else "")
        if finding.verdict is Verdict.FAULT:
            faults.append(text)
        elif finding.verdict is not Verdict.OK:
            output.notice(f"{finding.verdict}: {text}")

    examine(settings, report, clock)
    if faults:
        raise ExaminationError(*faults)


@contextlib.contextmanager
def _silent_logs() -> Iterator[None]:
    """Keep logs of the parts out of the output: findings report the same, and without a handler Python prints logs."""
    log, handler = logging.getLogger("v6_pipeline"), logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


async def _gateway(settings: Settings, report: Report, clock: Clock, *, with_state: bool) -> None:
    from v6_pipeline.doctor.findings import fault
    from v6_pipeline.doctor.gateway import examine_gateway

    with contextlib.ExitStack() as stack:
        database = stack.enter_context(home.open_state(settings, must_exist=True)) if with_state else None
        try:
            difference = database.clock_difference if database is not None else timedelta()
            async for finding in examine_gateway(settings, database, lambda: clock() + difference):
                report(finding)
        except StateError as error:  # locked by other processes for longer than all attempts
            report(fault("state", str(error)))


def _dagster(settings: Settings) -> Finding:
    from v6_pipeline.doctor.findings import fault, ok

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
