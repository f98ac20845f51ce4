"""Write ``docs/reference/settings.md`` from the settings themselves: ``python scripts/write_reference.py``."""

from __future__ import annotations

from pathlib import Path

from pydantic.fields import FieldInfo

from v6_pipeline.settings import FILE_NAME, PREFIX, Settings

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
HEAD = f"""# Settings

Written by `make docs-reference`; do not edit. A variable of the environment goes before the same name in
`$V6_HOME/{FILE_NAME}` (lower case, without `{PREFIX}`), which goes before the default.

| variable | meaning | default |
|---|---|---|
"""


def shown_default(field: FieldInfo) -> str:
    """The default as a reader sets it; secrets and values that depend on the machine are not shown."""
    if "Secret" in str(field.annotation):
        return "not shown"
    if field.is_required():
        return "required"
    default = field.default
    if field.default_factory is not None or isinstance(default, Path):
        return "computed"
    return "empty" if default in (None, "", ()) else f"`{default}`"


def settings_page() -> str:
    """The page of all settings, in the order they are declared."""
    rows = (
        f"| `{PREFIX}{name.upper()}` | {field.description or ''} | {shown_default(field)} |".replace("\n", " ")
        for name, field in Settings.model_fields.items()
    )
    return HEAD + "\n".join(rows) + "\n"


def main() -> None:
    """Write the page."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    (REFERENCE / "settings.md").write_text(settings_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
