"""The doctor: each bad fact gives a problem with a fix, and a real run sees a real camera."""

from __future__ import annotations

from dataclasses import replace
import json
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import Any, TYPE_CHECKING

import numpy as np
import pytest

from seg_node.nets.manifest import MODELS_ENV
from seg_node.ros import doctor, doctor_facts, transport
from seg_node.ros.doctor import Level
from seg_node.ros.doctor_facts import ModelFile, Models, Network, Ros, Software
from seg_node.ros.doctor_topic import Arrivals, Publisher, Topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from seg_node.ros.doctor import Finding

ROOT = Path(__file__).resolve().parents[2]

SOFTWARE = Software((3, 11, 7), "2.4", "4.14", "2.13", 2, 2, ("GPU",), gpu_device_file=True)
ROS = Ros("", "9.1.2", "/x", from_index=True, middleware="rmw_fastrtps_cpp", sourced="")
NETWORK = Network(
    {transport.VARIABLE: transport.SHIPPED}, 2**34, {"net.core.rmem_max": 33_554_432}
)
CAMERA = Publisher("/camera", "sensor_msgs/msg/Image", "reliable", "volatile", "")
ARRIVED = Arrivals(40, 2.0)
TOPIC = Topic("/image", (CAMERA,), (), ARRIVED, None, "1280x720 rgb8", "rgb8")
ENCODINGS = ("rgb8", "mono8")


def judge_software(**changes: Any) -> Iterator[Finding]:
    return doctor.check_software(replace(SOFTWARE, **changes))


def judge_ros(**changes: Any) -> Iterator[Finding]:
    return doctor.check_ros(replace(ROS, **changes))


def judge_environ(**environ: str) -> Iterator[Finding]:
    facts = replace(NETWORK, environ=environ)
    yield from doctor.check_transport(facts, ROS.middleware)
    yield from doctor.check_discovery(facts)


def judge_topic(**changes: Any) -> Iterator[Finding]:
    return doctor.check_topic(replace(TOPIC, **changes), ENCODINGS)


def published(**changes: Any) -> Iterator[Finding]:
    return judge_topic(publishers=(replace(CAMERA, **changes),))


def only(findings: Iterable[Finding], level: Level) -> Finding:
    """Return the one finding that is not good, which must have this level."""
    (found,) = [item for item in findings if item.level is not Level.GOOD]
    assert found.level is level
    return found


@pytest.mark.parametrize(
    "findings",
    [
        judge_software(),
        judge_software(gpus=(), gpu_device_file=False),
        judge_ros(),
        judge_ros(from_index=False, place="/opt/ros/jazzy", version="7.1.4", sourced="jazzy"),
        doctor.check_transport(NETWORK, ROS.middleware),
        doctor.check_transport(replace(NETWORK, environ={}), "rmw_zenoh_cpp"),
        doctor.check_transport(
            replace(NETWORK, environ={"FASTDDS_DEFAULT_PROFILES_FILE": "a.xml"}), ROS.middleware
        ),
        doctor.check_kernel(NETWORK),
        doctor.check_kernel(replace(NETWORK, kernel={})),
        doctor.check_discovery(NETWORK),
        doctor.check_models(Models((ModelFile("a", ""),), "/models", "")),
        doctor.check_output(Path("out"), ""),
        judge_topic(),
        judge_topic(reliable=Arrivals(39, 2.0)),
    ],
)
def test_good_facts_need_nothing(findings: Iterable[Finding]) -> None:
    items = list(findings)
    assert items
    assert {(item.level, item.fix) for item in items} == {(Level.GOOD, "")}


