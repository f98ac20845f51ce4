"""The order of the tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first: several workers then end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)
