"""What delta-rs and the disk say, as one line for a person; which commit failures are conflicts.

delta-rs tells conflicts apart by text alone: all are ``CommitFailedError``, and so are some rows that it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import polars as pl
from deltalake.exceptions import CommitFailedError, DeltaError

from v6_pipeline.errors import LakeError

_CONFLICT = re.compile(
    r"concurrent transaction|metadata changed since last commit|protocol.*changed|max attempts"
    r"|failed to commit transaction: \d+$",
    re.IGNORECASE,
)
_CORRUPT = re.compile(
    r"json|log record|checkpoint.*(?:corrupt|invalid)|parquet|missing.*(?:version|file|commit)|no commit|log segment"
    r"|not contiguous|no files in log",
    re.IGNORECASE,
)
_NOT_WRITABLE = re.compile(
    r"not a directory|permission denied|read-only|no space left|could not create local directory|file exists"
    r"|is a directory|cannot be accessed|quota|access ?denied|forbidden|os error (?:1|13|17|20|21|28|30)\b",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(
    r"error performing|connect|timed? ?out|dns|generic config|unknown scheme|NoSuchBucket|credential|unauthor",
    re.IGNORECASE,
)
_ANSI = re.compile(r"\x1b\[[0-9;]*m|↳")
_BACKTRACE = re.compile(r"\s+0: .*", re.DOTALL)
_LONGEST = 300


def is_conflict(error: BaseException) -> bool:
    """Whether a commit lost against another writer's, so that reading the table again and retrying can help."""
    return isinstance(error, CommitFailedError) and bool(_CONFLICT.search(_flat(str(error))))


def safe_uri(uri: str) -> str:
    """The address without user, password and query, which may hold secrets."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2] if parts.scheme in {"s3", "gs", "http", "https"} else parts.netloc
    return f"{parts.scheme}://{host}{parts.path}"


def lake_error(error: BaseException, *, table: str, uri: str, options: Mapping[str, str]) -> LakeError:
    """The fault as one line that names table, place and remedy; no value of the storage options is in it."""
    text = _redact(_flat(str(error)), options)
    place = f"table {table} at {_redact(safe_uri(uri), options)}"
    local = "://" not in uri
    if _NOT_WRITABLE.search(text):
        return LakeError(
            f"{place} cannot be written: {text}; make it a folder that this user can write, with space left"
        )
    if not local and (_UNREACHABLE.search(text) or isinstance(error, OSError)):
        return LakeError(f"{place} cannot be reached: {text}; check V6_LAKE_URI and V6_LAKE_OPTIONS")
    if _CORRUPT.search(text):
        return LakeError(f"{place} is damaged: {text}; restore it, or move it away and a new table is made")
    return LakeError(f"{place} failed: {text}; the table's _delta_log tells what was committed last")


@contextmanager
def lake_faults(*, table: str, uri: str, options: Mapping[str, str]) -> Iterator[None]:
    """Turn every fault of delta-rs, polars and the disk inside into ``LakeError``."""
    try:
        yield
    except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
        raise lake_error(error, table=table, uri=uri, options=options) from error


def _flat(text: str) -> str:
    return " ".join(_ANSI.sub(" ", _BACKTRACE.sub("", text)).split())[:_LONGEST]


def _redact(text: str, options: Mapping[str, str]) -> str:
    # Longest first, so that no secret is left over from one that contains it; "true" and the like carry nothing.
    for value in sorted(options.values(), key=len, reverse=True):
        if len(value) > 4:
            text = text.replace(value, "***")
    return text
