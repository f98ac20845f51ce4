"""Flex XML to statements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from v6_pipeline.errors import FlexError
from v6_pipeline.flex_model import FlexStatement


def read_statements(file: BinaryIO, name: str) -> Iterator[FlexStatement]:
    """The statements of a file, one after another.

    Raises:
        FlexError: always, until the reader is here.
    """
    del file
    raise FlexError(f"{name}: there is no reader of Flex statements yet")
