"""Tables and JSON."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from v6_pipeline.cli import output


def test_a_document_is_one_line_of_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.document(
        {
            "at": datetime(2026, 3, 4, 17, tzinfo=UTC),
            "day": date(2026, 3, 4),
            "unknown": float("nan"),
            "path": Path("a"),
            "list": ({"x": None}, frozenset({1})),
            "number": 5,
        }
    )
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "at": "2026-03-04T17:00:00+00:00",
        "day": "2026-03-04",
        "unknown": None,
        "path": "a",
        "list": [{"x": None}, [1]],
        "number": 5,
    }


def test_a_table_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("long", "markup", "none"), [("x" * 300, "[bold]y[/]", None)])
    out = capsys.readouterr().out
    assert "x" * 300 in out
    assert "[bold]y[/]" in out
    assert "None" not in out


def test_an_error_is_one_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    output.error("first\n  second")
    assert capsys.readouterr().err == "error: first second\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 d")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert output.duration(seconds) == shown


def test_numbers() -> None:
    assert output.amount(-1234.5) == "-1,234.50"
    assert output.amount(None) == ""
    assert output.quantity(-50.0) == "-50"
    assert output.quantity(0.25) == "0.25"
    assert output.counted(1, "row") == "1 row"
    assert output.counted(0, "row") == "0 rows"
