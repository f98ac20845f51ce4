"""The answer of an asset check, and the wording that all checks share.

Belongs here: ``Verdict`` and how a verdict lists what it found. Does not belong here: any rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

SAMPLE = 5
"""Number of offenders that a verdict names."""

Numbers = dict[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of one check.

    Attributes:
        passed: True if the rule holds.
        reason: one line: what was found, to what, what to do.
        serious: True if a failure is an error, False if it is a warning.
        numbers: figures behind the answer; Dagster shows them as metadata.
    """

    passed: bool
    reason: str
    serious: bool = True
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)

    @classmethod
    def ok(cls, reason: str, numbers: Numbers | None = None) -> Verdict:
        """Return a verdict that passes."""
        return cls(passed=True, reason=reason, numbers=numbers or {})

    @classmethod
    def warning(
        cls, reason: str, numbers: Numbers | None = None, offenders: Iterable[str] = (), advice: str = ""
    ) -> Verdict:
        """Return a failure that a person should look at; its reason lists the first offenders, then the advice."""
        listed = first_few(offenders)
        numbers = (numbers or {}) | ({"sample": listed} if listed else {})
        return cls(passed=False, reason=reason + (listed and f": {listed}") + advice, serious=False, numbers=numbers)

    @classmethod
    def error(
        cls, reason: str, numbers: Numbers | None = None, offenders: Iterable[str] = (), advice: str = ""
    ) -> Verdict:
        """Return a failure that is worth an alarm; the arguments are those of ``warning``."""
        return replace(cls.warning(reason, numbers, offenders, advice), serious=True)


def first_few(items: Iterable[str]) -> str:
    """Return the first ``SAMPLE`` items, separated by commas, and how many more there are."""
    found = list(items)
    more = f" and {len(found) - SAMPLE} more" if len(found) > SAMPLE else ""
    return ", ".join(found[:SAMPLE]) + more
