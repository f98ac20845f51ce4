"""What the Delta log says of each commit, with the version it really has.

``DeltaTable.history()`` alone will not do: it returns the newest commits of the table but numbers them down from the
version of the handle: all are misnumbered once another commit has landed, or when an older version is open.
"""

from __future__ import annotations

from typing import Any

from deltalake import DeltaTable

from v6_pipeline.lake.durability import local_path, read_log

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
    entries: list[dict[str, Any]] = []
    for version in range(first, handle.version() + 1):
        if len(entries) == limit:
            break
        try:
            actions = read_log(folder, version)
        except (FileNotFoundError, ValueError):  # expired, or damaged where a checkpoint stands for it
            continue
        info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        entries.append({**info, "version": version})
    return entries


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
