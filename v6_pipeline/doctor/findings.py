"""Findings of an examination: one line each, with a remedy. Neither the finding nor its remedy contains a secret."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as expected."""
    FAULT = "fault"
    """The product cannot do its work."""
    SKIPPED = "skipped"
    """Not examined because of an earlier finding, or examined without a conclusive result."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one probe; ``remedy`` is empty if there is nothing to do, or if ``says`` already ends with it."""

    what: str
    verdict: Verdict
    says: str
    remedy: str = ""


def ok(what: str, says: str) -> Finding:
    """Return the finding that ``what`` works as expected."""
    return Finding(what, Verdict.OK, says)


def warning(what: str, says: str, remedy: str = "") -> Finding:
    """Return the finding that ``what`` works, but not as expected."""
    return Finding(what, Verdict.WARNING, says, remedy)


def fault(what: str, says: str, remedy: str = "") -> Finding:
    """Return the finding that ``what`` does not work."""
    return Finding(what, Verdict.FAULT, says, remedy)


def skipped(what: str, why: str, remedy: str = "") -> Finding:
    """Return the finding that ``what`` was not examined or could not be judged; ``why`` says why."""
    return Finding(what, Verdict.SKIPPED, why, remedy)
