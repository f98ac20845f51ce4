"""Secrets of the settings, while the whole system runs and fails with them: in no file, no argument, no message."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from v6_pipeline.cli.dagster_processes import free_port
from v6_pipeline.paper import GatewayConfig, GatewayThread
from v6_pipeline_tests.history_days import CALENDAR
from v6_pipeline_tests.integration.real_dagster import DagsterApi, wait_for
from v6_pipeline_tests.integration.v6_program import SECONDS, V6, environment, read_line
from v6_pipeline_tests.unit.state.databases import postgres_server, postgres_url  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.slow, pytest.mark.minutes, pytest.mark.timeout(420)]
SECRETS = {
    name: f"planted-{name}-0x5ec7e7"
    for name in ("flex-token", "database-password", "webhook", "s3-key", "s3-secret", "lake-password")
}
RUN_SECONDS = 150
CHUNK = 1 << 20


@dataclass(frozen=True)
class Ended:
    """A system that ran with planted secrets, and what it left."""

    home: Path
    arguments: list[str]
    messages: list[str]


@pytest.fixture(scope="module")
def planted(postgres_url: str) -> dict[str, str]:  # noqa: F811
    """Secrets of every kind, all of them wrong: each is used, and refused or unreachable."""
    user, password = "postgres:", SECRETS["database-password"]
    return {
        "V6_STATE_URL": postgres_url.replace(user, f"{user}{password}"),
        "V6_FLEX_TOKEN": SECRETS["flex-token"],
        "V6_FLEX_QUERY_ID": "1000001",
        "V6_ALERT_WEBHOOK": f"http://127.0.0.1:1/services/{SECRETS['webhook']}",
        "V6_LAKE_OPTIONS": json.dumps(
            {"AWS_ACCESS_KEY_ID": SECRETS["s3-key"], "AWS_SECRET_ACCESS_KEY": SECRETS["s3-secret"]}
        ),
    }


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, planted: dict[str, str]) -> Ended:
    folder, port = tmp_path_factory.mktemp("secrets"), free_port()
    with GatewayThread(GatewayConfig(positions=20, flex_port=0)) as gateway:
        settings = {
            **planted,
            "V6_IB_PORT": str(gateway.port),
            "V6_FLEX_URL": gateway.gateway.flex.url,
            "V6_MARKET_HOURS": "always",
            "V6_REFRESH_SECONDS": "60",
        }
        v6 = V6(folder / "home", environment(folder / "home") | settings)
        umask = os.umask(0o022)  # as most systems start a process
        try:
            with v6.running("up", "--port", port, "--json") as process:
                api = DagsterApi(json.loads(read_line(process))["pages"]["ui"])
                arguments = [text for one in family(process.pid) for text in one.cmdline()]
                today = CALENDAR.trading_day(datetime.now(UTC))
                launch(api, "refresh_queued_positions", today)
                launch(api, "import_flex_statements", CALENDAR.sessions_between(CALENDAR.first, today)[-5])
                wait_for("the runs", lambda: len(over(api)) >= 2, RUN_SECONDS)
                wait_for("the refused webhook", lambda: "webhook at 127.0.0.1" in logs(v6.home), RUN_SECONDS)
                arguments += [text for one in family(process.pid) for text in one.cmdline()]
                config = api.ask("{ runsOrError { ... on Runs { results { runConfigYaml tags { key value } } } } }")
                [imported] = api.runs("import_flex_statements")
                refused = api.failure(imported["runId"])
                assert "token" in refused, refused
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=SECONDS)
        finally:
            os.umask(umask)
            for left in family_of_record(v6.home / "up.json"):
                left.kill()
    return Ended(folder / "home", arguments, [out, err, refused, json.dumps(config)])


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def family_of_record(record: Path) -> list[psutil.Process]:
    """Return the processes of a start that was killed, because the test failed; none after a clean end."""
    if not record.exists():
        return []
    children = json.loads(record.read_text(encoding="utf-8"))["children"]
    return [one for child in children if psutil.pid_exists(child["pid"]) for one in family(child["pid"])]


def launch(api: DagsterApi, job: str, day: date) -> None:
    selector = f'{{ repositoryLocationName: "v6_pipeline", repositoryName: "__repository__", jobName: "{job}" }}'
    tags = f'[{{ key: "dagster/partition", value: "{day}" }}]'
    [answer] = api.ask(
        f"mutation {{ launchRun(executionParams: {{ selector: {selector}, executionMetadata: {{ tags: {tags} }} }}) "
        "{ __typename ... on PythonError { message } ... on RunConfigValidationInvalid { errors { message } } } }"
    ).values()
    assert answer["__typename"] == "LaunchRunSuccess", answer


def over(api: DagsterApi) -> list[dict[str, Any]]:
    runs = [*api.runs("refresh_queued_positions"), *api.runs("import_flex_statements")]
    return [run for run in runs if run["status"] in {"SUCCESS", "FAILURE"}]


def logs(home: Path) -> str:
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in (home / "logs").glob("*.*"))


def holds(path: Path, secret: bytes) -> bool:
    content = path.read_bytes()
    return secret in content


@pytest.mark.parametrize("name", SECRETS)
def test_no_file_of_the_home_holds_the_secret(ended: Ended, name: str) -> None:
    """Logs, Dagster's databases of runs, events and schedules, its captured output, its configuration, the lake."""
    files = [path for path in ended.home.rglob("*") if path.is_file()]
    assert {"dagster.log", "dagster.yaml", "runs.db"} <= {path.name for path in files}
    assert [path for path in files if holds(path, SECRETS[name].encode())] == []


