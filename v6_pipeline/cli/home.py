"""The home of an installation: its settings file, state database, logs and Dagster home.

Belongs here: creating what is missing and opening what exists. Nothing that exists is changed but its mode.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from v6_pipeline.errors import LakeError, SettingsError, StateError, is_disk_full

if TYPE_CHECKING:
    from v6_pipeline.lake.lake import Lake
    from v6_pipeline.settings import Settings
    from v6_pipeline.state.database import StateDatabase

_SQLITE = "sqlite:///"


class Action(enum.StrEnum):
    """Outcome for a file or folder."""

    CREATED = "created"
    KEPT = "kept"
    MIGRATED = "migrated"
    REPLACED = "replaced"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a home and what was done about it; ``note`` is what a user must know about that."""

    what: str
    path: str
    action: Action
    note: str = ""


def load(*, protect: bool = True) -> Settings:
    """Return the settings of the home in use, by default after closing it to other users of the machine."""
    from v6_pipeline import privacy
    from v6_pipeline.settings import load_settings

    settings = load_settings()
    if protect:
        privacy.protect(settings)
    return settings


def path_in_use() -> Path:
    """Return the path of the home without reading its settings file, which may be broken."""
    from v6_pipeline.settings import Settings

    default: Path = Settings.model_fields["home"].default
    return Path(os.environ.get("V6_HOME") or default).expanduser().absolute()


@contextlib.contextmanager
def disk_faults() -> Iterator[None]:
    """Turn an OSError of the block into one line.

    Raises:
        SettingsError: a file or folder cannot be created or written.
    """
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        if is_disk_full(error):
            raise SettingsError(f"cannot write{where}: the disk is full; free some space") from error
        raise SettingsError(
            f"cannot write{where}: {error.strerror or error}; set V6_HOME to a folder that this user can write"
        ) from error


def write_settings_file(home: Path, values: Mapping[str, str] | None = None, *, force: bool = False) -> Step:
    """Write ``v6.toml`` unless it exists; with ``force`` the old one is kept as ``v6.toml.old``."""
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


def render_settings_file(values: Mapping[str, str] | None = None) -> str:
    """Return the text of a new ``v6.toml``: every setting with its default and a comment.

    The settings in ``values`` are set: name to TOML literal, such as ``{"ib_port": "4002"}``.
    """
    from v6_pipeline.settings import Settings

    chosen = dict(values or {})
    lines = [
        "# Settings of v6_pipeline. An environment variable, such as V6_IB_PORT, takes precedence over this file.",
        "# A line that begins with # shows the default.",
    ]
    for name, field in Settings.model_fields.items():
        if name == "home":  # it contains the file
            continue
        lines += ["", f"# {field.description}"]
        default = field.get_default(call_default_factory=True)
        lines.append(f"{name} = {chosen.pop(name)}" if name in chosen else f"# {name} = {_toml(default)}")
    if chosen:
        raise SettingsError(f"no such setting: {', '.join(sorted(chosen))}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if value is None:
        return '""'
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def prepare_dagster_home(settings: Settings) -> Step:
    """Create Dagster's home with its ``dagster.yaml``; an existing file is the user's and stays."""
    path = settings.dagster_home / "dagster.yaml"
    with disk_faults():
        settings.dagster_home.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return Step("Dagster", str(path), Action.KEPT)
        text = resources.files("v6_pipeline").joinpath("data/dagster.yaml").read_text(encoding="utf-8")
        path.write_text(text, encoding="utf-8")
    return Step("Dagster", str(path), Action.CREATED)


def prepare_log_folder(settings: Settings) -> Step:
    """Create the folder of the logs."""
    with disk_faults():
        existed = settings.log_dir.is_dir()
        settings.log_dir.mkdir(parents=True, exist_ok=True)
    return Step("logs", str(settings.log_dir), Action.KEPT if existed else Action.CREATED)


def close_to_others(settings: Settings) -> Step | None:
    """Take the rights of other users from everything in the home; None if they had none."""
    from v6_pipeline import privacy

    count = privacy.protect(settings, deep=True)
    if not count:
        return None
    note = f"files and folders that were open to other users of this machine: {count}"
    return Step("home", str(settings.home), Action.CLOSED, note)


def prepare_state(settings: Settings) -> Step:
    """Create or migrate the state database where needed.

    Raises:
        StateError: it cannot be used, or not be copied before its migration.
    """
    from v6_pipeline.state.database import StateDatabase, copy_path

    url, name = settings.state_database_url, settings.safe_state_url
    found = StateDatabase.examine(url, name_for_messages=name)
    StateDatabase.open(url, name_for_messages=name, migrate=True).close()
    if found.stored is None:
        return Step("state", name, Action.CREATED)
    if found.is_current:
        return Step("state", name, Action.KEPT)
    file = _sqlite_file(settings)
    copied = f"the file before it is {copy_path(file, found.stored)}" if file else "no copy is made on a server"
    note = f"from schema {found.stored} to {found.current}: {copied}; older versions of v6_pipeline are refused now"
    return Step("state", name, Action.MIGRATED, note)


@contextlib.contextmanager
def open_state(settings: Settings, *, must_exist: bool = False) -> Iterator[StateDatabase]:
    """Open the state database.

    With ``must_exist`` it is not created, for commands that would only find it empty: the home may be the wrong one.

    Raises:
        StateError: it does not exist or cannot be used.
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
    """Open the lake; this creates nothing.

    Raises:
        LakeError: a file is in its place, or it cannot be reached.
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
