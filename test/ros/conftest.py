"""Fixtures of the tests with real nodes; `test/ros/rig.py` has the tools."""

from __future__ import annotations

import importlib
import itertools
import signal
from typing import TYPE_CHECKING
import warnings

import pytest

from test.ros.rig import Client, colourful, NodeProcess, Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from seg_node.core.pipeline import Segmenter

LOG_TAIL = 6000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of every running node's log below a failed test."""
    report = yield
    if report.failed:
        for process in NodeProcess.started:
            report.sections.append((f"node log {process.log.name}", process.text[-LOG_TAIL:]))
    return report


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Return the participant that all rigs share; skip where there is no ROS."""
    pytest.importorskip("rclpy")
    with warnings.catch_warnings():
        # ROS's type support needs lark, which imports modules that Python 3.11 has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("rosidl_generator_py")
    made = Client()
    yield made
    made.close()


@pytest.fixture(scope="session")
def start_node(
    random_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., NodeProcess]]:
    """Return a function that starts a node; what still runs at the end is killed."""
    pytest.importorskip("rclpy")
    folder = tmp_path_factory.mktemp("nodes")
    numbers = itertools.count()

    def start(*args: str, program: str = "", **env: str) -> NodeProcess:
        env = {"SEG_NODE_MODELS": str(random_models), **env}
        log = folder / f"{next(numbers)}.log"
        return NodeProcess(log, args, env=env, program=program)

    yield start
    for process in NodeProcess.started:
        process.kill()
    NodeProcess.started.clear()


@pytest.fixture(scope="session")
def front_rig(client: Client, start_node: Callable[..., NodeProcess]) -> Iterator[Rig]:
    """Return a node in mode dense, its topics remapped to a camera in front."""
    remaps = ("-r", "image:=/front/image_raw", "-r", "camera_info:=/front/camera_info")
    rig = Rig(client, lambda: start_node("-p", "mode:=dense", *remaps), image="/front/image_raw")
    yield rig
    rig.close()
    if rig.process is not None and rig.process.running:
        assert rig.process.end() == 0
        assert "Traceback" not in rig.process.text


@pytest.fixture
def front(front_rig: Rig) -> Rig:
    """Return the node in mode dense, active: masks depend on one image alone."""
    front_rig.bring_to("active")
    return front_rig


REAR_PARAMETERS = """\
/**:
  ros__parameters:
    autostart: false
    mode: dense
    overload: every
    qos_overrides:
      /rear/image:
        subscription:
          reliability: reliable
      /rear/left/image:
        subscription:
          reliability: reliable
      /rear/right/image:
        subscription:
          reliability: reliable
      /rear/segmentation/confidence:
        publisher:
          reliability: best_effort
"""


@pytest.fixture(scope="session")
def rear_rig(
    client: Client,
    start_node: Callable[..., NodeProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rig]:
    """Return a node in a namespace that does not start itself, with QoS overrides."""
    file = tmp_path_factory.mktemp("rear") / "rear.yaml"
    file.write_text(REAR_PARAMETERS)
    args = ("-r", "__ns:=/rear", "--params-file", str(file))
    rig = Rig(client, lambda: start_node(*args), "/rear/segmentation", "/rear/image")
    yield rig
    rig.close()
    if rig.process is not None and rig.process.running:
        assert rig.process.end(signal.SIGTERM) == 0


@pytest.fixture
def rear(rear_rig: Rig) -> Rig:
    """Return the node in namespace /rear, unconfigured."""
    rear_rig.bring_to("unconfigured")
    return rear_rig


@pytest.fixture(scope="session")
def segmenter(random_models: Path) -> Segmenter:
    """Return what the nodes compute with, in this process."""
    from seg_node.core.config import Config  # noqa: PLC0415
    from seg_node.core.pipeline import Segmenter  # noqa: PLC0415 - collecting loads no torch
    from seg_node.core.policy import UNTRAINED  # noqa: PLC0415
    from seg_node.nets.build import load_model  # noqa: PLC0415

    model = load_model(str(random_models / "swiftnet18-half.json"))
    return Segmenter(model.net, UNTRAINED, Config(mode="dense"))


@pytest.fixture
def rgb() -> NDArray[np.uint8]:
    """Return a smooth colourful picture, RGB [90, 122, 3], that gives several classes."""
    return colourful(90, 122)
