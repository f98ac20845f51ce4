"""Text of others: shown as it is, and executed by nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.foreign_text import escaped_markdown, of_markdown, visible, visible_values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("BRK B", "BRK B"),
        ("Société Générale 中 €", "Société Générale 中 €"),
        ("\x1b[31mAAPL\x1b[0m", r"\x1b[31mAAPL\x1b[0m"),
        ("\x9b2J", r"\x9b2J"),
        ("a\x07\x08\x7fb", r"a\x07\x08\x7fb"),
        ("\x1b]8;;http://x\x07link", r"\x1b]8;;http://x\x07link"),
        ("DU1\u202e987", r"DU1\u202e987"),
        ("AA\u200bPL", r"AA\u200bPL"),
        ("one\r\ntwo\tthree\u2028four\xa0five", "one  two three four five"),
        ("\udc80", r"\udc80"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_a_terminal_does_not_show_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_visible_text_is_printable_and_stays_as_it_is(text: str) -> None:
    once = visible(text)

    assert once.isprintable()
    assert visible(once) == once


def test_attributes_without_any_are_returned_as_they_are() -> None:
    good = {"symbol": "AAPL"}

    assert visible_values(good) is good
    assert visible_values({"symbol": "A\x1b", "conid": "1"}) == {"symbol": r"A\x1b", "conid": "1"}


@given(st.text())
def test_escaped_markdown_is_read_back(text: str) -> None:
    assert of_markdown(escaped_markdown(text)) == text


@pytest.mark.parametrize("text", ["![x](http://a/b.png)", "[x](http://a)", "<img src=x>", "`a`", "**b**", "~~c~~", "|"])
def test_nothing_of_a_link_a_picture_html_code_or_emphasis_is_left(text: str) -> None:
    assert not re.search(r"(?<!\\)[`*\[\]<>~|]", escaped_markdown(text))


def test_the_texts_of_checks_stay_readable() -> None:
    plain = "SIM1/265598 AAPL 10 in the lake, 0 held (queued_positions); materialize it again"
    assert escaped_markdown(plain) == plain
