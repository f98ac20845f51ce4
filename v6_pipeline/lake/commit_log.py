"""What the Delta log says of each commit, with the version it really has.

``DeltaTable.history()`` alone will not do: it returns the newest commits of the table but numbers them down from the
version of the handle: all are misnumbered once another commit has landed, or when an older version is open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from v6_pipeline.lake.recovery.durability import LOG_FOLDER, local_path, read_log

_ATTEMPTS = 5


def commit_entries(handle: DeltaTable, uri: str, *, first: int, limit: int) -> list[dict[str, Any]]:
    """The ``commitInfo`` of versions from ``first`` on, oldest first, at most ``limit``.

    Versions whose log has expired or cannot be read are missing. Brings the handle to the newest version on an object
    store.

    Raises:
        DeltaError, OSError: the log cannot be read.
    """
    folder = local_path(uri)
    if folder is None:
        return _from_history(handle, first, limit)
    newest = handle.version()
    entries: list[dict[str, Any]] = []
    version, oldest = first, -1
    while version <= newest and len(entries) < limit:
        try:
            actions = read_log(folder, version)
        except FileNotFoundError:
            if oldest < 0:  # thousands may have expired: they are not tried one by one
                oldest = oldest_version(folder, newest)
            version = max(version + 1, oldest)
            continue
        except ValueError:  # damaged, where a checkpoint stands for it
            version += 1
            continue
        info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        entries.append({**info, "version": version})
        version += 1
    return entries


def oldest_version(folder: Path, newest: int) -> int:
    """The oldest version of a local table whose log file is there; ``newest`` if there is none.

    Raises:
        OSError: the log cannot be listed.
    """
    versions = [
        int(path.stem) for path in (folder / LOG_FOLDER).iterdir() if path.suffix == ".json" and path.stem.isdigit()
    ]
    return min(versions, default=newest)


def _from_history(handle: DeltaTable, first: int, limit: int) -> list[dict[str, Any]]:
    """Numbers are right if no commit landed while the history was read."""
    for _ in range(_ATTEMPTS):
        handle.update_incremental()
        before = handle.version()
        if before < first:
            return []
        entries = handle.history(before - first + 1)
        handle.update_incremental()
        if handle.version() == before:
            entries = [entry for entry in entries if entry["version"] >= first]
            return sorted(entries, key=lambda entry: int(entry["version"]))[:limit]
    raise OSError(f"commits kept landing while the log was read, {_ATTEMPTS} times over: timed out")
