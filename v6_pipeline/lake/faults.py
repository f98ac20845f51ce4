"""Errors of delta-rs and the disk as one-line ``LakeError``; recognition of commit conflicts.

delta-rs marks conflicts by their text alone: all are ``CommitFailedError``, and so are some refusals of rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import polars as pl
from deltalake.exceptions import CommitFailedError, DeltaError

from v6_pipeline.errors import LakeConflictError, LakeError
from v6_pipeline.lake.recovery.durability import LOG_FOLDER, local_path
from v6_pipeline.lake.recovery.inspection import Damage

_CONFLICT = re.compile(
    r"concurrent transaction|metadata changed since last commit|protocol.*changed|max attempts"
    r"|failed to commit transaction: \d+$",
    re.IGNORECASE,
)
_CORRUPT = re.compile(
    r"json|log record|checkpoint.*(?:corrupt|invalid)|parquet|missing.*(?:version|file|commit)|no commit|log segment"
    r"|not contiguous|contiguous commit files|no files in log|no table metadata",
    re.IGNORECASE,
)
_NOT_WRITABLE = re.compile(
    r"not a directory|permission denied|read-only|no space left|could not create local directory|file exists"
    r"|is a directory|cannot be accessed|quota|access ?denied|forbidden|file too large"
    r"|(?:os error |errno )(?:1|13|17|20|21|27|28|30|122)\b",
    re.IGNORECASE,
)
_FULL = re.compile(r"no space left|quota|(?:os error |errno )(?:28|122)\b", re.IGNORECASE)
_DISK = re.compile(r"input/output error|(?:os error |errno )5\b", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"error performing|connect|timed? ?out|dns|generic config|unknown scheme|NoSuchBucket|credential|unauthor",
    re.IGNORECASE,
)
_UNKNOWN_SCHEME = re.compile(r"Unknown scheme: (\S+?)\.? ")
_SCHEMES = "an address that begins with s3://, gs://, az:// or abfss://"
_CONTAINER_FIRST = {"abfs", "abfss", "wasb", "wasbs"}
_ANSI = re.compile(r"\x1b\[[0-9;]*m|↳")
_BACKTRACE = re.compile(r"\s+0: .*", re.DOTALL)
_LONGEST = 300


def is_conflict(error: BaseException) -> bool:
    """Return whether a commit lost against another writer's: then read the table again and retry."""
    return isinstance(error, CommitFailedError) and bool(_CONFLICT.search(_flat(str(error))))


def safe_uri(uri: str) -> str:
    """Return the address without user, password and query, which may hold secrets."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{_safe_place(parts.scheme, parts.netloc)}{parts.path}"


def _safe_place(scheme: str, netloc: str) -> str:
    """Return bucket or host without user and password; Azure's container stands where others have the user."""
    user, at, host = netloc.rpartition("@")
    return f"{user.partition(':')[0]}@{host}" if at and scheme in _CONTAINER_FIRST else host


def lake_error(error: BaseException, *, table: str, uri: str, options: Mapping[str, str]) -> LakeError:
    """Return one line that names table, place and remedy, and contains no value of the storage options."""
    parts = urlsplit(uri)
    text = str(error)
    if parts.netloc:  # some of delta-rs's messages repeat the address
        text = text.replace(parts.netloc, _safe_place(parts.scheme, parts.netloc))
    text = _redact(_flat(text), options)
    place = f"table {table} at {_redact(safe_uri(uri), options)}"
    folder = local_path(uri)
    local = folder is not None
    if local and _FULL.search(text):
        return LakeError(f"{place} cannot be written: the disk is full ({text}); free some space")
    if _NOT_WRITABLE.search(text):
        return LakeError(
            f"{place} cannot be written: {text}; make it a folder that this user can write, with space left"
        )
    if scheme := _UNKNOWN_SCHEME.match(text):
        return LakeError(f"{place}: Unknown scheme {scheme[1]}; set V6_LAKE_URI to a folder or to {_SCHEMES}")
    if not local and (_UNREACHABLE.search(text) or isinstance(error, OSError)):
        return LakeError(f"{place} cannot be reached: {text}; check V6_LAKE_URI and V6_LAKE_OPTIONS")
    if _DISK.search(text):
        return LakeError(f"{place} cannot be read or written: {text}; check the disk")
    if folder is not None and not (folder / LOG_FOLDER).exists():
        return gone(table=table, uri=uri)
    if _CORRUPT.search(text):
        remedy = f"run 'v6 lake repair {table}'" if local else "restore it"
        return LakeError(f"{place} is damaged: {text}; {remedy}")
    return LakeError(f"{place} failed: {text}; the table's _delta_log shows what was committed last")


def gone(*, table: str, uri: str) -> LakeError:
    """Return the error of a table whose folder has disappeared, most likely with an unmounted disk."""
    return LakeError(f"table {table} at {safe_uri(uri)} is gone: mount its disk again, or bring the folder back")


def damaged(damage: Damage, *, table: str, uri: str) -> LakeError:
    """Return the error of a damaged table, which names the file and the repair."""
    return LakeError(f"table {table} at {safe_uri(uri)} is damaged: {damage}; run 'v6 lake repair {table}'")


def too_many_conflicts(table: str, attempts: int) -> LakeConflictError:
    """Return the error of a commit that lost every attempt against other writers."""
    return LakeConflictError(f"table {table} is being changed by others: {attempts} commits lost; try again")


@contextmanager
def lake_faults(*, table: str, uri: str, options: Mapping[str, str]) -> Iterator[None]:
    """Turn every error of delta-rs, polars and the disk within the context into ``LakeError``."""
    try:
        yield
    except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
        raise lake_error(error, table=table, uri=uri, options=options) from error


def _flat(text: str) -> str:
    return " ".join(_ANSI.sub(" ", _BACKTRACE.sub("", text)).split())[:_LONGEST]


def _redact(text: str, options: Mapping[str, str]) -> str:
    # Longest first, so that no part of a secret is left that contains another; "true" and the like are no secrets.
    for value in sorted(options.values(), key=len, reverse=True):
        if len(value) > 4:
            text = text.replace(value, "***")
    return text
