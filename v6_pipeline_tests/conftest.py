"""The order of the tests, and what the garbage collector needs not look at."""

from __future__ import annotations

import gc

import pytest

import v6_pipeline.own_process  # noqa: F401  tests are such a process, too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files that take minutes first: several workers then end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


def pytest_collection_finish() -> None:
    """Freeze imported objects: to scan them takes 0.6 s in each ``gc.collect`` of a test, and finds nothing."""
    gc.collect()
    gc.freeze()
