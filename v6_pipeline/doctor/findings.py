"""What an examination finds: one line each, and what to do about it. No secret is in either."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """How a finding is meant."""

    OK = "ok"
    WARNING = "warning"
    """Works, and will surprise somebody."""
    FAULT = "fault"
    """The product cannot do its work like this."""
    SKIPPED = "skipped"
    """Could not be looked at, for what came before, or showed nothing that could be judged."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: names it.
        verdict: how it is meant.
        says: what was found.
        remedy: what to do; empty where nothing is to be done or ``says`` ends with it.
    """

    what: str
    verdict: Verdict
    says: str
    remedy: str = ""


def ok(what: str, says: str) -> Finding:
    """All is well."""
    return Finding(what, Verdict.OK, says)


def warning(what: str, says: str, remedy: str = "") -> Finding:
    """Works, and will surprise somebody."""
    return Finding(what, Verdict.WARNING, says, remedy)


def fault(what: str, says: str, remedy: str = "") -> Finding:
    """Does not work."""
    return Finding(what, Verdict.FAULT, says, remedy)


def skipped(what: str, why: str, remedy: str = "") -> Finding:
    """Not looked at, or nothing could be seen."""
    return Finding(what, Verdict.SKIPPED, why, remedy)
