"""The text of a new settings file: every setting, its default and what it means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date

from v6_pipeline.errors import SettingsError
from v6_pipeline.settings import Settings


def render_settings_file(values: Mapping[str, str] | None = None) -> str:
    """The text of a new ``v6.toml``: every setting with its default and a comment; those in ``values`` are set.

    Args:
        values: name to TOML literal, such as ``{"ib_port": "4002"}``.
    """
    chosen = dict(values or {})
    lines = [
        "# Settings of v6_pipeline. A variable of the environment, such as V6_IB_PORT, goes before this file.",
        "# A line that begins with # shows the default.",
    ]
    for name, field in Settings.model_fields.items():
        if name == "home":  # the file lies in it
            continue
        lines += ["", f"# {field.description}"]
        lines.append(f"{name} = {chosen.pop(name)}" if name in chosen else f"# {name} = {_toml_default(name)}")
    if chosen:
        raise SettingsError(f"no such setting: {', '.join(sorted(chosen))}")
    return "\n".join(lines) + "\n"


def _toml_default(name: str) -> str:
    default = Settings.model_fields[name].get_default(call_default_factory=True)
    if default is None:
        return '""'
    if isinstance(default, date):
        return default.isoformat()
    if isinstance(default, dict):
        return "{}"
    if isinstance(default, tuple):
        return json.dumps(list(default))
    return json.dumps(default)
