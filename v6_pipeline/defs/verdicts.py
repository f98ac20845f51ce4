"""A verdict as Dagster's checks tell it."""

from __future__ import annotations

from typing import Any

import dagster as dg

from v6_pipeline.checks.verdict import Verdict


def said(verdict: Verdict) -> dict[str, Any]:
    """What ``AssetCheckResult`` and ``AssetCheckEvaluation`` take alike."""
    return {
        "passed": verdict.passed,
        "severity": dg.AssetCheckSeverity.ERROR if verdict.serious else dg.AssetCheckSeverity.WARN,
        "description": verdict.reason,
        "metadata": dict(verdict.numbers),
    }
