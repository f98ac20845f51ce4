"""The strategies of a demo that want more lines than there are."""

from __future__ import annotations

from datetime import date

import pytest

from v6_pipeline.cli import main
from v6_pipeline.cli.demo_strategies import Held, by_kind
from v6_pipeline.errors import UsageError
from v6_pipeline.paper import GatewayConfig
from v6_pipeline.paper.gateway import PaperGateway
from v6_pipeline.state.registry.selector import Selector

LINES_FOR_STREAMS = 80


def held(positions: int, as_of: str) -> list[Held]:
    universe = PaperGateway(GatewayConfig(positions=positions, seed=1, as_of=date.fromisoformat(as_of))).universe
    return [(holding.account, universe.contracts[holding.conid]) for holding in universe.holdings]


@pytest.mark.parametrize("as_of", ["2026-11-22", "2027-01-05", "2028-02-29"])
def test_sixty_strategies_want_more_lines_than_there_are(as_of: str) -> None:
    options = held(600, as_of)

    strategies = by_kind(options, 60)

    assert len(strategies) == 60
    wanted: dict[int, int] = {}
    for name, (priority, (text,)) in strategies.items():
        wants = dict(part.split("=") for part in Selector.parse(text).text.split(","))
        found = [
            one.conid
            for account, one in options
            if (account, one.symbol, one.right, one.expiry)
            == (wants["account"], wants["symbol"], wants["right"], wants["expiry"].replace("-", ""))
        ]
        assert found, name
        wanted |= dict.fromkeys(found, priority)
    assert len(wanted) > 2 * LINES_FOR_STREAMS
    # The first priority streams as a whole, and some wait as a whole.
    assert sum(priority == 10 for priority in wanted.values()) < LINES_FOR_STREAMS
    assert set(wanted.values()) == {10, 20, 30, 40, 50, 60}


@pytest.mark.parametrize(("positions", "count"), [(60, 500), (0, 1), (600, 100_000)])
def test_more_strategies_than_kinds_are_refused_in_one_line(positions: int, count: int) -> None:
    with pytest.raises(UsageError, match=rf"^--strategies {count} is not between 0 and \d+, .*: more --positions"):
        by_kind(held(positions, "2026-11-22"), count)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--positions", "15001"], "--positions 15001 is not between 0 and 15000"),
        (["--positions", "-1"], "--positions -1 is not between 0 and 15000"),
        (["--strategies", "-1"], "--strategies -1 is less than 0"),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_written(
    home: object, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert main(["demo", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
