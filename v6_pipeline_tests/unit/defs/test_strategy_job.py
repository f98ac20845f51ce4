"""``set_strategy_contracts``: what the Launchpad's config does to the registry, and what it refuses."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from v6_pipeline.definitions import build_defs
from v6_pipeline.state.registry.registry import StrategyRegistry
from v6_pipeline_tests.unit.defs.conftest import ClockedPipeline


class Launchpad:
    """Launches the job as the UI does: with the config of its op."""

    def __init__(self, pipeline: ClockedPipeline, instance: dg.DagsterInstance) -> None:
        self.pipeline, self.instance = pipeline, instance
        self._job = build_defs(pipeline=pipeline).resolve_job_def("set_strategy_contracts")

    def run(self, **config: Any) -> dg.ExecuteInProcessResult:
        return self._job.execute_in_process(
            run_config={"ops": {"change_registry": {"config": {"unchecked": True, **config}}}},
            instance=self.instance,
            raise_on_error=False,
        )

    def refused(self, **config: Any) -> str:
        before = self.uses()
        result = self.run(**config)
        assert not result.success
        assert self.uses() == before, "nothing was changed"
        [event] = [event for event in result.all_events if event.is_step_failure]
        data = event.step_failure_data.user_failure_data
        assert data is not None, event.step_failure_data.error
        return str(data.description)

    def first_line(self) -> str:
        """Return the first line that the newest run logged, apart from Dagster's events."""
        [run] = self.instance.get_runs(limit=1)
        return next(entry.user_message for entry in self.instance.all_logs(run.run_id) if not entry.is_dagster_event)

    def observed(self) -> dict[str, Any]:
        """Return the newest observation of the registry."""
        records = self.instance.fetch_observations(dg.AssetKey("strategy_registry"), limit=1).records
        [observation] = [record.asset_observation for record in records]
        assert observation is not None
        return {name: value.value for name, value in observation.metadata.items()}

    def uses(self) -> dict[str, set[object]]:
        """Strategy to conids, with their account if it matters, and selectors."""
        registry = StrategyRegistry(self.pipeline.database(), self.pipeline.now)
        found: dict[str, set[object]] = {}
        for entry in registry.entries():
            what: object = entry.conid if entry.selector is None else entry.selector.text
            found.setdefault(entry.strategy, set()).add(what if entry.account is None else (what, entry.account))
        return found


@pytest.fixture
def launchpad(pipeline: ClockedPipeline, instance: dg.DagsterInstance) -> Launchpad:
    return Launchpad(pipeline, instance)


def test_a_strategy_uses_what_is_named_and_nothing_else(launchpad: Launchpad) -> None:
    assert launchpad.run(strategy="condors", conids=[1, 2], selectors=["symbol=SPX"]).success
    assert launchpad.uses() == {"condors": {1, 2, "symbol=SPX"}}
    assert launchpad.run(strategy="wheel", conids=[9]).success

    assert launchpad.run(strategy="condors", mode="REPLACE", conids=[2, 3]).success

    assert launchpad.uses() == {"condors": {2, 3}, "wheel": {9}}
    assert launchpad.observed() == {
        "strategy": "condors",
        "added": "3, priority 100",
        "removed": "1, priority 100, symbol=SPX, priority 100",
        "entries": 2,
        "strategies": 2,
        "contracts": 3,
        "selectors": 0,
    }


def test_what_stays_is_not_touched(launchpad: Launchpad) -> None:
    launchpad.run(strategy="condors", conids=[1, 2])
    registry = StrategyRegistry(launchpad.pipeline.database())
    since = {entry.conid: entry.valid_from for entry in registry.entries()}

    launchpad.run(strategy="condors", mode="REPLACE", conids=[2, 3])

    assert {entry.conid: entry.valid_from for entry in registry.entries()}[2] == since[2]


def test_adding_and_removing_leave_the_rest(launchpad: Launchpad) -> None:
    launchpad.run(strategy="condors", conids=[1])
    assert launchpad.run(strategy="condors", mode="ADD", conids=[2], selectors=["right=P"]).success
    assert launchpad.uses() == {"condors": {1, 2, "right=P"}}
    assert launchpad.run(strategy="condors", mode="REMOVE", conids=[1], selectors=["right=P"]).success
    assert launchpad.uses() == {"condors": {2}}