@pytest.mark.parametrize(
    ("findings", "text", "fix"),
    [
        (judge_software(python=(3, 9, 1)), "3.9.1 is too old", "3.11"),
        (judge_software(torch=""), "cannot be imported", "make .venv"),
        (judge_software(numpy=""), "cannot be imported", "make .venv"),
        (judge_ros(error="No module named 'rclpy'"), "No module named 'rclpy'", "setup.sh"),
        (judge_environ(**{transport.VARIABLE: "UDPv4", "ROS_DOMAIN_ID": "300"}), "300", "101"),
        (
            judge_environ(**{transport.VARIABLE: "UDPv4", "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}),
            "hides all nodes",
            "SUBNET",
        ),
        (doctor.check_models(Models((), "", "no models found")), "no models", "models/"),
        (
            doctor.check_models(Models((ModelFile("a", "a.safetensors differs"),), "/m", "")),
            "differs",
            "git checkout -- models",
        ),
        (doctor.check_output(Path("/out"), "/ may not be written"), "written", "--out"),
        (judge_topic(publishers=(), others=("/front/image",)), "/front/image", "camera"),
        (published(type="std_msgs/msg/String"), "std_msgs/msg/String", "Image"),
        (published(mismatch="deadline"), "deadline", "qos_overrides"),
        (judge_topic(best_effort=Arrivals(0, 2.0)), "no image arrives", transport.VARIABLE),
        (
            judge_topic(best_effort=Arrivals(0, 2.0), reliable=ARRIVED),
            "none arrives best effort",
            "qos_overrides./image.subscription.reliability",
        ),
        (judge_topic(encoding="32FC1"), "32FC1", "rgb8, mono8"),
    ],
)
def test_a_bad_fact_is_told_with_its_fix(findings: Iterable[Finding], text: str, fix: str) -> None:
    found = only(findings, Level.BAD)
    assert text in found.text
    assert fix in found.fix


@pytest.mark.parametrize(
    ("findings", "text", "fix"),
    [
        (judge_software(gpus=()), "torch cannot use it", "CUDA"),
        (judge_ros(sourced="jazzy"), "two ROS mix", "make .venv"),
        (judge_environ(), "not set in this shell", transport.SHIPPED),
        (judge_environ(ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST"), "ignore", transport.LOCAL_ONLY),
        (
            doctor.check_transport(replace(NETWORK, shared_memory_bytes=2**26), ROS.middleware),
            "64 MB",
            "--shm-size",
        ),
        (
            doctor.check_transport(replace(NETWORK, shared_memory_bytes=None), ROS.middleware),
            "no /dev/shm",
            "tmpfs",
        ),
        (
            doctor.check_kernel(replace(NETWORK, kernel={"net.core.rmem_max": 212_992})),
            "0.2 MB",
            "net.core.rmem_max=33554432",
        ),
        (
            judge_topic(best_effort=Arrivals(3, 2.0), reliable=Arrivals(25, 2.0)),
            "only 1.5 images/s of 1280x720 rgb8 arrive",
            transport.SHIPPED,
        ),
        (
            published(type="sensor_msgs/msg/CompressedImage"),
            "CompressedImage",
            "input.transport to compressed and image to /image",
        ),
    ],
)
def test_what_does_not_prevent_running_is_a_note(
    findings: Iterable[Finding], text: str, fix: str
) -> None:
    found = only(findings, Level.NOTE)
    assert text in found.text
    assert fix in found.fix


def test_models_are_verified_by_hash(
    random_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One changed byte, a missing file and a missing folder are told apart."""
    for path in random_models.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv(MODELS_ENV, str(tmp_path))
    (found,) = doctor_facts.models().files
    assert (found.name, found.problem) == ("swiftnet18-half", "")
    weights = tmp_path / "swiftnet18-half.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "differs" in doctor_facts.models().files[0].problem
    weights.unlink()
    assert "missing" in doctor_facts.models().files[0].problem
    monkeypatch.setenv(MODELS_ENV, str(tmp_path / "none"))
    assert "no models found" in doctor_facts.models().problem


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_facts.write_problem(tmp_path / "deep" / "out") == ""
    (tmp_path / "file").touch()
    assert "not a folder" in doctor_facts.write_problem(tmp_path / "file" / "out")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert "may not be written" in doctor_facts.write_problem(tmp_path / "out")


def test_without_ros_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An interpreter that cannot import rclpy is a fact, not a traceback."""
    (tmp_path / "rclpy.py").write_text("raise ImportError('no rclpy on this machine')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor_facts.ros().error == "ImportError: no rclpy on this machine"


CAMERA_PROGRAM = """
import time, rclpy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("camera")
publisher = node.create_publisher(Image, "/doctor/image", 1)
image = Image(height=48, width=64, encoding="rgb8", step=192)
image.data.frombytes(bytes(48 * 192))
while True:
    publisher.publish(image)
    time.sleep(0.05)
"""


@pytest.fixture
def camera() -> Iterator[None]:
    """Run a camera that publishes small images on /doctor/image at 20 Hz."""
    pytest.importorskip("rclpy")
    with subprocess.Popen([sys.executable, "-c", CAMERA_PROGRAM]) as process:
        yield
        process.kill()


def run(models: Path, folder: Path, topic: str) -> tuple[int, str, dict[str, Any]]:
    """Run the doctor in its own process; return exit status, text and JSON."""
    report = folder / "doctor.json"
    code = (
        "import sys, pathlib; from seg_node.ros.doctor import run_doctor; "
        f"sys.exit(run_doctor({topic!r}, json_path=pathlib.Path({str(report)!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, MODELS_ENV: str(models), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, json.loads(report.read_text(encoding="utf-8"))


@pytest.mark.ros
@pytest.mark.slow
def test_a_real_camera_is_seen(random_models: Path, tmp_path: Path, camera: None) -> None:  # noqa: ARG001
    """Publisher, QoS, size, encoding and a plausible rate; nothing is in the way."""
    end = time.monotonic() + 300.0
    while True:  # on a busy machine, the camera may come after the doctor
        status, text, report = run(random_models, tmp_path, "/doctor/image")
        if status == 0 or time.monotonic() > end:
            break
    assert status == 0, text
    assert report["ok"]
    found = [item for item in report["findings"] if item["subject"] == "/doctor/image"]
    assert found[0]["text"] == "/camera publishes sensor_msgs/msg/Image, reliable, volatile"
    assert found[1]["text"].endswith("images/s of 64x48 rgb8 arrive here")
    rate = float(found[1]["text"].split()[0])
    assert 0.0 < rate < 25.0
    assert text.splitlines()[-1] == "Nothing is in the way."
    assert "ok: Python" in text


@pytest.mark.ros
@pytest.mark.slow
def test_a_missing_camera_is_told(random_models: Path, tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    status, text, report = run(random_models, tmp_path, "/doctor/nothing")
    assert status == 1
    assert not report["ok"]
    (found,) = [item for item in report["findings"] if item["level"] == "problem"]
    assert found["subject"] == "/doctor/nothing"
    assert "nobody publishes here" in found["text"]
    assert "Start the camera" in text


def test_facts_are_plain(random_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine says of itself has the promised shape."""
    monkeypatch.setenv(MODELS_ENV, str(random_models))
    software = doctor_facts.software()
    assert software.python == sys.version_info[:3]
    assert software.numpy == np.__version__
    assert software.threads >= 1
    assert doctor_facts.network().environ["ROS_DOMAIN_ID"] == os.environ["ROS_DOMAIN_ID"]
