"""The clock type and the default clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns an aware instant in UTC. Passed in, so that tests need not wait."""


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)
