"""The folder in which the demo runs while its pictures are taken: of one name, for they show it."""

from __future__ import annotations

import shutil
from pathlib import Path

MARKER = ".made-for-pictures"


def made_anew(folder: Path) -> Path:
    """The folder, empty but for its marker.

    Raises:
        FileExistsError: something else is there, which is not ours to delete.
    """
    if (folder / MARKER).is_file():
        shutil.rmtree(folder)
    try:
        folder.mkdir()
    except FileExistsError:
        raise FileExistsError(f"{folder} was not made for pictures: move it away, or delete it") from None
    (folder / MARKER).touch()
    return folder
