"""Privacy of a home: no other user of the machine reads its secrets, its positions and its logs.

Belongs here: the modes of a home's files and folders. Only what this product creates is changed: never the target of a
symbolic link, never another user's files, never a lake outside of the home. On Windows, whose file systems have no
modes, nothing is done: a folder has there the access rights of the one that contains it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from v6_pipeline.quick_start import INHERITED_UMASK
from v6_pipeline.settings import FILE_NAME, Settings

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The bits of a mode that count for other users."""
_PARTS = (f"{FILE_NAME}*", "state.db*", "up.json*", "children.json*", "lake", "logs", "dagster", "flex", "demo")
"""What a home holds. A user's own files next to these are not changed; the home's mode closes them too."""
_HAS_MODES = os.name == "posix"


def protect(settings: Settings, *, deep: bool = False, own_process: bool = True) -> int:
    """Close the home to other users, and what this process and its children create; each process calls it at its start.

    Return how many files and folders were open. ``deep`` includes everything inside the folders: one system call per
    file. A mode that cannot be changed stays, and ``v6 doctor`` reports it. With a lake in a folder outside of the
    home the umask is the inherited one: others may be meant to read that lake. A process that is not ``own_process``,
    such as a user's own Dagster that loads the code location, keeps its umask.
    """
    if own_process:
        os.umask(INHERITED_UMASK if outside_lake(settings) else OTHERS)
    home = settings.home
    if not _HAS_MODES or not home.is_dir() or foreign_reason(home) is not None:
        return 0
    closed = _close(home)
    for part in (path for pattern in _PARTS for path in home.glob(pattern)):
        closed += _close(part)
        if deep and part.is_dir() and not part.is_symlink():
            closed += sum(map(_close, _inside(part)))
    return closed


def foreign_reason(home: Path) -> str | None:
    """Return why the mode of a home is not ours to change, as the end of a sentence; ``None`` if it is."""
    if home.is_symlink():
        return f"is a symbolic link to {home.resolve()}"
    found = home.stat()
    if found.st_uid != os.geteuid():
        return "belongs to another user"
    real = home.resolve()
    if found.st_mode & stat.S_ISVTX or Path.home().is_relative_to(real):
        return "is a folder for other things too"
    return None


def mode(path: Path) -> int:
    """Return the permission bits of a file or folder, of its target if it is a symbolic link."""
    return stat.S_IMODE(path.stat().st_mode)


def outside_lake(settings: Settings) -> Path | None:
    """Return the folder of a lake that is outside of the home; ``None`` if it is inside, or in an object store."""
    if "://" in settings.lake_root or Path(settings.lake_root).is_relative_to(settings.home):
        return None
    return Path(settings.lake_root)


def _inside(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):  # follows no symbolic link
        yield from (Path(parent, name) for name in (*folders, *files))


def _close(path: Path) -> int:
    """Take the rights of others from a path; return 1 if it had any and is ours, else 0."""
    with contextlib.suppress(OSError):  # deleted by another process, or a disk that refuses
        found = path.lstat()
        if found.st_mode & OTHERS and found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode):
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
            return 1
    return 0
