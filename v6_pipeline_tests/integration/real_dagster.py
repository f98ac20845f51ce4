"""A real Dagster as processes of their own, and the GraphQL that its UI speaks."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from v6_pipeline.cli import dagster_processes, home
from v6_pipeline.cli.supervise import Children, Command
from v6_pipeline.settings import Settings
from v6_pipeline.state.leases.streamer import StreamerLease

UP_SECONDS = 120


def wait_for(what: str, condition: Callable[[], Any], seconds: float) -> Any:
    """Wait for a condition and return its value; polls rarely, because a busy webserver slows everything else."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.7)
    return found


def is_over(process: psutil.Process) -> bool:
    """Return True if a process has ended, even if it is not reaped yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


_SELECTOR = f'repositoryLocationName: "{dagster_processes.LOCATION}", repositoryName: "__repository__"'


_UNDER_WAY = {"REQUESTED", "IN_PROGRESS", "CANCELING"}


class DagsterApi:
    """The webserver's GraphQL, with the mutations that the UI sends."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> Any:
        request = urllib.request.Request(
            f"{self.url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def is_ready(self) -> bool:
        status = dagster_processes.location_status(self.url)
        return status is not None and status.state is dagster_processes.LoadState.LOADED

    def reload_location(self) -> None:
        self._done(f'reloadRepositoryLocation(repositoryLocationName: "{dagster_processes.LOCATION}")')

    def stop_sensor(self, name: str) -> None:
        """Off, if it is not off already."""
        [sensor] = self.ask(
            f'{{ sensorOrError(sensorSelector: {{ {_SELECTOR}, sensorName: "{name}" }}) {{ ... on Sensor {{ id }} }} }}'
        ).values()
        self._done(f'stopSensor(id: "{sensor["id"]}")')

    def start_sensor(self, name: str) -> None:
        self._done(f'startSensor(sensorSelector: {{ {_SELECTOR}, sensorName: "{name}" }})')

    def tick_ids(self, name: str) -> list[str]:
        """Return the newest ticks that ended."""
        [sensor] = self.ask(
            f'{{ sensorOrError(sensorSelector: {{ {_SELECTOR}, sensorName: "{name}" }}) '
            "{ ... on Sensor { sensorState { ticks(limit: 20) { id status } } } } }"
        ).values()
        return [tick["id"] for tick in sensor["sensorState"]["ticks"] if tick["status"] in {"SKIPPED", "SUCCESS"}]

    def launch_backfill(self, assets: Iterable[str], days: Iterable[date]) -> str:
        """Launch a backfill as the dialog *Materialize* of the asset graph does; return its id."""
        selection = ", ".join(f'{{ path: ["{asset}"] }}' for asset in assets)
        names = json.dumps([day.isoformat() for day in days])
        [answer] = self.ask(
            f"mutation {{ launchPartitionBackfill(backfillParams: {{ assetSelection: [{selection}], "
            f"partitionNames: {names} }})"
            " { __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"
        ).values()
        assert "backfillId" in answer, answer
        return str(answer["backfillId"])

    def backfill(self, backfill_id: str) -> dict[str, Any]:
        """Status, runs, and per asset how many partitions were made and how many failed."""
        [answer] = self.ask(
            f'{{ partitionBackfillOrError(backfillId: "{backfill_id}") {{ ... on PartitionBackfill {{ status '
            "runs(limit: 20) { runId status } assetBackfillData { assetBackfillStatuses { ... on "
            "AssetPartitionsStatusCounts { assetKey { path } numPartitionsMaterialized numPartitionsFailed } } } } } }"
        ).values()
        counts = {
            item["assetKey"]["path"][0]: (item["numPartitionsMaterialized"], item["numPartitionsFailed"])
            for item in (answer["assetBackfillData"] or {"assetBackfillStatuses": []})["assetBackfillStatuses"]
        }
        return {"status": answer["status"], "runs": answer["runs"], "counts": counts}

    def finished_backfill(self, backfill_id: str, seconds: float) -> dict[str, Any]:
        wait_for("the backfill's end", lambda: self.backfill(backfill_id)["status"] not in _UNDER_WAY, seconds)
        return self.backfill(backfill_id)

    def runs(self, job: str) -> list[dict[str, str]]:
        """Return the runs of a job, the newest first."""
        [answer] = self.ask(
            f'{{ runsOrError(filter: {{ pipelineName: "{job}" }}) {{ ... on Runs {{ results {{ runId status }} }} }} }}'
        ).values()
        return list(answer["results"])

    def failure(self, run_id: str) -> str:
        """Return the message of the step that failed."""
        [answer] = self.ask(
            f'{{ logsForRun(runId: "{run_id}", limit: 2000) {{ ... on EventConnection {{ events {{ __typename '
            "... on ExecutionStepFailureEvent { failureMetadata { description } error { message } } } } } }"
        ).values()
        [found] = [event for event in answer["events"] if event["__typename"] == "ExecutionStepFailureEvent"]
        return str((found["failureMetadata"] or {}).get("description") or found["error"]["message"])

    def materializations(self, asset: str, run_id: str | None = None) -> dict[str, dict[str, Any]]:
        """Partition to the metadata of its newest event; of one run, in which each has one at most."""
        [[answer]] = self.ask(
            f'{{ assetNodes(assetKeys: [{{ path: ["{asset}"] }}]) {{ assetMaterializations(limit: 1000) {{ '
            "partition runId "
            "metadataEntries { label ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue } "
            "... on BoolMetadataEntry { boolValue } } } } }"
        ).values()
        found: dict[str, dict[str, Any]] = {}
        for event in answer["assetMaterializations"]:
            if run_id in {None, event["runId"]}:
                assert run_id is None or event["partition"] not in found, "told of twice"
                found.setdefault(event["partition"], _values(event["metadataEntries"]))
        return found

    def labels(self, asset: str) -> dict[int, set[str]]:
        """Return labels of the metadata of an asset's newest materializations by timestamp in ms, the newest first."""
        [[answer]] = self.ask(
            f'{{ assetNodes(assetKeys: [{{ path: ["{asset}"] }}]) {{ assetMaterializations(limit: 30) {{ '
            "timestamp metadataEntries { label } } } }"
        ).values()
        return {
            int(event["timestamp"]): {entry["label"] for entry in event["metadataEntries"]}
            for event in answer["assetMaterializations"]
        }

    def worker(self, run_id: str) -> int:
        """The process of a run that has begun its step."""
        [answer] = self.ask(
            f'{{ logsForRun(runId: "{run_id}", limit: 2000) {{ ... on EventConnection {{ events {{ __typename '
            "... on LogsCapturedEvent { pid } } } } }"
        ).values()
        return next(int(event["pid"]) for event in answer["events"] if event["__typename"] == "LogsCapturedEvent")

    def terminate(self, run_id: str) -> None:
        self._done(f'terminateRun(runId: "{run_id}")')

    def _done(self, mutation: str) -> None:
        [answer] = self.ask(f"mutation {{ {mutation} {{ __typename ... on PythonError {{ message }} }} }}").values()
        assert "Error" not in answer["__typename"], answer


def _values(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    names = ("intValue", "floatValue", "boolValue")
    return {entry["label"]: next((entry[name] for name in names if name in entry), None) for entry in entries}


def _with_quick_backfills(daemon: Command) -> Command:
    """Dagster's own daemon, which looks at backfills every 3 s: no setting of it does away with its 30 s."""
    python, _, _, *arguments = daemon.arguments
    code = (
        "import runpy, dagster._daemon.controller as controller; controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 3; "
        "runpy.run_module('dagster._daemon', run_name='__main__')"
    )
    return Command(daemon.name, (python, "-c", code, *arguments))


def _with_quick_monitoring(instance: Path) -> None:
    """The shipped instance, which notices a dead run within seconds instead of half a minute."""
    shipped = instance.read_text(encoding="utf-8")
    quick = shipped.replace("poll_interval_seconds: 30", "poll_interval_seconds: 5")
    assert quick != shipped
    instance.write_text(quick, encoding="utf-8")


@contextmanager
def running_dagster(settings: Settings) -> Iterator[DagsterApi]:
    """Code server, webserver and daemon over a home, without anyone who would restart or end them."""
    home.prepare_log_folder(settings)
    home.prepare_dagster_home(settings)
    _with_quick_monitoring(settings.dagster_home / "dagster.yaml")
    children = Children(
        log_path=settings.log_dir / "dagster.log",
        record_path=settings.home / "children.json",
        environ=dagster_processes.environment(settings, os.environ),
    )
    grpc_port, web_port = dagster_processes.free_port(), dagster_processes.free_port()
    workspace = dagster_processes.write_workspace(settings, grpc_port)
    try:
        children.start(dagster_processes.code_server(settings, grpc_port))
        wait_for("code server", lambda: dagster_processes.accepts_connections(grpc_port), UP_SECONDS)
        children.start(dagster_processes.webserver(workspace, web_port))
        children.start(_with_quick_backfills(dagster_processes.daemon(workspace)))
        api = DagsterApi(f"http://127.0.0.1:{web_port}")
        wait_for("webserver", api.is_ready, UP_SECONDS)
        yield api
    finally:
        # First, as `v6 up` does: it is in no group of theirs.
        with home.open_state(settings) as database:
            StreamerLease(database).request_stop()
        children.stop()
