"""One HTTPS request to the Flex Web Service: the reply goes to a file, and the token goes to the service only.

The service's reply names the address of the statement, and the token is part of the request for it. So the reply is
followed only to IB's own hosts, or to the host that the settings name.

The token is part of the URL, and so of the errors and log lines of ``requests`` and ``urllib3``. Errors are therefore
raised here, outside of any ``except``, so that their context holds no exception of those libraries; urllib3's log lines
pass through a filter.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import requests
import urllib3
from pydantic import SecretStr

from v6_pipeline import __version__
from v6_pipeline.errors import FlexServiceError
from v6_pipeline.flex.replies import Envelope, ReplyScanner, Statements
from v6_pipeline.secrecy import without

USER_AGENT = f"v6_pipeline/{__version__}"
"""IB refuses requests without one."""
_PIECE = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OWN_DOMAIN = ".interactivebrokers.com"
# Plain names and numbers only: parsers disagree about anything else, ours and that of `requests` included.
_PLAIN_PLACE = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?", re.ASCII)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_PORTS = {"https": 443, "http": 80}

Monotonic = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlexLimits:
    """Limits in seconds and bytes; ``deadline`` covers a whole download, ``read`` each silence of the server."""

    connect: float = 10.0
    read: float = 60.0
    deadline: float = 900.0
    size: int = 1 << 30


class Exchange:
    """Sends requests with the token to the service; `clock` gives monotonic seconds."""

    def __init__(self, token: SecretStr, *, limits: FlexLimits, clock: Monotonic = time.monotonic) -> None:
        self._token = token
        self._limits = limits
        self._clock = clock

    def ask(self, url: str, parameters: Mapping[str, str], file: Path, *, until: float) -> Envelope | Statements:
        """Send one request to a checked address and return the parsed reply, whose bytes are on disk in ``file``.

        ``until`` is the reading of the clock at which an incomplete reply is abandoned.

        Raises:
            FlexServiceError: no answer, a redirect, an HTTP error, or a document that is not a reply of the service.
            OSError: the file cannot be written.
        """
        host, problem = host_of(url), ""
        try:
            with requests.Session() as session, without(self._token):
                # Otherwise a proxy of the environment would be used for this machine's own addresses too.
                session.trust_env = not is_loopback(url)
                session.headers["User-Agent"] = USER_AGENT
                with session.get(
                    url,
                    params={"t": self._token.get_secret_value(), **parameters, "v": "3"},
                    timeout=(self._limits.connect, self._limits.read),
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    _check_status(response, host)
                    return self._receive(response, file, until=until)
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            problem = f"no answer from the Flex Web Service at {host} in {self._limits.read:g} s: try again later"
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            kind = type(error).__name__
            problem = f"cannot reach the Flex Web Service at {host} ({kind}): check the network and V6_FLEX_URL"
        raise FlexServiceError(problem)

    def _receive(self, response: requests.Response, file: Path, *, until: float) -> Envelope | Statements:
        scanner, size = ReplyScanner(), 0
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as target:  # noqa: PTH123 - the descriptor carries the permissions
            # read1 returns what has arrived: waiting for a full piece could take until long after the deadline.
            while piece := response.raw.read1(_PIECE, decode_content=True):
                size += len(piece)
                if size > self._limits.size:
                    raise FlexServiceError(
                        f"the Flex statement is larger than {self._limits.size >> 20:,} MiB: ask for fewer days"
                    )
                if self._clock() > until:
                    raise FlexServiceError(
                        f"the Flex statement did not arrive within {self._limits.deadline:g} s: ask for fewer days"
                    )
                target.write(piece)
                scanner.feed(piece)
            reply = scanner.close()
            target.flush()
            os.fsync(target.fileno())
        return reply


def _check_status(response: requests.Response, host: str) -> None:
    if response.status_code in _REDIRECTS:
        raise FlexServiceError(
            f"the Flex Web Service at {host} redirects us to {host_of(response.headers.get('Location', ''))}: not "
            "followed, because it would receive the token; check V6_FLEX_URL"
        )
    if response.status_code != 200:
        raise FlexServiceError(
            f"the Flex Web Service at {host} answered with HTTP {response.status_code}: try again later; if it lasts, "
            "check V6_FLEX_URL"
        )


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine."""
    parts = _split(url)
    return parts is not None and parts.hostname in _LOOPBACK


def host_of(url: str) -> str:
    """Return the host of an address for messages, which show no other part of it."""
    parts = _split(url)
    return (parts.hostname if parts else None) or "an unreadable address"


def check_address(url: str, *, configured: str) -> str:
    """Return ``url``, from a reply, if the token may be sent there; ``configured`` is the address in the settings.

    Raises:
        FlexServiceError: the token must not be sent there; the message names the host only.
    """
    parts, own = _split(url), _split(configured)
    if parts is not None and not parts.fragment and not parts.query:
        host = parts.hostname or ""
        if parts.scheme == "https" and host.endswith(_OWN_DOMAIN) and _port(parts) == 443:
            return url
        if own is not None and (parts.scheme, host, _port(parts)) == (own.scheme, own.hostname, _port(own)):
            return url
    raise FlexServiceError(
        f"the Flex Web Service sends us to {host_of(url)}, which is not IB's: nothing was sent there; check V6_FLEX_URL"
    )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _PORTS and _PLAIN_PLACE.fullmatch(parts.netloc) and parts.port != 0
    except ValueError:
        return None
    # urlsplit drops tabs and line ends; other parsers would send them.
    return parts if usable and url.isascii() and url.isprintable() and "\\" not in url and " " not in url else None


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]
