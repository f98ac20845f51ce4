"""Which addresses the token may be sent to: pure functions.

The service says in its reply where to fetch a statement, and the token goes along. So what it says is followed only to
IB's own hosts, or to the very place that the settings name.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from v6_pipeline.errors import FlexServiceError

_OWN_DOMAIN = ".interactivebrokers.com"
# Plain names and numbers only: parsers disagree about anything else, and one of them would be ours.
_PLAIN_PLACE = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?", re.ASCII)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_PORTS = {"https": 443, "http": 80}


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    parts = _split(url)
    return parts is not None and parts.hostname in _LOOPBACK


def host_of(url: str) -> str:
    """The host of an address, for messages: nothing else of it is shown."""
    parts = _split(url)
    return (parts.hostname if parts else None) or "an unreadable address"


def check_address(url: str, *, configured: str) -> str:
    """Return ``url`` if the token may be sent there.

    Args:
        url: from a reply of the service.
        configured: the service's address by the settings.

    Raises:
        FlexServiceError: it may not; the message names the host only.
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
    # urlsplit drops tabs and line ends, which others would send.
    return parts if usable and url.isascii() and url.isprintable() and "\\" not in url and " " not in url else None


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]
