"""A few short days in every test run, and a check that a seed determines a day. ``make simulate`` runs whole ones."""

from __future__ import annotations

import pytest

from v6_pipeline.ib.market_data import MarketData
from v6_pipeline_tests.simulation.day import simulate

AROUND_THE_OPEN = (5.4, 6.1)
AROUND_THE_RESET = (20.2, 21.9)


@pytest.mark.parametrize(("seed", "hours"), [("1", AROUND_THE_OPEN), ("2", AROUND_THE_RESET)])
def test_nothing_is_violated(seed: str, hours: tuple[float, float]) -> None:
    verdict = simulate(seed, hours=hours)

    assert verdict.violation is None, "\n".join([*verdict.diary[-30:], f"{verdict.at}: {verdict.violation}"])
    assert verdict.convergences > 0
    assert verdict.figures.faults.total() > 0


def test_a_seed_decides_everything_that_happens() -> None:
    hours = (5.45, 5.7)
    first, again, other = simulate("7", hours=hours), simulate("7", hours=hours), simulate("8", hours=hours)

    assert first.diary == again.diary
    assert first.hash == again.hash
    assert first.hash != other.hash


def test_a_line_too_many_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription whose cancel never goes out leaks its line."""
    cancel = MarketData.cancel

    def forget(self: MarketData, conid: int) -> None:
        if conid % 3:
            cancel(self, conid)
        else:
            self._forget(conid)

    monkeypatch.setattr(MarketData, "cancel", forget)
    verdict = simulate("1", hours=(5.4, 7.0))

    assert verdict.violation is not None
    assert "lines" in verdict.violation or "twice" in verdict.violation or "streamed" in verdict.violation
