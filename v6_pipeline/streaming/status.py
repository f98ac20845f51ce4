"""The streamer's report on itself, which its lease carries as JSON to the sensor, the checks and the command line.

Belongs here: the form of the report. What fills it is in ``streamer``, ``feed_monitor``, ``writer`` and ``handlers``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from pydantic import PlainSerializer, TypeAdapter, ValidationError

OVERFLOW_SAMPLE = 5
"""Number of contracts without a line that the report names."""


Instant = Annotated[datetime, PlainSerializer(datetime.isoformat)]


class StreamState(enum.StrEnum):
    """State of the stream."""

    STREAMING = "streaming"
    BLIND = "blind"
    """Data of a streamed contract is missing or not yet verified."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedStatus:
    """One feed that does not flow."""

    state: str = ""
    since: Instant | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterStatus:
    """Figures of the writer since it was opened.

    ``buffered`` rows wait for the next flush, or for the lake, which has refused them since ``failing_since`` with
    ``last_error``; both are None while it accepts rows. ``last_compaction_error`` is None after a good compaction.
    """

    epoch: int | None = None
    commits: int = 0
    rows: int = 0
    buffered: int = 0
    last_version: int | None = None
    last_commit_at: Instant | None = None
    failing_since: Instant | None = None
    last_error: str | None = None
    last_compaction_error: str | None = None


@dataclass(frozen=True, slots=True)
class HandlerStatus:
    """Counts of a handler's updates: handled, replaced by a newer one while it was busy, failed, and waiting."""

    name: str = ""
    handled: int = 0
    conflated: int = 0
    failed: int = 0
    waiting: int = 0
    last_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamerStatus:
    """The streamer's report; a value is None until it is reported.

    ``feeds`` has the feeds that do not flow, ``refused`` IB's code and text by conid, ``silent`` the
    contracts whose requests brought no tick, with IB's remark, ``error_codes`` the number of
    IB's messages by code. With ``StreamState.FAILED`` only ``error`` is set.
    """

    state: StreamState | None = None
    error: str | None = None
    connection: str | None = None
    gateway: str | None = None
    client_id: int | None = None
    connects: int | None = None
    started_at: Instant | None = None
    blind_since: Instant | None = None
    feeds: Mapping[str, FeedStatus] = field(default_factory=dict)
    competing_session_since: Instant | None = None
    expected_outage: str | None = None
    holdings: int | None = None
    streamed_contracts: int | None = None
    overflow_contracts: int = 0
    overflow_sample: tuple[int, ...] = ()
    queued_holdings: int | None = None
    refused: Mapping[int, str] = field(default_factory=dict)
    silent: Mapping[int, str] = field(default_factory=dict)
    ticks: int | None = None
    last_tick_at: Instant | None = None
    error_codes: Mapping[int, int] = field(default_factory=dict)
    writer: WriterStatus = field(default_factory=WriterStatus)
    handlers: tuple[HandlerStatus, ...] = ()

    @classmethod
    def failure(cls, error: str) -> StreamerStatus:
        """Return the report of a streamer that ends with ``error``."""
        return cls(state=StreamState.FAILED, error=error)

    @classmethod
    def parse(cls, report: Mapping[str, Any]) -> StreamerStatus:
        """Read a report from its JSON form.

        A key that is missing, unknown or unreadable counts as not reported: a report of another release must not
        keep the sensor from renewing or replacing the streamer.
        """
        try:
            return _STATUS.validate_python(report)
        except ValidationError as error:
            unreadable = {entry["loc"][0] for entry in error.errors()}
            return _STATUS.validate_python({key: value for key, value in report.items() if key not in unreadable})

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form; instants are ISO 8601 in UTC."""
        if self.state is StreamState.FAILED:
            return {"state": self.state.value, "error": self.error}
        report: dict[str, Any] = _STATUS.dump_python(self, mode="json", exclude={"error"})
        return report


_STATUS = TypeAdapter(StreamerStatus)
