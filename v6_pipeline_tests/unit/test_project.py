"""The project's own files: what must agree with what, and what a process must not import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_the_instance_at_the_root_is_the_one_that_is_shipped() -> None:
    shipped = resources.files("v6_pipeline").joinpath("data/dagster.yaml").read_text(encoding="utf-8")

    assert (ROOT / "dagster.yaml").read_text(encoding="utf-8") == shipped


def test_the_code_location_has_one_name_everywhere() -> None:
    """Sensors' states and cursors are kept by location: another name would start them over."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["dg"]["project"]
    [entry] = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]

    assert project["code_location_name"] == entry["python_module"]["location_name"] == "v6_pipeline"
    assert project["code_location_target_module"] == entry["python_module"]["module_name"]


def test_constraints_name_versions_and_no_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()

    assert all(re.fullmatch(r"#.*|[A-Za-z0-9_.\[\]-]+==[A-Za-z0-9_.+!-]+", line) for line in lines)


def test_no_transaction_is_opened_outside_state() -> None:
    """Other packages call what ``state`` offers with the ``StateDatabase``: its SQL and transactions stay inside."""
    found = [
        f"{path.relative_to(ROOT)}: {ast.unparse(node).splitlines()[0]}"
        for path in sorted((ROOT / "v6_pipeline").rglob("*.py"))
        if "state" not in path.relative_to(ROOT).parts[1:2]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _opens_a_transaction(node) or (isinstance(node, ast.ImportFrom) and _imports_connection(node))
    ]

    assert found == []


def test_no_wait_in_a_thread_is_without_a_deadline() -> None:
    """A call that hangs in a thread of ``asyncio.to_thread`` also keeps its process from ending."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "v6_pipeline").rglob("*.py"))
        if "paper" not in path.relative_to(ROOT).parts[1:2]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "to_thread"
    ]

    assert found == [], "use v6_pipeline.state.answers"


def _opens_a_transaction(node: ast.AST) -> bool:
    return isinstance(node, ast.With | ast.AsyncWith) and any(
        isinstance(item.context_expr, ast.Call)
        and isinstance(item.context_expr.func, ast.Attribute)
        and item.context_expr.func.attr in {"read", "write"}
        for item in node.items
    )


def _imports_connection(node: ast.ImportFrom) -> bool:
    of_state = (node.module or "").startswith("v6_pipeline.state")
    return of_state and any(name.name in {"Connection", "reads", "writes"} for name in node.names)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("v6_pipeline", ("dagster", "polars", "sqlalchemy", "pydantic", "ib_async")),
        ("v6_pipeline.streamer", ("dagster", "pandas", "exchange_calendars", "alembic")),
        ("v6_pipeline.cli", ("dagster", "polars", "sqlalchemy", "deltalake", "ib_async")),
        ("v6_pipeline.definitions", ("alembic", "pandas", "typer")),
    ],
)
def test_start_up_stays_quick(module: str, unwanted: tuple[str, ...]) -> None:
    """Dagster alone costs 3 s and 70 MB: the streamer, started by a sensor, must not pay that."""
    code = f"import sys, {module}; print(*[name for name in {unwanted!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == ""


@pytest.mark.parametrize("module", ["v6_pipeline.streamer", "v6_pipeline.definitions"])
def test_the_garbage_collector_rests_before_anything_heavy_is_imported(module: str) -> None:
    code = f"""
import builtins, gc
original = builtins.__import__
def noted(name, *rest):
    if name.partition(".")[0] in {{"dagster", "polars", "sqlalchemy"}}:
        print(gc.get_threshold()[0])
        raise SystemExit
    return original(name, *rest)
builtins.__import__ = noted
import {module}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert int(done.stdout) > 700, "Python's default"
