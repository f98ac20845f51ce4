"""Fixtures of the tests that fetch from a Flex service: a virtual time, and the service that uses it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from v6_pipeline.paper.flex_server import FlexServer
from v6_pipeline_tests.integration.flex.flex_rig import VirtualTime, server_of


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def server(time: VirtualTime) -> Iterator[FlexServer]:
    with server_of(time) as running:
        yield running
