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

    assert launchpad.run(strategy="condors", conids=[2, 3]).success

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

    launchpad.run(strategy="condors", conids=[2, 3])

    assert {entry.conid: entry.valid_from for entry in registry.entries()}[2] == since[2]


def test_adding_and_removing_leave_the_rest(launchpad: Launchpad) -> None:
    launchpad.run(strategy="condors", conids=[1])
    assert launchpad.run(strategy="condors", mode="ADD", conids=[2], selectors=["right=P"]).success
    assert launchpad.uses() == {"condors": {1, 2, "right=P"}}
    assert launchpad.run(strategy="condors", mode="REMOVE", conids=[1], selectors=["right=P"]).success
    assert launchpad.uses() == {"condors": {2}}


def test_a_contract_named_for_another_account_moves_there(launchpad: Launchpad) -> None:
    launchpad.run(strategy="condors", conids=[1], account="SIM0000001")
    launchpad.run(strategy="condors", conids=[1], account="SIM0000002", quantity=-3.0, priority=5)

    assert launchpad.uses() == {"condors": {(1, "SIM0000002")}}
    assert launchpad.observed()["added"] == "1 in SIM0000002, -3 of each, priority 5"


def test_replaced_by_nothing_a_strategy_ends(launchpad: Launchpad) -> None:
    launchpad.run(strategy="condors", conids=[1])
    assert launchpad.run(strategy="condors").success
    assert launchpad.uses() == {}
    assert launchpad.observed()["added"] == "nothing"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"strategy": ""}, "is not a strategy name"),
        ({"strategy": "condors", "conids": [-1]}, "-1 is not a conid"),
        ({"strategy": "condors", "conids": [4], "priority": -1}, "priority -1 is not between"),
        ({"strategy": "condors", "conids": [4], "selectors": ["colour=red"]}, "colour"),
        ({"strategy": "condors", "selectors": ["symbol=SPX"], "quantity": 2.0}, "quantity goes with conids"),
        ({"strategy": "condors", "mode": "ADD"}, "nothing to add: name conids or selectors"),
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
