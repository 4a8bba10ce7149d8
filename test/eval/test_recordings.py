"""Recordings of a fleet: globs, repeats, and names that no two have."""

from __future__ import annotations

from pathlib import Path

import pytest

from seg_node.core.types import DataError
from seg_node.eval.recordings import find_recordings, name_recordings


@pytest.fixture
def bags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of folders, and stand in it."""
    for name in ("b/one", "b/two", "c/one", "c/drive [1]"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "b" / "three.mcap").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*texts: str) -> list[str]:
    """Return the names of what these texts stand for."""
    return [recording.name for recording in name_recordings(find_recordings(texts))]


def test_globs_are_matched_in_order(bags: Path) -> None:
    assert find_recordings(["c/one", "b/*", "street:1"]) == (
        "c/one", "b/one", "b/three.mcap", "b/two", "street:1",
    )  # fmt: skip
    assert find_recordings(["bag:**/two/"]) == ("bag:b/two/",)
    assert find_recordings(["c/drive [1]"]) == ("c/drive [1]",), "it is there, so it is no glob"
    with pytest.raises(DataError, match="'d/\\*' matches nothing: name recordings, or a glob"):
        find_recordings(["b/*", "d/*"])
    assert find_recordings(["nowhere"]) == ("nowhere",), "that is told with its own fault"
    assert name_recordings(["c/one"])[0] == ("one", str(bags / "c/one"), bags / "c/one")


def test_what_is_named_twice_is_taken_once(bags: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert find_recordings(["b/t*", str(bags / "b/two"), "b/two"]) == ("b/three.mcap", "b/two")
    assert caplog.messages == [
        f"{bags / 'b/two'} is named twice: it is taken once",
        "b/two is named twice: it is taken once",
    ]


@pytest.mark.usefixtures("bags")
def test_names_are_short_and_all_different() -> None:
    assert names("b/*") == ["one", "three", "two"]
    assert names("b/one", "c/one", "b/two") == ["b_one", "c_one", "two"]
    assert names("street:1", "street:2") == ["street-1", "street-2"]
    assert names("c/drive [1]", ".hidden") == ["drive_1_", "hidden"]
    same = "_".join(Path("b/one").absolute().parts[1:])
    assert names("bag:b/one", "video:b/one") == [f"{same}-0", f"{same}-1"]
