"""Bars: there for a person, gone for a file, and asked while the work goes on."""

from __future__ import annotations

import io

from rich.console import Console

from v6_pipeline.cli import progress


def drawn(*, terminal: bool, shown: bool = True) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, _environ={"TERM": "xterm"})
    with progress.bar("holdings refreshed", lambda: (3, 12), shown=shown, console=console):
        pass
    return file.getvalue()


def test_a_person_sees_how_far_the_work_is() -> None:
    text = drawn(terminal=True)

    assert "holdings refreshed" in text
    assert "3/12" in text


def test_a_file_and_json_see_nothing() -> None:
    assert drawn(terminal=False) == ""
    assert drawn(terminal=True, shown=False) == ""


def test_each_gives_all_items() -> None:
    assert list(progress.each([1, 2, 3], "x", shown=True)) == [1, 2, 3]
    assert list(progress.each([], "x", shown=True)) == []
