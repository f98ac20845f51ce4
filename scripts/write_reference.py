"""Write ``docs/reference`` from what the code itself says: settings, tables, commands.

``python scripts/write_reference.py``; a test compares the pages with what this would write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer.main
from pydantic.fields import FieldInfo

from v6_pipeline.cli.app import app
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.tables import TABLES
from v6_pipeline.settings import FILE_NAME, PREFIX, Settings, bounds

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
WRITTEN = "Written by `make docs-reference`; do not edit."


def shown_default(field: FieldInfo) -> str:
    """The default as a reader sets it; secrets and values that depend on the machine are not shown."""
    if "Secret" in str(field.annotation):
        return "not shown"
    if field.is_required():
        return "required"
    default = field.default
    if field.default_factory is not None or isinstance(default, Path):
        return "computed"
    shown = ",".join(default) if isinstance(default, tuple) else default
    return "empty" if shown in (None, "") else f"`{shown}`"


def settings_page() -> str:
    """The page of all settings, in the order they are declared."""
    rows = (
        f"| `{PREFIX}{name.upper()}` | {_cell(field.description or '')} | {bounds(name)} | {shown_default(field)} |"
        for name, field in Settings.model_fields.items()
    )
    head = (
        f"{WRITTEN} A variable of the environment goes before the same name in\n`$V6_HOME/{FILE_NAME}` (lower case, "
        f"without `{PREFIX}`), which goes before the default."
    )
    return _page("Settings", head, _table(("variable", "meaning", "values", "default"), rows))


def tables_page() -> str:
    """The page of all Delta tables, column by column."""
    head = f"{WRITTEN} All are partitioned by trading day. Null is unknown; *always*: never null."
    return _page("Tables", head, *(_table_section(spec) for spec in TABLES))


def commands_page() -> str:
    """The page of all commands, as ``--help`` has them."""
    return _page("Commands", WRITTEN, *_commands(typer.main.get_command(app), "v6"))


PAGES = {"settings.md": settings_page, "tables.md": tables_page, "commands.md": commands_page}


def _table_section(spec: TableSpec) -> str:
    facts = [spec.description, f"Key: {', '.join(f'`{name}`' for name in spec.key)}."]
    if spec.replaced_by:
        facts.append(f"Replaced as a whole by {', '.join(f'`{name}`' for name in spec.replaced_by)}.")
    rows = (
        f"| `{one.name}` | {_type(one.dtype)} | {'yes' if one.required else ''} | {_cell(one.description)} |"
        for one in spec.columns
    )
    return f"## {spec.name}\n\n{' '.join(facts)}\n\n" + _table(("column", "type", "always", "meaning"), rows)


def _type(dtype: object) -> str:
    return f"`{dtype}`".replace("time_unit='us', time_zone='UTC'", "us, UTC")


def _commands(command: Any, path: str) -> Iterator[str]:  # noqa: ANN401  (click's, of one of two packages)
    """A section for each command that does something, groups first."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield _command_section(command, path)
    for name, one in inner.items():
        yield from _commands(one, f"{path} {name}")


def _command_section(command: Any, path: str) -> str:  # noqa: ANN401
    text = " ".join((command.help or "").split())
    rows = [
        f"| `{_name(parameter)}` | {_cell(getattr(parameter, 'help', None) or '')} |"
        for parameter in command.params
        if parameter.name != "help"
    ]
    return f"## {path}\n\n{text}\n" + (f"\n{_table(('parameter', 'meaning'), rows)}" if rows else "")


def _name(parameter: Any) -> str:  # noqa: ANN401
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return " / ".join((*parameter.opts, *parameter.secondary_opts))


def _page(title: str, head: str, *sections: str) -> str:
    return "\n".join((f"# {title}\n", head + "\n", *sections))


def _table(columns: tuple[str, ...], rows: Iterable[str]) -> str:
    return "\n".join((f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *rows)) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the pages."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
