"""The fixtures of ``databases``."""

from v6_pipeline_tests.unit.state.databases import *  # noqa: F403
