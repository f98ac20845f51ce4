"""Violations, as they were found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise."""

    at: datetime
    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S} {self.rule}: {self.detail}"


class Violations:
    """All that were found; each (rule, detail) once, for a state that lasts is one violation."""

    def __init__(self) -> None:
        self.found: list[Violation] = []
        self._known: set[tuple[str, str]] = set()

    def add(self, rule: str, detail: str) -> None:
        """Note one."""
        if (rule, detail) not in self._known:
            self._known.add((rule, detail))
            self.found.append(Violation(datetime.now(UTC), rule, detail))

    def __len__(self) -> int:
        return len(self.found)
