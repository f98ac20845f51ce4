"""A probe of an address: an IB gateway listens there, another program, or none.

It finds the reason for a failed connection, without starting a session or taking a client id.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass

PROBE_SECONDS = 5
"""A gateway answers the handshake within milliseconds."""
OLDEST_VERSION, NEWEST_VERSION = 157, 178
"""Versions of IB's protocol that ib_async supports."""


class ProbeAnswer(enum.StrEnum):
    """Result of a bare handshake with an address."""

    NO_PROCESS = "no_process"
    SILENT = "silent"
    NOT_IB = "not_ib"
    TOO_OLD = "too_old"
    IB = "ib"


@dataclass(frozen=True, slots=True)
class Probed:
    """Result of a handshake; ``version`` is the gateway's protocol version, None if it is not a gateway."""

    answer: ProbeAnswer
    version: int | None = None


async def probe(host: str, port: int, timeout: float) -> Probed:  # noqa: ASYNC109
    """Send IB's opening bytes and classify the answer; ``timeout`` seconds for each of connection and answer."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return Probed(ProbeAnswer.NO_PROCESS)
    try:
        versions = f"v{OLDEST_VERSION}..{NEWEST_VERSION}".encode()
        writer.write(b"API\0" + len(versions).to_bytes(4, "big") + versions)
        async with asyncio.timeout(timeout):
            await writer.drain()
            length = int.from_bytes(await reader.readexactly(4), "big")
            # The answer is "176\0 20260105 09:30:00 EST\0": any other length is another protocol's text.
            if not 4 <= length <= 256:
                return Probed(ProbeAnswer.NOT_IB)
            answer = await reader.readexactly(length)
    except TimeoutError:
        return Probed(ProbeAnswer.SILENT)
    except (OSError, asyncio.IncompleteReadError):
        return Probed(ProbeAnswer.NOT_IB)
    finally:
        writer.close()
    version = answer.split(b"\0")[0]
    if not version.isdigit():
        return Probed(ProbeAnswer.NOT_IB)
    return Probed(ProbeAnswer.IB if int(version) >= OLDEST_VERSION else ProbeAnswer.TOO_OLD, int(version))


def explain(found: Probed, address: str) -> str | None:
    """Return why no client can connect to ``address``, and what to do; None for an IB gateway."""
    answer = found.answer
    if answer is ProbeAnswer.NO_PROCESS:
        start = 'start IB Gateway (API enabled, this port), or run "v6 gateway", a simulated account'
        return f"no gateway at {address}: {start}"
    if answer is ProbeAnswer.NOT_IB:
        return f"what listens at {address} does not speak IB's protocol: set V6_IB_PORT to the gateway's API port"
    if answer is ProbeAnswer.SILENT:
        return (
            f"what listens at {address} accepts the connection and stays silent: a gateway that is logging in or waits "
            "for a click, or not IB's; look at its window, or check V6_IB_PORT"
        )
    if answer is ProbeAnswer.TOO_OLD:
        return (
            f"the gateway at {address} speaks version {found.version} of IB's protocol, at least {OLDEST_VERSION} is "
            "needed: update IB Gateway or TWS"
        )
    return None
