"""The main job over the socket: streamer and refresh as processes of their own, judged by the gateway's statistics.

Guards against what the product exists to prevent: a line too many, a contract subscribed twice, an order, a wrong last
value, a position in neither feed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from v6_pipeline.lake.lake import Lake
from v6_pipeline.lake.tables import QUEUED_POSITIONS, STREAMED_POSITIONS
from v6_pipeline.paper.config import GatewayConfig
from v6_pipeline.paper.control import ControlClient
from v6_pipeline.paper.gateway import GatewayThread

V6 = Path(sys.executable).with_name("v6")
ACTIVE = 12
POSITIONS = 60
DEADLINE_SECONDS = 45
VALUES = {
    "bid": "bid",
    "ask": "ask",
    "last": "last",
    "close": "close",
    "mark": "market_price",
    "implied_vol": "implied_vol",
    "delta": "delta",
    "gamma": "gamma",
    "vega": "vega",
    "theta": "theta",
    "underlying_price": "underlying_price",
}
"""The gateway's name for a value -> our column. Currency pairs have no mark: they are checked without."""


@pytest.fixture
def gateway() -> Iterator[GatewayThread]:
    with GatewayThread(GatewayConfig(positions=POSITIONS, tick_seconds=0.2)) as running:
        yield running


@pytest.fixture
def control(gateway: GatewayThread) -> Iterator[ControlClient]:
    with ControlClient("127.0.0.1", gateway.control_port) as client:
        yield client


@pytest.fixture
def environment(gateway: GatewayThread, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("V6_")}
    return kept | {"V6_HOME": str(tmp_path), "V6_IB_PORT": str(gateway.port), "V6_FLUSH_SECONDS": "0.5"}


def v6(environment: dict[str, str], *words: str) -> Any:
    """Run a command that must succeed, and return its JSON."""
    done = subprocess.run(
        [V6, *words, "--json"], env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        time.sleep(0.1)


def ask(control: ControlClient, what: str) -> Any:
    return control.request(what)[what]


def statistics(control: ControlClient) -> dict[str, Any]:
    return dict(ask(control, "statistics"))


def last_rows(home: Path) -> dict[int, dict[str, Any]]:
    """The newest streamed row per conid; all accounts of a contract share its quote."""
    handle = Lake(str(home / "lake")).table(STREAMED_POSITIONS).load()
    if handle is None:
        return {}
    newest = pl.scan_delta(handle).sort("timestamp").group_by("conid").last().collect()
    return {row["conid"]: row for row in newest.to_dicts()}


def differences(
    rows: dict[int, dict[str, Any]], delivered: dict[str, dict[str, float]], conids: list[int]
) -> list[str]:
    found = []
    for conid in conids:
        row, sent = rows.get(conid), delivered.get(str(conid), {})
        for name, column in VALUES.items():
            if name == "mark" and row is not None and row["sec_type"] == "CASH":
                continue
            if name in sent and (row is None or row[column] != pytest.approx(sent[name], abs=1e-9)):
                found.append(f"{conid} {column}: {None if row is None else row[column]} for {sent[name]}")
    return found


def test_twelve_stream_and_the_others_queue_within_the_gateways_rules(
    control: ControlClient, environment: dict[str, str], tmp_path: Path
) -> None:
    held = ask(control, "positions")
    kinds = {item["conid"]: item["sec_type"] for item in ask(control, "contracts")}
    conids = sorted({item["conid"] for item in held})
    options = [conid for conid in conids if kinds[conid] == "OPT"]
    others = [conid for conid in conids if kinds[conid] != "OPT"]
    active = sorted([*options[:9], *others[:3]])
    queued = {(item["account"], item["conid"]) for item in held if item["conid"] not in active}
    v6(environment, "strategies", "add", "condors", *map(str, active))

    log = tmp_path / "stream.txt"
    with log.open("w") as output:
        streamer = subprocess.Popen([V6, "stream"], env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for("12 subscriptions", lambda: len(statistics(control)["subscriptions"]) == ACTIVE)
        wait_for("ticks", lambda: statistics(control)["ticks_sent"] > 500)
        control.request("quiet")
        delivered = statistics(control)["last_values"]
        wait_for(
            "the last values delivered are the last ones in the lake",
            lambda: not differences(last_rows(tmp_path), delivered, active),
        )
        assert statistics(control)["last_values"] == delivered

        items = v6(environment, "queue", "list")["items"]
        assert {(item["account"], item["conid"]): item["priority"] for item in items} == dict.fromkeys(queued, 2)

        control.request("resume")
        v6(environment, "refresh", "--all")
    finally:
        streamer.terminate()
        assert streamer.wait(timeout=30) == 0, log.read_text()

    rows = pl.scan_delta(Lake(str(tmp_path / "lake")).table(QUEUED_POSITIONS).open()).collect()
    assert sorted(rows.select("account", "conid").iter_rows()) == sorted(queued)
    assert rows.get_column("market_value").null_count() == 0
    assert rows.get_column("unrealized_pnl").null_count() == 0
    of_options = rows.filter(pl.col("sec_type") == "OPT")
    assert of_options.height > 30
    for greek in ("implied_vol", "delta", "gamma", "vega", "theta"):
        assert of_options.get_column(greek).null_count() == 0, greek

    seen = statistics(control)
    # Each active contract was subscribed once, by the streamer; each queued one once, by the refresh.
    assert set(seen["subscriptions_total"].values()) == {1}
    assert set(map(int, seen["subscriptions_total"])) == set(active) | {conid for _, conid in queued}
    assert seen["peak_lines"] <= 90
    assert seen["lines"] == 0
    assert not set(seen["errors"]) & {"100", "101", "200", "300", "321"}
    assert seen["order_messages"] == 0
    assert seen["unknown_messages"] == {}
