"""The guard in front of Dagster's webserver: only pages of this machine, and of the webserver itself, change anything.

Dagster's webserver has no login. It answers any Host and any Origin, takes a mutation in the query of a GET, and runs
JSON that is sent as plain text, so that a web page in the user's browser could launch runs and change settings.

Belongs here: the decision about one request, and the ASGI middleware that applies it. Does not belong here: how the
webserver starts (``webserver``).
"""

from __future__ import annotations

import logging
import re
from email.message import Message as Header

from graphql import ExecutableDefinitionNode, GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)
"""Any port: behind a tunnel the browser's differs from the webserver's."""
_READS = {"GET", "HEAD"}
_BODIES = {"application/json", "application/graphql"}
"""A browser sends these to another site only after a preflight request, which Dagster's webserver does not grant."""
_OTHER_SITES = {"cross-site", "same-site"}
_FORBIDDEN = 403
_POLICY_VIOLATION = 1008
_LOGGED_LINES = 100
_SHOWN_CHARACTERS = 80

_log = logging.getLogger("dagster-webserver")


def refusal(connection: HTTPConnection, method: str | None) -> str | None:
    """Return why a request is refused, in one line; ``None`` if it is not. A WebSocket has no ``method``."""
    hosts = connection.headers.getlist("host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        # A page of that name was loaded earlier, and its name now points to this machine (DNS rebinding).
        return f"the Host is {_shown(hosts)}, not this machine: open the page at 127.0.0.1 or localhost"
    own = f"http://{hosts[0]}".lower()
    origins = connection.headers.getlist("origin")
    if any(origin.lower() != own for origin in origins):
        return f"the request comes from a page of {_shown(origins)}: only pages of {own} are served"
    if connection.headers.get("sec-fetch-site") in _OTHER_SITES and not _is_opened(connection, method):
        return f"the request comes from a page of another site: only pages of {own} are served"
    if method in _READS:
        queries = connection.query_params.getlist("query")
        return None if all(map(_only_reads, queries)) else f"{method} takes no mutation: send it by POST as JSON"
    content_type = connection.headers.get("content-type", "")
    if method is not None and _media_type(content_type) not in _BODIES:
        return f"{method} with content type {_shown([content_type])}: send application/json"
    return None


class SameOriginGuard:
    """ASGI middleware that refuses what ``refusal`` names, and forbids other sites to frame the pages.

    https://developer.mozilla.org/en-US/docs/Web/Security/Attacks/CSRF
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._logged: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        why = refusal(HTTPConnection(scope), scope.get("method"))
        if why is None:
            await self._app(scope, receive, _not_framed(send))
            return
        self._report(why)
        answer = (
            PlainTextResponse(f"refused: {why}\n", _FORBIDDEN, {"X-Content-Type-Options": "nosniff"})
            if scope["type"] == "http"
            else WebSocketClose(_POLICY_VIOLATION)
        )
        await answer(scope, receive, send)

    def _report(self, why: str) -> None:
        """Log each line once, up to a limit: a page must not be able to fill the disk."""
        if why not in self._logged and len(self._logged) < _LOGGED_LINES:
            self._logged.add(why)
            _log.warning("Refused a request: %s", why)


def _is_opened(connection: HTTPConnection, method: str | None) -> bool:
    """Return whether a person opens the page by a link; a frame within another page is not opened so."""
    headers = connection.headers
    return method in _READS and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == (
        "navigate",
        "document",
    )


def _only_reads(query: str) -> bool:
    try:
        found = parse(query, no_location=True).definitions
    except GraphQLError:
        return True  # Dagster uses the same parser, so it executes nothing; the text may be a page's own parameter
    except RecursionError:
        return False
    return all(
        isinstance(definition, ExecutableDefinitionNode)
        and not (isinstance(definition, OperationDefinitionNode) and definition.operation is not OperationType.QUERY)
        for definition in found
    )


def _media_type(content_type: str) -> str:
    """Return the type without parameters: ``text/plain; a=application/json`` is plain text."""
    header = Header()
    header["content-type"] = content_type
    return header.get_content_type() if content_type else ""


def _not_framed(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["X-Frame-Options"] = "SAMEORIGIN"
        await send(message)

    return wrapped


def _shown(values: list[str]) -> str:
    """Return header values for a message: control characters escaped, and cut."""
    return ascii(", ".join(values))[:_SHOWN_CHARACTERS] if values else "missing"
