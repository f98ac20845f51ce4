"""The home of an installation: its settings file, state database, logs and Dagster home.

Belongs here: making what is missing, and opening what is there. Nothing that exists is changed.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from v6_pipeline.errors import LakeError, SettingsError, StateError

if TYPE_CHECKING:
    from v6_pipeline.lake.lake import Lake
    from v6_pipeline.settings import Settings
    from v6_pipeline.state.database import StateDatabase

_SQLITE = "sqlite:///"


class Action(enum.StrEnum):
    """What was done about a file or folder."""

    CREATED = "created"
    KEPT = "kept"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a home has, and what was done about it."""

    what: str
    path: str
    action: Action


def load() -> Settings:
    """The settings of the home in use."""
    from v6_pipeline.settings import load_settings

    return load_settings()


def path_in_use() -> Path:
    """The home, known without reading its settings file, which may be broken."""
    from v6_pipeline.settings import Settings

    default: Path = Settings.model_fields["home"].default
    return Path(os.environ.get("V6_HOME") or default).expanduser().absolute()


@contextlib.contextmanager
def disk_faults() -> Iterator[None]:
    """What the disk says about a home, as one line.

    Raises:
        SettingsError: a file or folder cannot be made or written.
    """
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise SettingsError(
            f"cannot write{where}: {error.strerror or error}; set V6_HOME to a folder that this user can write"
        ) from error


def write_settings_file(home: Path, values: Mapping[str, str] | None = None, *, force: bool = False) -> Step:
    """Write ``v6.toml`` unless it is there; with ``force`` the old one is kept beside it as ``v6.toml.old``."""
    from v6_pipeline.cli.settings_file import render_settings_file
    from v6_pipeline.settings import FILE_NAME

    path = home / FILE_NAME
    with disk_faults():
        home.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        if existed and not force:
            return Step("settings", str(path), Action.KEPT)
        if existed:
            path.replace(path.with_name(FILE_NAME + ".old"))
        path.write_text(render_settings_file(values), encoding="utf-8")
    return Step("settings", str(path), Action.REPLACED if existed else Action.CREATED)


def prepare_dagster_home(settings: Settings) -> Step:
    """Dagster's home with its ``dagster.yaml``; one that is there is the user's and stays."""
    path = settings.dagster_home / "dagster.yaml"
    with disk_faults():
        settings.dagster_home.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return Step("Dagster", str(path), Action.KEPT)
        text = resources.files("v6_pipeline").joinpath("data/dagster.yaml").read_text(encoding="utf-8")
        path.write_text(text, encoding="utf-8")
    return Step("Dagster", str(path), Action.CREATED)


def prepare_log_folder(settings: Settings) -> Step:
    """The folder of the logs."""
    with disk_faults():
        existed = settings.log_dir.is_dir()
        settings.log_dir.mkdir(parents=True, exist_ok=True)
    return Step("logs", str(settings.log_dir), Action.KEPT if existed else Action.CREATED)


def prepare_state(settings: Settings) -> Step:
    """The state database, created or migrated where needed."""
    file = _sqlite_file(settings)
    existed = file is None or file.exists()
    with open_state(settings):
        pass
    return Step("state", settings.safe_state_url, Action.KEPT if existed else Action.CREATED)


@contextlib.contextmanager
def open_state(settings: Settings, *, must_exist: bool = False) -> Iterator[StateDatabase]:
    """The state database.

    Args:
        settings: of the home.
        must_exist: refuse to create it, for commands that would only find it empty: the home may be the wrong one.

    Raises:
        StateError: it is not there, or cannot be used.
    """
    file = _sqlite_file(settings)
    if must_exist and file is not None and not file.exists():
        raise StateError(f"no state database at {file}: run 'v6 init', or name the right home with 'v6 --home PATH'")
    from v6_pipeline.state.database import StateDatabase

    database = StateDatabase.open(settings.state_database_url, name_for_messages=settings.safe_state_url)
    try:
        yield database
    finally:
        database.close()


def open_lake(settings: Settings) -> Lake:
    """The lake; nothing is made by this.

    Raises:
        LakeError: something else is in its place, or it cannot be reached.
    """
    from v6_pipeline.lake.lake import Lake

    if "://" not in settings.lake_root and Path(settings.lake_root).is_file():
        raise LakeError(f"the lake {settings.lake_root} is a file: set V6_LAKE_URI to a folder, or move the file away")
    lake = Lake.from_settings(settings)
    lake.kind()
    return lake


def _sqlite_file(settings: Settings) -> Path | None:
    url = settings.state_database_url
    return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None
