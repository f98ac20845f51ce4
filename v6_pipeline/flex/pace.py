"""The service's rate, kept by all processes that use one token."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Protocol

from pydantic import SecretStr

from v6_pipeline.state.database import StateDatabase
from v6_pipeline.state.instants import Clock, utc_now
from v6_pipeline.state.pacing import web as request_rates
from v6_pipeline.state.pacing.web import Window

WINDOWS = (Window(1, timedelta(seconds=1.25)), Window(10, timedelta(seconds=61)))
"""IB allows one request a second and ten a minute (the text of error 1018). It counts them as they arrive: one may be
under way a quarter of a second longer than the next."""


class Pace(Protocol):
    """Who says when the next request may be sent."""

    def take(self) -> float:
        """Seconds to wait before asking here again; 0: send one request now."""

    def pause(self, seconds: float) -> None:
        """The service said that we are too fast: nobody sends anything for so long."""


class SharedPace:
    """The rate of one token, in the state database.

    Args:
        database: shared by all processes.
        token: only a hash of it is stored.
        clock: UTC.
    """

    def __init__(self, database: StateDatabase, token: SecretStr, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._name = f"flex {hashlib.sha256(token.get_secret_value().encode()).hexdigest()[:32]}"
        self._clock = clock

    def take(self) -> float:
        """See ``Pace``."""
        with self._database.write() as connection:
            return request_rates.take(connection, self._name, WINDOWS, clock=self._clock).total_seconds()

    def pause(self, seconds: float) -> None:
        """See ``Pace``."""
        with self._database.write() as connection:
            request_rates.pause(connection, self._name, timedelta(seconds=seconds), clock=self._clock)
