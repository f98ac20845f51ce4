"""Modes of the home: what is closed to other users, and what is not ours to close."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from v6_pipeline import privacy, quick_start
from v6_pipeline.cli import main
from v6_pipeline.doctor.findings import Verdict
from v6_pipeline.doctor.places import examine_places
from v6_pipeline.settings import Settings, load_settings
from v6_pipeline.state.engines import make_parent

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no modes")
NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
FILES = (
    *("v6.toml", "v6.toml.old", "state.db", "state.db-wal", "up.json", "logs/dagster.log", "dagster/storage/runs.db"),
    *("lake/queued_positions/_delta_log/0.json", "lake/queued_positions/date=2026-11-20/part.parquet"),
    *("flex/ACC-20261120.xml", "demo/v6.toml"),
)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Begin with the umask of most systems, and give the tests theirs back."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home as a version before wrote it: open to all."""
    for name in [name for name in os.environ if name.startswith("V6_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    for name in FILES:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("")
    (home / "state.db").unlink()
    (home / "state.db-wal").unlink()
    monkeypatch.setenv("V6_HOME", str(home))
    assert privacy.mode(home) == 0o755
    return home


def is_open(path: Path) -> bool:
    return bool(path.lstat().st_mode & 0o077) and not path.is_symlink()


def opened(home: Path) -> list[Path]:
    return [path for path in (home, *sorted(home.rglob("*"))) if is_open(path)]


def privacy_findings(settings: Settings) -> list[str]:
    found = [finding for finding in examine_places(settings, NOW) if finding.what == "privacy"]
    assert all(finding.verdict is Verdict.WARNING for finding in found)
    return [f"{finding.says}; {finding.remedy}" for finding in found]


def test_init_closes_everything_in_an_existing_home_and_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "run.sh").write_text("")
    (home / "run.sh").chmod(0o755)
    (home / "lake" / "tool").write_text("")
    (home / "lake" / "tool").chmod(0o777)

    assert main(["init"]) == 0

    assert opened(home) == [home / "run.sh"], "a user's own file keeps its mode"
    assert privacy.mode(home / "lake" / "tool") == 0o700, "the owner's rights stay"
    assert privacy.mode(home / "state.db") == 0o600
    assert "closed   home" in capsys.readouterr().out
    assert main(["init"]) == 0
    assert "closed" not in capsys.readouterr().out


def test_a_new_home_is_private_from_the_first_file_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.umask(0o077)  # as v6_pipeline.own_process leaves it
    monkeypatch.setenv("V6_HOME", str(tmp_path / "new" / "home"))
    assert main(["init"]) == 0
    assert opened(tmp_path / "new") == []


@pytest.mark.parametrize("command", [["slots"], ["queue", "stats"], ["strategies", "list"]])
def test_every_command_closes_the_home_that_it_opens(home: Path, command: list[str]) -> None:
    main(command)

    assert not any(map(is_open, (home, home / "v6.toml", home / "lake", home / "dagster")))


@pytest.mark.parametrize(
    "process", [("-m", "v6_pipeline.streamer", "--epoch", "1"), ("-c", "import v6_pipeline.definitions")]
)
def test_streamer_and_code_location_close_the_home_and_create_private_files(
    home: Path, process: tuple[str, ...]
) -> None:
    """The code location also under 'dagster dev', which no command of v6 starts."""
    environ = os.environ | {"V6_STATE_URL": "sqlite:////nowhere/state.db"}
    subprocess.run([sys.executable, *process], env=environ, capture_output=True, timeout=100, check=False)

    parts = (home, home / "v6.toml", home / "logs", home / "lake", *(home / "logs").glob("streamer.*"))
    assert not any(map(is_open, parts))


@pytest.mark.parametrize(
    ("module", "umask"),
    [
        ("v6_pipeline.definitions", "0o27"),
        ("v6_pipeline.privacy", "0o27"),
        ("v6_pipeline.streamer", "0o77"),
        ("v6_pipeline.defs.webserver", "0o77"),
    ],
)
def test_only_a_process_of_our_own_changes_its_umask(home: Path, module: str, umask: str) -> None:
    """A user's own assets in the code server wrote files that their group could not read."""
    os.umask(0o027)
    program = f"import os, {module}; print(oct(os.umask(0)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)

    assert found.stdout.split()[-1] == umask
    if module == "v6_pipeline.definitions":
        assert not is_open(home)


def test_a_home_that_its_state_database_creates_is_closed_whatever_the_umask(tmp_path: Path) -> None:
    make_parent(tmp_path / "new" / "state.db", "state")

    assert privacy.mode(tmp_path / "new") == 0o700


def test_the_doctor_reports_an_open_home_and_changes_nothing(home: Path) -> None:
    [found] = privacy_findings(load_settings(home))

    assert found == (
        f"{home} has mode 0755: other users of this machine can read the secrets of its settings, its positions and "
        "its logs; run 'v6 init', which closes it and changes nothing else"
    )
    assert home in opened(home)
    privacy.protect(load_settings(home))
    assert privacy_findings(load_settings(home)) == []


def test_a_home_that_is_a_symbolic_link_is_reported_and_not_changed(home: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(home)
    before = opened(home)

    assert privacy.protect(load_settings(link), deep=True) == 0

    assert opened(home) == before
    [found] = privacy_findings(load_settings(link))
    assert f"the home is a symbolic link to {home}, so its mode is not changed; " in found
    assert f"chmod -R go= {home}" in found


def test_what_a_link_inside_the_home_points_to_is_not_changed(home: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (disk / "table").mkdir(parents=True)
    (disk / "table" / "file").write_text("")
    (home / "flex" / "ACC-20261120.xml").unlink()
    (home / "flex").rmdir()
    (home / "flex").symlink_to(disk)
    (home / "logs" / "other").symlink_to(disk / "table")

    privacy.protect(load_settings(home), deep=True)

    assert opened(home) == []
    assert len(opened(disk)) == 3


def test_a_shared_lake_outside_is_reported_and_stays_readable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder)
        for path in (shared, shared / "lake", shared / "statements"):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        monkeypatch.setenv("V6_LAKE_URI", str(shared / "lake"))
        monkeypatch.setenv("V6_FLEX_DIR", str(shared / "statements"))
        settings = load_settings(home)

        privacy.protect(settings, deep=True)

        assert opened(home) == []
        assert privacy.mode(shared / "lake") == 0o755
        [found] = privacy_findings(settings)
        assert f"the lake {shared}/lake (mode 0755), the Flex statements of {shared}/statements (mode 0755)" in found
        (shared / "lake" / "file").write_text("")
        assert privacy.mode(shared / "lake" / "file") == 0o666 & ~quick_start.INHERITED_UMASK
        shared.chmod(0o700)
        assert privacy_findings(settings) == [], "no other user can enter the folder above"


def test_a_folder_that_is_for_other_things_too_is_not_closed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """V6_HOME set to the user's own home, or root's to /tmp."""
    monkeypatch.setenv("HOME", str(home))
    assert privacy.protect(load_settings(home)) == 0
    assert "is a folder for other things too" in privacy_findings(load_settings(home))[0]
    monkeypatch.setenv("HOME", "/nowhere")
    home.chmod(0o777 | stat.S_ISVTX)
    assert privacy.protect(load_settings(home)) == 0
    assert "is a folder for other things too" in privacy_findings(load_settings(home))[0]


@pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="only root changes owners")
def test_the_home_of_another_user_is_not_changed(home: Path) -> None:
    os.chown(home, 65534, 65534)
    assert privacy.protect(load_settings(home), deep=True) == 0
    assert "belongs to another user" in privacy_findings(load_settings(home))[0]


def test_a_file_system_without_modes_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT or a share of Windows: chmod succeeds, or is refused, and changes nothing."""
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    monkeypatch.setattr("os.fstat", lambda _: home.stat())
    privacy.protect(load_settings(home))
    assert "its file system keeps no modes; move the home" in privacy_findings(load_settings(home))[0]
