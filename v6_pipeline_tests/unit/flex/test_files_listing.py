"""The Flex files to read: only statements, only complete ones, each change once."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v6_pipeline.errors import FlexError
from v6_pipeline.flex.files import ChangedFiles, FileState, changed, scan

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def written(seconds_ago: float, size: int = 10) -> FileState:
    return FileState(size, int((NOW - timedelta(seconds=seconds_ago)).timestamp() * 1e9))


def test_only_xml_files_of_the_folder_itself_count(tmp_path: Path) -> None:
    for name in ("a.xml", "B.XML", "a.csv", ".hidden.xml", "c.xml.tmp", "d.part.xml", "e.xml.part", "xml"):
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "folder.xml").mkdir()
    (tmp_path / "folder.xml" / "inner.xml").touch()

    found = scan([tmp_path])

    assert sorted(Path(name).name for name in found) == ["B.XML", "a.xml"]
    assert {state.size for state in found.values()} == {5}


def test_the_state_is_that_of_the_file_behind_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    target = tmp_path / "elsewhere.bin"
    target.write_bytes(b"1234567")
    os.utime(target, ns=(1, 1_700_000_000_000_000_123))
    (folder / "link.xml").symlink_to(target)
    (folder / "dangling.xml").symlink_to(tmp_path / "nothing")

    assert scan([folder]) == {str(folder / "link.xml"): FileState(7, 1_700_000_000_000_000_123)}


def test_files_of_one_name_in_two_folders_are_two_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.xml").touch()

    assert len(scan([tmp_path / "one", tmp_path / "two"])) == 2


def test_a_missing_folder_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(FlexError, match=r"missing .*create it, or set V6_FLEX_DIR") as failure:
        scan([tmp_path / "missing"])
    assert "\n" not in str(failure.value)


def test_a_file_in_place_of_the_folder_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FlexError, match="V6_FLEX_DIR"):
        scan([tmp_path / "file"])


def test_a_new_file_is_read_once_it_has_settled() -> None:
    found = {"a": written(4.9)}
    assert changed({}, found, NOW) == ChangedFiles(waiting=("a",))
    assert changed({}, found, NOW + timedelta(seconds=0.2)) == ChangedFiles(new=("a",))


def test_a_file_that_was_read_is_not_read_again() -> None:
    assert changed({"a": written(60)}, {"a": written(60)}, NOW) == ChangedFiles()


@pytest.mark.parametrize("later", [written(30), written(60, size=11)], ids=["time", "size"])
def test_a_file_that_changed_is_read_again(later: FileState) -> None:
    assert changed({"a": written(60)}, {"a": later}, NOW).new == ("a",)


def test_a_file_that_is_gone_is_reported() -> None:
    assert changed({"b": written(60), "a": written(60)}, {}, NOW).gone == ("a", "b")


def test_a_file_from_a_clock_that_is_ahead_does_not_wait_for_it() -> None:
    assert changed({}, {"a": written(-3600)}, NOW).new == ("a",)


def test_what_waits_stays_as_it_was_known() -> None:
    known = {"grows": written(60), "gone": written(60), "same": written(60)}
    found = {"grows": written(1), "same": written(60), "new": written(9), "half": written(0)}

    after = changed(known, found, NOW).known_after(known, found)

    assert after == {"grows": written(60), "same": written(60), "new": written(9)}


STATES = st.dictionaries(st.sampled_from("abcd"), st.builds(written, st.integers(0, 9), st.integers(1, 3)))


@given(known=STATES, found=STATES)
def test_every_change_is_read_exactly_once_and_in_the_end(
    known: dict[str, FileState], found: dict[str, FileState]
) -> None:
    first = changed(known, found, NOW)
    after = first.known_after(known, found)
    second = changed(after, found, NOW + timedelta(seconds=10))

    assert set(first.new) | set(second.new) == {name for name in found if found[name] != known.get(name)}
    assert not set(first.new) & set(second.new)
    assert second.known_after(after, found) == found
