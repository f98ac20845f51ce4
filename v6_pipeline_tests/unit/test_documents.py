"""The documents name only what exists."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.settings import PREFIX, Settings
from v6_pipeline.streaming.handlers import PositionUpdateHandler

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_images_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).resolve().exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_variables_named_are_settings(page: Path) -> None:
    named = set(re.findall(rf"\b{PREFIX}[A-Z0-9_]*[A-Z0-9]\b", page.read_text(encoding="utf-8")))
    assert named - {PREFIX + name.upper() for name in Settings.model_fields} == set()


def test_the_site_shows_every_picture() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    pictures = {picture.name for picture in (ROOT / "docs" / "images").iterdir()}
    assert pictures == set(re.findall(r"\]\(images/([\w-]+\.png)\)", pages))


def test_the_handler_of_the_recipe_is_one() -> None:
    recipe = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8").partition("## Add a handler")[2]
    [code] = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    module: dict[str, Any] = {}
    exec(code, module)
    assert isinstance(module["make"](Settings()), PositionUpdateHandler)


def test_the_site_shows_every_page() -> None:
    nav = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r'"([\w/-]+\.md)"', nav)) == pages


@pytest.mark.parametrize("name", ["settings.md", "tables.md", "commands.md"])
def test_the_reference_is_current(name: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_reference.py"))
    assert set(script["PAGES"]) == {page.name for page in (ROOT / "docs" / "reference").glob("*.md")}
    committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert committed == script["PAGES"][name](), "run make docs-reference"


def test_defaults_of_secrets_are_not_shown() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_reference.py"))
    secret = [field for field in Settings.model_fields.values() if "Secret" in str(field.annotation)]
    assert secret
    assert {script["shown_default"](field) for field in secret} == {"not shown"}


def test_defaults_are_shown_as_one_sets_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown_default = runpy.run_path(str(ROOT / "scripts" / "write_reference.py"))["shown_default"]
    shown = {name: shown_default(field).strip("`") for name, field in Settings.model_fields.items()}
    set_so = {name: text for name, text in shown.items() if text not in {"empty", "computed", "not shown", "required"}}
    monkeypatch.setenv(f"{PREFIX}HOME", str(tmp_path))
    for name, text in set_so.items():
        monkeypatch.setenv(PREFIX + name.upper(), text)
    settings = Settings()
    assert {name: getattr(settings, name) for name in set_so} == {
        name: Settings.model_fields[name].default for name in set_so
    }


def test_the_runbook_has_every_check() -> None:
    specs = (ROOT / "v6_pipeline_tests" / "unit" / "defs" / "specs.txt").read_text(encoding="utf-8")
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    checks = set(re.findall(r"^  check (\w+)$", specs, re.MULTILINE))

    assert checks
    assert set(re.findall(r"^\| `(\w+)`", runbook, re.MULTILINE)) == checks


def test_every_module_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"\bv6_pipeline/[\w/]+(?:\.py)?", text))
    modules = set(re.findall(r"\bv6_pipeline(?:\.[a-z]\w*)+", text))
    assert len(paths) > 40
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []
    assert sorted(module for module in modules if not _exists(module)) == []


def test_the_architecture_and_the_readme_name_every_room() -> None:
    package = ROOT / "v6_pipeline"
    rooms = {folder.name for folder in package.iterdir() if (folder / "__init__.py").exists()}
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2]
    named = set(re.findall(r"(?<![\w/])(\w+)/", tree.partition("v6_pipeline_tests/")[0])) - {"v6_pipeline"}
    modules = re.findall(r"\w+\.py", tree.partition("v6_pipeline_tests/")[0])

    assert rooms == {name for name in rooms if f"`v6_pipeline/{name}`" in architecture}
    assert named == rooms
    assert [name for name in modules if not (package / name).exists()] == []


def _exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()
