"""Asset checks: when to worry.

The checks of ``streamed_positions`` look at the streamer's report and the ledger, cheaply. ``ib_streamer_sensor``
evaluates them, since Dagster runs no check for what a sensor reports, and beside them what must be told though no
refresh runs; the UI can execute them at any time.
https://docs.dagster.io/guides/test/asset-checks
"""

# No postponed annotations here: Dagster reads those of decorated functions as they stand.

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.checks.stream import active_contracts_stream, slots_within_budget, stream_fresh
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.defs.verdicts import said
from v6_pipeline.errors import V6Error
from v6_pipeline.ib.resets import expected_outage
from v6_pipeline.lake.schemas import STREAMED_POSITIONS
from v6_pipeline.settings import Settings
from v6_pipeline.state.leases.leases import StreamerLease
from v6_pipeline.state.leases.rows import StreamerLeaseState
from v6_pipeline.state.slots.ledger import SlotLedger, SlotUsage

EVALUATE_EVERY = timedelta(minutes=5)
DESCRIPTIONS = {
    "stream_fresh": (
        "Streamed contracts have fresh data in the lake, or a good reason not to: the exchange is closed, IB is in its "
        "nightly reset, the streamer was stopped on request."
    ),
    "slots_within_budget": (
        "The market-data lines in use stay within the ceiling, and IB grants as many as the settings say."
    ),
    "active_contracts_stream": (
        "Every active contract that can stream has a market-data line; those without are refreshed at priority 1."
    ),
}


def verdicts(
    settings: Settings, calendar: TradingCalendar, lease: StreamerLeaseState, usage: SlotUsage, now: datetime
) -> dict[dg.AssetCheckKey, Verdict]:
    """What each check of the stream says now."""
    found = {
        "stream_fresh": stream_fresh(
            lease,
            is_open=settings.market_hours.is_open(calendar, now),
            outage=expected_outage(now, settings.ib_region),
            now=now,
        ),
        "slots_within_budget": slots_within_budget(usage),
        "active_contracts_stream": active_contracts_stream(lease, usage, now=now),
    }
    return {_key(name): verdict for name, verdict in found.items()}


def stream_checks() -> list[dg.AssetChecksDefinition]:
    """The checks of ``streamed_positions``, each executable by itself."""
    return [_check(name, description) for name, description in DESCRIPTIONS.items()]


def _check(name: str, description: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=STREAMED_POSITIONS.name, name=name, description=description)
    def check(pipeline: PipelineResource) -> dg.AssetCheckResult:
        try:
            settings, database, now = pipeline.settings(), pipeline.database(), pipeline.now()
            lease = StreamerLease(database, pipeline.now).read()
            usage = SlotLedger.from_settings(settings, database, pipeline.now).usage()
            verdict = verdicts(settings, pipeline.calendar(), lease, usage, now)[_key(name)]
        except V6Error as error:
            raise dg.Failure(str(error)) from None
        return dg.AssetCheckResult(**said(verdict))

    return check


def _key(name: str) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey(STREAMED_POSITIONS.name), name)


@dataclass(frozen=True, slots=True)
class CheckCursor:
    """What was last reported of each check, by asset and name, and when: on change, else every five minutes."""

    reported_at: str | None = None
    passed: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, values: object) -> "CheckCursor":
        """From the sensor's cursor; an unreadable one starts over."""
        try:
            reported_at, passed = values["reported_at"], values["passed"]  # type: ignore[index]
            datetime.fromisoformat(reported_at)
            return cls(reported_at, tuple(sorted((str(name), str(said)) for name, said in passed.items())))
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls()

    def dump(self) -> dict[str, object]:
        """As a part of the sensor's cursor."""
        return {"reported_at": self.reported_at, "passed": dict(self.passed)}


def evaluations(
    found: Mapping[dg.AssetCheckKey, Verdict], cursor: CheckCursor, now: datetime
) -> tuple[list[dg.AssetCheckEvaluation], CheckCursor]:
    """What to report now: all checks once one has changed or five minutes have passed, else nothing."""
    state = tuple(sorted((key.to_user_string(), _state(verdict)) for key, verdict in found.items()))
    if state == cursor.passed and cursor.reported_at is not None:
        since = now - datetime.fromisoformat(cursor.reported_at)
        if timedelta() <= since < EVALUATE_EVERY:
            return [], cursor
    reported = [
        dg.AssetCheckEvaluation(asset_key=key.asset_key, check_name=key.name, **said(verdict))
        for key, verdict in found.items()
    ]
    return reported, CheckCursor(now.isoformat(), state)


def _state(verdict: Verdict) -> str:
    return json.dumps([verdict.passed, verdict.serious])
