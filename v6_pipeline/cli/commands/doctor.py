"""``v6 doctor``: the examination of an installation, with what to do about each fault."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from v6_pipeline.cli import FAILED, home, output
from v6_pipeline.cli.output import JsonOption
from v6_pipeline.errors import SettingsError

if TYPE_CHECKING:
    from v6_pipeline.doctor.findings import Finding


def doctor(*, as_json: JsonOption = False) -> int:
    """Examine settings, home, state, lake, calendar, Dagster and the gateway; exit code 1 if there is a fault.

    Warnings, and what could not be examined, are counted and leave the exit code at 0. Nothing is created, migrated or
    ordered; an object that is written to a lake in an object store is deleted at once. At the gateway it opens a short
    session under each free client id, and requests quotes of up to four contracts.
    """
    from v6_pipeline.cli import examination
    from v6_pipeline.doctor.findings import Verdict, fault
    from v6_pipeline.state.instants import utc_now

    found: list[Finding] = []

    def report(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            for text in _lines(finding):
                output.line(text)

    try:
        examination.examine(home.load(protect=False), report, utc_now)
    except SettingsError as error:
        report(fault("settings", str(error)))
    count = Counter(finding.verdict for finding in found)
    faults, warnings, unseen = count[Verdict.FAULT], count[Verdict.WARNING], count[Verdict.SKIPPED]
    counts = f"{output.counted(faults, 'fault')}, {output.counted(warnings, 'warning')}, {unseen} not examined"
    content = {"faults": faults, "warnings": warnings, "skipped": unseen, "findings": found}
    output.result(content, counts, as_json=as_json)
    return FAILED if faults else 0


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.verdict:8} {finding.what:18} {finding.says}"
    return [head, f"{'':27} -> {finding.remedy}"] if finding.remedy else [head]
