"""Findings of an examination: one line each, with what to do about it. Neither contains a secret."""

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
    """It was not examined because of an earlier finding, or gave no result that can be judged."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one probe; ``remedy`` is empty if there is nothing to do or ``says`` ends with it."""

    what: str
    verdict: Verdict
    says: str
    remedy: str = ""


def ok(what: str, says: str) -> Finding:
    """Return the finding that ``what`` is as it must be."""
    return Finding(what, Verdict.OK, says)


def warning(what: str, says: str, remedy: str = "") -> Finding:
    """Return the finding that ``what`` works, but not as expected."""
    return Finding(what, Verdict.WARNING, says, remedy)


def fault(what: str, says: str, remedy: str = "") -> Finding:
    """Return the finding that ``what`` does not work."""
    return Finding(what, Verdict.FAULT, says, remedy)


def skipped(what: str, why: str, remedy: str = "") -> Finding:
    """Return the finding that ``what`` was not examined or gave no result."""
    return Finding(what, Verdict.SKIPPED, why, remedy)
