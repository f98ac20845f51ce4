"""The fixtures of the state database."""

from v6_pipeline_tests.unit.state.databases import *  # noqa: F403
