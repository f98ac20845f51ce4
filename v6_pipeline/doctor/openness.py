"""Examines who else on this machine can read the home, and what the settings name outside of it. Changes no mode."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from v6_pipeline import privacy
from v6_pipeline.doctor.findings import Finding, warning
from v6_pipeline.settings import Settings

_WHAT = "privacy"
_READABLE = "other users of this machine can read the secrets of its settings, its positions and its logs"
_SQLITE = "sqlite:///"
_ENTER = stat.S_IXGRP | stat.S_IXOTH
_READ = stat.S_IRGRP | stat.S_IROTH


def open_to_others(settings: Settings) -> Iterator[Finding]:
    """Return a warning if other users can read the home, and one for what is outside of it; none if they cannot."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # a home that is missing or cannot be read is a finding of its own
        yield from _home(settings.home)
    outside = [
        f"{what} {path} (mode {privacy.mode(path):04o})" for what, path in _outside(settings) if _is_readable(path)
    ]
    if outside:
        yield warning(
            _WHAT,
            f"other users of this machine can read {', '.join(outside)}, outside of the home",
            "nothing, if that is meant; else take their rights away: chmod -R go= FOLDER",
        )


def _home(home: Path) -> Iterator[Finding]:
    bits = privacy.mode(home)
    if not bits & privacy.OTHERS:
        return
    says = f"{home} has mode {bits:04o}: {_READABLE}"
    why = privacy.foreign_reason(home)
    if why is not None:
        yield warning(
            _WHAT,
            f"{says}; the home {why}, so its mode is not changed",
            f"take their rights away, chmod -R go= {home.resolve()}, or set V6_HOME to a folder of its own",
        )
    elif not _keeps_modes(home):
        yield warning(
            _WHAT,
            f"{says}; its file system keeps no modes",
            "move the home to a disk of this machine that keeps them, and set V6_HOME to it",
        )
    else:
        yield warning(_WHAT, says, "run 'v6 init', which closes it and changes nothing else")


def _keeps_modes(folder: Path) -> bool:
    """Return whether a file that is created for its owner alone is his alone; True if none can be created."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            return not os.fstat(file.fileno()).st_mode & privacy.OTHERS
    except OSError:
        return True


def _outside(settings: Settings) -> Iterator[tuple[str, Path]]:
    lake, url = privacy.outside_lake(settings), settings.state_database_url
    named = {
        "the lake": lake,
        "the state database": Path(url.removeprefix(_SQLITE)).absolute() if url.startswith(_SQLITE) else None,
        "the Flex statements of": settings.flex_dir,
    }
    for what, path in named.items():
        if path is not None and not path.is_relative_to(settings.home):
            yield what, path


def _is_readable(path: Path) -> bool:
    """Return whether others can read a path and enter every folder above it."""
    try:
        real = path.resolve(strict=True)
        return bool(privacy.mode(real) & _READ) and all(privacy.mode(parent) & _ENTER for parent in real.parents)
    except OSError:
        return False
