"""Text that others write: the broker's symbols, account names and messages, and the attributes of Flex files.

It is made visible where it comes in (``ib.client``, ``flex.reader``, ``flex.replies``), so that no terminal, log, tick
or file downstream executes or hides any of it. Where Dagster renders Markdown, it is escaped as well.
"""

from __future__ import annotations

import re

_ACTIVE = re.compile(r"[\\`*\[\]<>~|]")
"""What begins links, pictures, HTML, code, tables and emphasis in Markdown; an underscore within a word begins none."""
_ESCAPED = re.compile(r"\\([\\`*\[\]<>~|])")


def visible(text: str) -> str:
    r"""Return the text with each character that a terminal does not show as its escape, ``\x1b`` or ``\u202e``.

    These are control characters, those that change the direction of writing, and those of no width. Line breaks, tabs
    and wide blanks become a space each.
    """
    if text.isprintable():
        return text
    return "".join(part if part.isprintable() else " " if part.isspace() else _escape(part) for part in text)


def visible_values(attributes: dict[str, str]) -> dict[str, str]:
    """Return attributes with visible values; the same object if all of them are, as those of nearly all rows."""
    if "".join(attributes.values()).isprintable():
        return attributes
    return {name: visible(value) for name, value in attributes.items()}


def escaped_markdown(text: str) -> str:
    """Return Markdown that shows the text as it is."""
    return _ACTIVE.sub(r"\\\g<0>", text)


def of_markdown(text: str) -> str:
    """Return the text of ``escaped_markdown``."""
    return _ESCAPED.sub(r"\1", text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
