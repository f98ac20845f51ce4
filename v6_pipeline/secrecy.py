"""A log filter that removes a secret of a web address."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr


class _SecretFilter(logging.Filter):
    """Replace a secret in log messages."""

    def __init__(self, secret: SecretStr) -> None:
        super().__init__()
        self._secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (secret := self._secret.get_secret_value()) in text:
            record.msg, record.args = text.replace(secret, "***"), None
        return True


@contextmanager
def without(secret: SecretStr) -> Iterator[None]:
    """Keep a secret out of the log that urllib3 writes of each request."""
    log, secret_filter = logging.getLogger("urllib3.connectionpool"), _SecretFilter(secret)
    log.addFilter(secret_filter)
    try:
        yield
    finally:
        log.removeFilter(secret_filter)