def test_a_contract_named_for_another_account_moves_there(launchpad: Launchpad) -> None:
    launchpad.run(strategy="condors", conids=[1], account="SIM0000001")
    launchpad.run(strategy="condors", mode="REPLACE", conids=[1], account="SIM0000002", quantity=-3.0, priority=5)

    assert launchpad.uses() == {"condors": {(1, "SIM0000002")}}
    assert launchpad.observed()["added"] == "1 in SIM0000002, -3 of each, priority 5"


def test_what_the_launchpad_is_filled_with_ends_nothing(launchpad: Launchpad) -> None:
    """A name typed into the config that Dagster fills in, and launched, ended that strategy."""
    launchpad.run(strategy="condors", conids=[1])

    filled = {"conids": [], "selectors": [], "priority": 100}

    assert launchpad.refused(strategy="condors", **filled) == (
        "nothing to add: name conids or selectors (END ends the whole strategy)"
    )
    assert "nothing to replace" in launchpad.refused(strategy="condors", mode="REPLACE", **filled)


def test_a_strategy_ends_by_its_own_word_and_the_log_says_first_what_ends(launchpad: Launchpad) -> None:
    launchpad.run(strategy="condors", conids=[1], selectors=["symbol=SPX"])

    assert launchpad.run(strategy="condors", mode="END").success

    assert launchpad.uses() == {}
    assert launchpad.observed()["added"] == "nothing"
    assert launchpad.observed()["removed"] == "1, priority 100, symbol=SPX, priority 100"
    assert launchpad.first_line() == (
        "END ends 2 of 2 entries of strategy condors, and with them the strategy: 1, priority 100; "
        "symbol=SPX, priority 100"
    )


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"conids": [3]}, "ADD ends nothing of strategy condors"),
        ({"mode": "REPLACE", "conids": [2, 3]}, "REPLACE ends 1 of 2 entries of strategy condors: 1, priority 100"),
        ({"mode": "REMOVE", "conids": [2]}, "REMOVE ends 1 of 2 entries of strategy condors: 2, priority 100"),
    ],
)
def test_the_log_says_first_what_a_change_ends(launchpad: Launchpad, config: dict[str, Any], line: str) -> None:
    launchpad.run(strategy="condors", conids=[1, 2])

    launchpad.run(strategy="condors", **config)

    assert launchpad.first_line() == line


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"strategy": ""}, "is not a strategy name"),
        ({"strategy": "condors", "conids": [-1]}, "-1 is not a conid"),
        ({"strategy": "condors", "conids": [4], "priority": -1}, "priority -1 is not between"),
        ({"strategy": "condors", "conids": [4], "selectors": ["colour=red"]}, "colour"),
        ({"strategy": "condors", "selectors": ["symbol=SPX"], "quantity": 2.0}, "quantity goes with conids"),
        ({"strategy": "condors", "mode": "ADD"}, "nothing to add: name conids or selectors"),
        ({"strategy": "condors", "mode": "REMOVE"}, "nothing to remove: name conids or selectors"),
        ({"strategy": "condors", "mode": "END", "conids": [1]}, "END ends the whole strategy: leave conids"),
        ({"strategy": "nobody", "mode": "END"}, "no strategy nobody: there are condors"),
        ({"strategy": "condors", "mode": "REMOVE", "conids": [7]}, "does not use 7"),
        ({"strategy": "condors", "mode": "REMOVE", "conids": [1], "selectors": ["right=P"]}, "has no selector right=P"),
        ({"strategy": "nobody", "mode": "REMOVE", "conids": [1]}, "no strategy nobody"),
    ],
)
def test_what_cannot_be_is_one_line_and_changes_nothing(
    launchpad: Launchpad, config: dict[str, Any], said: str
) -> None:
    launchpad.run(strategy="condors", conids=[1])
    text = launchpad.refused(**config)
    assert said in text
    assert "\n" not in text


def test_conids_that_were_never_seen_are_asked_of_the_gateway(
    launchpad: Launchpad, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V6_IB_PORT", "1")
    assert "no gateway at" in launchpad.refused(strategy="condors", conids=[1], unchecked=False)
