"""Bars: there for a person, gone for a file, and asked while the work goes on."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console

from v6_pipeline.cli import progress


def drawn(*, terminal: bool, shown: bool = True, total: int | None = 12) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, _environ={"TERM": "xterm"})
    with progress.bar("holdings refreshed", lambda: (3, total), shown=shown, console=console):
        pass
    return file.getvalue()


def test_a_person_sees_how_far_the_work_is() -> None:
    text = drawn(terminal=True)

    assert "holdings refreshed" in text
    assert "3/12" in text


def test_a_total_that_is_not_known_yet_is_a_question_mark() -> None:
    assert "3/?" in drawn(terminal=True, total=None)


def test_a_file_and_json_see_nothing() -> None:
    assert drawn(terminal=False) == ""
    assert drawn(terminal=True, shown=False) == ""


def test_each_gives_all_items() -> None:
    assert list(progress.each([1, 2, 3], "x", shown=True)) == [1, 2, 3]
    assert list(progress.each([], "x", shown=True)) == []


def test_a_log_line_goes_to_the_stderr_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar replaces stderr; a line written to the old stderr would be overwritten."""
    handler = progress.Above()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    moment = io.StringIO()
    monkeypatch.setattr(sys, "stderr", moment)

    handler.handle(logging.makeLogRecord({"levelname": "WARNING", "msg": "paced by %s", "args": ("IB",)}))

    assert moment.getvalue() == "WARNING paced by IB\n"
