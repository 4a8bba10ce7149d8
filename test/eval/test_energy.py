"""Meters of energy read what the kernel's files say, wrap-around, rights and absence included."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import Action
from seg_node.eval.energy import (
    find_meter,
    find_nvml,
    find_rails,
    find_rapl,
    Meters,
    NvmlDevice,
    RaplZone,
)
from seg_node.eval.results import ModeRecord
from seg_node.eval.session import metered
from test.eval.runs import step

if TYPE_CHECKING:
    from pathlib import Path


def zone(root: Path, folder: str, name: str, energy_uj: int = 0) -> Path:
    """Make a zone of powercap whose counter wraps at a joule."""
    path = root / folder
    path.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", 10**6)):
        (path / file).write_text(f"{text}\n")
    return path


def monitor(root: Path, *rails: tuple[str, int, int], name: str = "ina3221") -> Path:
    """Make a hardware monitor with rails of (label, mV, mA)."""
    path = root / "hwmon3"
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    for number, (label, millivolts, milliamperes) in enumerate(rails, 1):
        (path / f"in{number}_label").write_text(f"{label}\n")
        (path / f"in{number}_input").write_text(f"{millivolts}\n")
        (path / f"curr{number}_input").write_text(f"{milliamperes}\n")
    return path


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    """0.9 J, then 1.2 J, which the counter shows as 0.2 J, then 1.5 J."""
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = RaplZone(folder)
    assert meter.joules() == 0.0
    (folder / "energy_uj").write_text("200000\n")
    assert meter.joules() == pytest.approx(0.3)
    (folder / "energy_uj").write_text("500000\n")
    assert meter.joules() == pytest.approx(0.6)


def test_nothing_is_counted_twice(tmp_path: Path) -> None:
    """Cores lie in their package, and psys holds the whole machine once more."""
    zone(tmp_path, "intel-rapl:0", "package-0")
    zone(tmp_path, "intel-rapl:0:0", "core")
    zone(tmp_path, "intel-rapl:0:1", "dram")
    zone(tmp_path, "intel-rapl:1", "psys")
    (tmp_path / "intel-rapl").mkdir()
    assert [meter.name for meter in find_rapl(tmp_path)] == ["RAPL package-0", "RAPL dram"]
    meter = find_meter(tmp_path, tmp_path / "no hwmon")
    assert meter is not None
    assert meter.name == "RAPL package-0, RAPL dram"


def test_a_damaged_zone_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = zone(tmp_path, "intel-rapl:0", "package-0")
    (folder / "energy_uj").write_text("none\n")
    assert find_rapl(tmp_path) == []
    assert f"energy is not measured by {folder}" in caplog.text


def test_the_board_of_a_jetson_is_measured_once(tmp_path: Path) -> None:
    """5 V times 2 A is 10 W: 20 J in two seconds; then 30 W in the mean of one."""
    seconds = iter([0.0, 0.0, 0.0, 2.0, 3.0])
    folder = monitor(
        tmp_path, ("VDD_CPU_GPU_CV", 5000, 1000), ("VDD_IN", 5000, 2000), ("VDD_SOC", 5000, 500)
    )
    (meter,) = find_rails(tmp_path, lambda: next(seconds))
    assert meter.name == "INA3221 VDD_IN"
    assert meter.joules() == pytest.approx(20.0)
    (folder / "curr2_input").write_text("10000\n")
    assert meter.joules() == pytest.approx(20.0 + (10 + 50) / 2)


def test_rails_without_a_common_one_are_added_up(tmp_path: Path) -> None:
    seconds = iter([0.0, 0.0, 1.0, 1.0])
    monitor(tmp_path, ("GPU", 5000, 1000), ("CPU", 5000, 400))
    assert Meters(find_rails(tmp_path, lambda: next(seconds))).joules() == pytest.approx(7.0)
    assert find_rails(tmp_path / "elsewhere") == []


def test_other_monitors_are_none(tmp_path: Path) -> None:
    monitor(tmp_path, ("Vcore", 1000, 1000), name="nct6775")
    assert find_rails(tmp_path) == []


def test_a_card_counts_millijoules() -> None:
    assert NvmlDevice("H200", lambda: 2500).joules() == 2.5


def test_where_nothing_measures_there_is_no_figure(tmp_path: Path) -> None:
    if find_nvml():
        pytest.skip("this machine has a card that counts its energy")
    assert find_meter(tmp_path, tmp_path) is None
    record = ModeRecord(2)
    record.add(step(np.zeros((64, 96), np.uint8), Action.HIGH, 5.0))
    assert record.summary()["joules_per_frame"] is None


def test_a_step_has_the_difference_and_a_mode_the_mean(tmp_path: Path) -> None:
    """Steps of 0.3 and 0.5 J, the counter wrapping in the second."""
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 100_000)
    meter, record = RaplZone(folder), ModeRecord(2)
    for energy_uj, expected in ((400_000, 0.3), (900_000, 0.5)):

        def work(energy_uj: int = energy_uj) -> object:
            (folder / "energy_uj").write_text(f"{energy_uj}\n")
            return step(np.zeros((64, 96), np.uint8), Action.HIGH, 5.0)

        result = metered(work, meter)  # type: ignore[arg-type] # a step without a frame
        assert result.report.joules == pytest.approx(expected)
        record.add(result)
    assert record.summary()["joules_per_frame"] == pytest.approx(0.4)
    again = ModeRecord(2)
    again.restore(record.state())
    assert again.summary()["joules_per_frame"] == pytest.approx(0.4)
