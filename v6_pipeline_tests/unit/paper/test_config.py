"""Impossible settings are refused in one line, and there is no setting for another address."""

import dataclasses
from typing import Any

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper import GatewayConfig, simulated_accounts
from v6_pipeline.paper.config import LOOPBACK


@pytest.mark.parametrize(
    "settings",
    [
        {"accounts": ()},
        {"accounts": ("U1234567",)},
        {"accounts": ("DU123",)},
        {"accounts": ("SIM1", "SIM1")},
        {"accounts": ("SIM1,SIM2",)},
        {"port": -1},
        {"port": 65536},
        {"control_port": 70000},
        {"port": 5000, "control_port": 5000},
        {"lines": -1},
        {"message_rate": 0},
        {"tick_seconds": 0.01},
        {"portfolio_seconds": 0.0},
        {"snapshot_seconds": -1.0},
    ],
)
def test_an_impossible_setting_is_refused_in_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(GatewayError) as problem:
        GatewayConfig(**settings)
    assert str(problem.value).startswith("paper gateway: ")
    assert "\n" not in str(problem.value)


def test_there_is_no_way_to_configure_another_address() -> None:
    assert LOOPBACK == "127.0.0.1"
    assert not any("host" in field.name or "address" in field.name for field in dataclasses.fields(GatewayConfig))


def test_simulated_accounts_are_recognizable() -> None:
    assert simulated_accounts(2) == ("SIM0000001", "SIM0000002")
    assert GatewayConfig(accounts=simulated_accounts(12)).accounts[-1] == "SIM0000012"
