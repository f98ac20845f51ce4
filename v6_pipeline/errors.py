"""The errors that a user can see, in one hierarchy.

A message is one line: what happened, to what, and what to do next. It never contains a secret.
"""

import errno
import tempfile
from pathlib import Path

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_PROBE = bytes(1 << 16)


class V6Error(Exception):
    """Base of all errors that carry a line meant for a person."""


class ExaminationError(V6Error):
    """The examination before a start found faults; each of ``lines`` names one."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


class SettingsError(V6Error):
    """A setting is unknown, malformed or impossible."""


class CalendarError(V6Error):
    """A date is outside the shipped calendar or is not a trading day."""


class GatewayError(V6Error):
    """The gateway cannot be used: unreachable, not IB's, refusing, or silent past a deadline."""


class GatewayUnreachableError(GatewayError):
    """Nothing listens, what listens does not speak IB's protocol, or the connection has ended."""


class ClientIdInUseError(GatewayError):
    """The gateway already serves a client with this id (error 326)."""


class GatewayTooOldError(GatewayError):
    """The gateway speaks an older version of IB's protocol than this client (error 503): update the gateway."""


class RequestRefusedError(GatewayError):
    """The gateway refused a request; the message has IB's code and words."""


class PositionsRefusedError(RequestRefusedError):
    """IB refuses the positions of the login, at once and account by account; the message says what to set."""


class RequestTimeoutError(GatewayError):
    """A request got no answer within its deadline."""


class HistoryRefusedError(GatewayError):
    """A historical request was refused, with IB's ``code`` and ``text``."""

    def __init__(self, message: str, *, code: int, text: str) -> None:
        super().__init__(message)
        self.code = code
        self.text = text


class UnknownContractError(GatewayError):
    """The broker has no definition for a conid (error 200), or it is not held."""


class AccountFeedError(GatewayError):
    """The account download was refused, evicted or incomplete (2100, 2101, time-out)."""


class StateError(V6Error):
    """The state database is unreadable, not writable, or has another schema version."""


class LakeError(V6Error):
    """A Delta table is corrupt, unreachable, not writable, or refused the rows."""


class LakeConflictError(LakeError):
    """A commit lost the race against another writer's."""


class SnapshotRefusedError(V6Error):
    """No source covers an account on a trading day, or a source contradicts itself: no value is made up."""


class NotCoveredError(SnapshotRefusedError):
    """No source has the positions of an account on a trading day."""


class FencedError(V6Error):
    """Another owner has taken over: this one must stop writing at once. ``epoch`` is the new owner's, if known."""

    def __init__(self, message: str, *, epoch: int | None = None) -> None:
        super().__init__(message)
        self.epoch = epoch


class FlexError(V6Error):
    """A Flex statement cannot be read or has an impossible value; the message names file, row, field and value."""


class FlexServiceError(V6Error):
    """The Flex Web Service refused, sent an invalid reply, or had no statement in time; ``code`` is its error code."""

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class AlertError(V6Error):
    """An alert could not be delivered."""


class UsageError(V6Error):
    """The command was used wrongly (exit code 2)."""


def is_disk_full(error: OSError) -> bool:
    """Return whether a call failed because the disk has no space or no inode left, or the user's quota is used up."""
    return error.errno in _NO_SPACE


def has_no_space(folder: Path) -> bool:
    """Return whether the disk of ``folder`` has no room for a small file.

    For libraries that report every fault of a disk alike. Free blocks alone do not show a lack of inodes or a quota, so
    a temporary file of 64 KiB is written.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
            file.flush()
    except OSError as error:
        return is_disk_full(error)
    return False