@pytest.mark.parametrize("name", SECRETS)
def test_no_argument_and_no_message_holds_the_secret(ended: Ended, name: str) -> None:
    assert any("v6_pipeline.definitions" in text for text in ended.arguments)
    assert not any(SECRETS[name] in text for text in (*ended.arguments, *ended.messages))


def test_everything_in_the_home_is_for_its_user_alone(ended: Ended) -> None:
    """Also what children, runs and the streamer wrote, though the umask was that of most systems."""
    found = [ended.home, *ended.home.rglob("*")]
    assert len(found) > 50
    assert [path for path in found if not path.is_symlink() and path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize(
    ("changed", "secret"),
    [
        (
            {"V6_STATE_URL": f"postgresql+psycopg://v6:{SECRETS['database-password']}@127.0.0.1:1/v6"},
            "database-password",
        ),
        ({"V6_STATE_URL": f"mysql://v6:{SECRETS['database-password']}@host/v6"}, "database-password"),
        ({"V6_ALERT_WEBHOOK": f"ftp://host/{SECRETS['webhook']}"}, "webhook"),
        ({"V6_LAKE_URI": f"nonsense://user:{SECRETS['lake-password']}@host/lake"}, "lake-password"),
        ({"V6_LAKE_URI": f"s3:/user:{SECRETS['lake-password']}@host/lake"}, "lake-password"),
        ({"V6_LAKE_OPTIONS": f'{{"AWS_SECRET_ACCESS_KEY": "{SECRETS["s3-secret"]}"'}, "s3-secret"),
        ({"V6_LAKE_OPTIONS": f'["{SECRETS["s3-secret"]}"]'}, "s3-secret"),
        ({"V6_FLEX_TOKEN": SECRETS["flex-token"], "V6_FLEX_URL": "http://evil.example"}, "flex-token"),
        ({"V6_FLEX_TOKEN": SECRETS["flex-token"]}, "flex-token"),
    ],
)
def test_no_error_of_a_command_shows_the_secret(tmp_path: Path, changed: dict[str, str], secret: str) -> None:
    v6 = V6(tmp_path / "home", environment(tmp_path / "home") | changed)
    for command in (["init"], ["slots"], ["lake", "history", "streamed_positions"]):
        done = v6(*command)
        assert SECRETS[secret] not in done.stdout + done.stderr
