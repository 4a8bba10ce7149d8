"""The machine is described by what does not change, so that equal runs stay equal."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import pytest

from seg_node.eval import machine
from seg_node.eval.machine import describe_machine, in_words, load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the files of a system: none of them yet."""
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "_BOARD", tmp_path / "board")
    return tmp_path


def test_this_machine_is_told() -> None:
    found = describe_machine()
    assert found == describe_machine()
    assert found["cores"] >= 1
    assert found["system"].endswith(platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    assert abs(found["memory_gib"] - memory) <= 0.5


def test_the_name_of_the_processor_is_that_of_the_system(files: Path) -> None:
    (files / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast 9000\nprocessor\t: 1\n")
    assert describe_machine()["cpu"] == "Fast 9000"
    (files / "board").write_text("NVIDIA Jetson Orin\0")
    assert describe_machine()["cpu"] == "NVIDIA Jetson Orin, Fast 9000"


@pytest.mark.usefixtures("files")
def test_a_system_that_tells_nothing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert describe_machine()["cpu"] is None
    assert in_words({"cpu": None, "cores": 2, "memory_gib": None}) == "2 cores"


def test_it_is_one_line() -> None:
    told = {"cpu": "Fast 9000", "cores": 2, "memory_gib": 7, "system": "Linux x86_64"}
    assert in_words(told) == "Fast 9000, 2 cores, 7 GiB"


def test_the_load_is_that_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.234, 9.0, 9.0))
    assert load() == 1.23
