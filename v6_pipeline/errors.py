"""Every error a user can meet, one hierarchy.

A message is one line: what happened, to what, and what to do next. Secrets never enter a message.
"""


class V6Error(Exception):
    """Base of all errors that carry a line meant for a person."""


class ExaminationError(V6Error):
    """Something is at fault that was looked at ahead of a start.

    Attributes:
        lines: each fault.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


class SettingsError(V6Error):
    """A setting is unknown, malformed or impossible."""


class CalendarError(V6Error):
    """A date lies outside the shipped calendar or is no trading day."""


class GatewayError(V6Error):
    """The gateway cannot be used: unreachable, not IB's, refused, or silent past a deadline."""


class GatewayUnreachableError(GatewayError):
    """Nothing listens, what listens does not speak IB's protocol, or the connection to it is gone."""


class ClientIdInUseError(GatewayError):
    """The gateway already serves a client with this id (error 326)."""


class GatewayTooOldError(GatewayError):
    """The gateway speaks an older version of IB's protocol than this client does (error 503): only an update helps."""


class RequestTimeoutError(GatewayError):
    """A request got no answer within its deadline."""


class HistoryRefusedError(GatewayError):
    """A historical request was refused.

    Attributes:
        code: IB's.
        text: IB's.
    """

    def __init__(self, message: str, *, code: int, text: str) -> None:
        super().__init__(message)
        self.code = code
        self.text = text


class UnknownContractError(GatewayError):
    """The broker has no definition for a conid (error 200), or it is not held."""


class AccountFeedError(GatewayError):
    """The account download was refused, evicted or incomplete (2100, 2101, time-out)."""


class StateError(V6Error):
    """The state database is unreadable, not writable, or of another schema version."""


class LakeError(V6Error):
    """A Delta table is corrupt, unreachable, not writable, or refused the rows."""


class LakeConflictError(LakeError):
    """A commit lost against another writer."""


class SnapshotRefusedError(V6Error):
    """No source covers an account on a trading day, or one contradicts itself: nothing is made up in its place."""


class FencedError(V6Error):
    """Another owner has taken over: this one must stop writing at once.

    Attributes:
        epoch: the other's, where a table tells it.
    """

    def __init__(self, message: str, *, epoch: int | None = None) -> None:
        super().__init__(message)
        self.epoch = epoch


class FlexError(V6Error):
    """A Flex statement cannot be read or says what cannot be: names file, row, field and value."""


class FlexServiceError(V6Error):
    """The Flex Web Service refused, answered nonsense, or had no statement in time.

    Attributes:
        code: the service's own error code, where it gave one.
    """

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class AlertError(V6Error):
    """An alert could not be passed on."""


class UsageError(V6Error):
    """The command was used wrongly (exit code 2)."""
