"""The transport setting: whom it is for, whom it leaves alone."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest

from seg_node.ros import transport
from seg_node.ros.transport import kernel_facts, transport_environment, VARIABLE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "environ",
    [{}, {"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, {VARIABLE: ""}, {"ROS_DOMAIN_ID": "3"}],
)
def test_fast_dds_without_a_choice_gets_the_shipped_setting(environ: dict[str, str]) -> None:
    assert transport_environment(environ) == {VARIABLE: transport.SHIPPED}


@pytest.mark.parametrize(
    "environ",
    [
        {VARIABLE: "UDPv4"},
        {"FASTDDS_DEFAULT_PROFILES_FILE": "mine.xml"},
        {"FASTRTPS_DEFAULT_PROFILES_FILE": "mine.xml"},
        {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"},
        {"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"},
    ],
)
def test_a_choice_of_the_user_stays(environ: dict[str, str]) -> None:
    assert transport_environment(environ) == {}


def test_a_group_of_processes_keeps_to_this_machine() -> None:
    """By shared memory alone where we may decide, else by the discovery range."""
    local = transport.local_environment({}, free_bytes=2**30)
    assert local == {VARIABLE: transport.LOCAL_ONLY, transport.RANGE_VARIABLE: "SUBNET"}
    assert local[VARIABLE].startswith("SHM?")
    narrowed = transport.local_environment({VARIABLE: "UDPv4"}, free_bytes=2**30)
    assert narrowed == {transport.RANGE_VARIABLE: "LOCALHOST"}


@pytest.mark.parametrize(
    ("free_mb", "setting"),
    [(256, "SHM?sockets_size=32MB"), (255, "SHM?sockets_size=31MB"), (16, "SHM?sockets_size=2MB")],
)
def test_little_shared_memory_is_shared_by_all_processes(free_mb: int, setting: str) -> None:
    """A container's 64 MB must do for the demo, its node and whoever looks on."""
    local = transport.local_environment({}, free_bytes=free_mb * 2**20)
    assert local == {VARIABLE: setting, transport.RANGE_VARIABLE: "SUBNET"}


def test_without_room_for_images_shared_memory_is_left_alone() -> None:
    local = transport.local_environment({}, free_bytes=16 * 2**20 - 1)
    assert local == {transport.RANGE_VARIABLE: "LOCALHOST"}


@pytest.mark.ros
def test_shared_memory_alone_opens_no_socket() -> None:
    """With `LOCAL_ONLY`, no packet can leave the machine, whatever the discovery range."""
    pytest.importorskip("rclpy")
    code = """
import os, rclpy
rclpy.init()
node = rclpy.create_node("silent")
links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
targets = {os.readlink(link) for link in links if os.path.islink(link)}
mine = {target[8:-1] for target in targets if target.startswith("socket:")}
for kind in ("udp", "tcp", "udp6", "tcp6"):
    for line in open(f"/proc/self/net/{kind}").read().splitlines()[1:]:
        if line.split()[9] in mine:
            print(kind, line.split()[1])
rclpy.shutdown()
"""
    sockets = {}
    for setting in (transport.SHIPPED, transport.LOCAL_ONLY):
        environ = {**os.environ, VARIABLE: setting, transport.RANGE_VARIABLE: "SUBNET"}
        run = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        sockets[setting] = run.stdout.split()
    assert "udp" in sockets[transport.SHIPPED]
    assert sockets[transport.LOCAL_ONLY] == []


def test_local_only_is_known_in_both_spellings() -> None:
    assert transport.is_local_only({"ROS_AUTOMATIC_DISCOVERY_RANGE": "localhost"})
    assert transport.is_local_only({"ROS_LOCALHOST_ONLY": "1"})
    assert not transport.is_local_only({"ROS_LOCALHOST_ONLY": "0"})
    assert not transport.is_local_only({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"})


def test_kernel_settings_are_read_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "net" / "core" / "rmem_max"
    file.parent.mkdir(parents=True)
    file.write_text("4194304\n")
    assert kernel_facts(tmp_path) == {"net.core.rmem_max": 4194304}


def test_the_setting_is_made_before_ros_starts() -> None:
    """The module may be imported to set the environment, so it must not load rclpy itself."""
    code = "import sys, seg_node.ros.transport; sys.exit('rclpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.ros
def test_fast_dds_makes_the_segment_as_large_as_promised() -> None:
    """With each shipped setting, a process has one segment of `SEGMENT_BYTES` (and some more)."""
    pytest.importorskip("rclpy")
    code = """
import re, rclpy
rclpy.init()
node = rclpy.create_node("segment")
names = set(re.findall(r"/dev/shm/(fastdds_[0-9a-f]{16})$", open("/proc/self/maps").read(), re.M))
import os
print(*(os.stat(f"/dev/shm/{name}").st_size for name in names))
rclpy.shutdown()
"""
    for setting in (transport.SHIPPED, transport.LOCAL_ONLY):
        environ = {**os.environ, VARIABLE: setting, transport.RANGE_VARIABLE: "SUBNET"}
        run = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        if "Failed to create segment" in run.stdout + run.stderr:
            pytest.skip("shared memory is too small on this machine")
        (size,) = map(int, run.stdout.split())
        assert transport.SEGMENT_BYTES * 0.9 < size < transport.SEGMENT_BYTES * 1.1


def load_benchmark(name: str) -> Any:
    """Return a script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_shows_what_was_measured() -> None:
    """Table and setting in docs/transport.md are those of the committed result files."""
    text = (ROOT / "docs" / "transport.md").read_text(encoding="utf-8")
    results = ROOT / "benchmarks" / "results"
    measured = json.loads((results / "transport.json").read_text(encoding="utf-8"))
    assert load_benchmark("transport").table(measured) in text
    assert measured["shipped"] == transport.SHIPPED
    full_hd = json.loads((results / "full_hd.json").read_text(encoding="utf-8"))
    assert load_benchmark("full_hd").table(full_hd) in text
    assert full_hd["setting"] == transport.SHIPPED
    for setting in (transport.SHIPPED, transport.LOCAL_ONLY):
        assert f"{VARIABLE}='{setting}'" in text
