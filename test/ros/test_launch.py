"""The launch file, run by the real `launch`: arguments, refusals, and a node that answers.

Skipped where `launch` is not installed, as with ROS from the package index; docs/development.md
says how to run it there.
"""

from __future__ import annotations

import os
from pathlib import Path
import re
import runpy
import sys
from typing import Any, TYPE_CHECKING

import pytest

launch_pytest = pytest.importorskip("launch_pytest", reason="launch_pytest is not installed")
launch_ros = pytest.importorskip("launch_ros.actions", reason="launch_ros is not installed")

from launch.actions import IncludeLaunchDescription, SetEnvironmentVariable  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402

from launch import LaunchContext, LaunchDescription, LaunchService  # noqa: E402
from seg_node.ros.transport import SHIPPED, VARIABLE  # noqa: E402
from test.ros.rig import colourful, Rig  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from test.ros.rig import Client

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "launch" / "segmentation.launch.py"
ARGUMENTS = {
    "image",
    "camera_info",
    "namespace",
    "params_file",
    "model",
    "device",
    "autostart",
    "use_sim_time",
    "log_level",
    "rviz",
}


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an install tree as colcon makes it, as far as launch looks: marker and executable.

    The executable notes the transport setting that it was started with.
    """
    root = tmp_path_factory.mktemp("install")
    index = root / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "seg_node").touch()
    executable = root / "lib" / "seg_node" / "segmentation_node"
    executable.parent.mkdir(parents=True)
    executable.write_text(
        f"#!/bin/sh\nprintf %s \"${VARIABLE}\" >'{root}/setting'\n"
        f"export PYTHONPATH='{ROOT}'\nexec '{sys.executable}' -m seg_node.ros.node \"$@\"\n"
    )
    executable.chmod(0o755)
    return root


@pytest.fixture(autouse=True)
def environment(
    prefix: Path, random_models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Let launch find the package, and the node its models; logs go to a folder of the test."""
    known = os.environ.get("AMENT_PREFIX_PATH", "")
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join(filter(None, [str(prefix), known])))
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    (prefix / "setting").unlink(missing_ok=True)


def include(**arguments: str) -> IncludeLaunchDescription:
    """Return the action that includes the launch file with these arguments."""
    source = PythonLaunchDescriptionSource(str(FILE))
    return IncludeLaunchDescription(source, launch_arguments=arguments.items())


def expand(**arguments: str) -> list[Any]:
    """Return what the launch file's OpaqueFunction makes of the arguments, starting nothing."""
    context = LaunchContext()
    description = PythonLaunchDescriptionSource(str(FILE)).get_launch_description(context)
    context.launch_configurations.update(arguments)
    actions: list[Any] = []
    for entity in description.entities:
        actions += entity.execute(context) or []
    return actions


def test_arguments_are_described() -> None:
    description = PythonLaunchDescriptionSource(str(FILE)).get_launch_description(LaunchContext())
    found = {argument.name: argument for argument in description.get_launch_arguments()}
    assert set(found) == ARGUMENTS
    assert all(argument.description.endswith((".", "]")) for argument in found.values())
    assert "cpu, default, full_hd, gpu" in found["params_file"].description


@pytest.mark.parametrize(
    ("name", "value"),
    [("log_level", "loud"), ("rviz", "yes"), ("use_sim_time", "1"), ("autostart", "maybe")],
)
def test_a_bad_choice_is_refused(name: str, value: str) -> None:
    """Launching ends with an error that names argument, value and choices."""
    with pytest.raises(RuntimeError, match=f'"{name}" provided value "{value}" is not valid'):
        expand(**{name: value})
    service = LaunchService()
    service.include_launch_description(LaunchDescription([include(**{name: value})]))
    assert service.run() == 1


def test_a_missing_parameter_file_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"params_file is 'fast'.*presets cpu, default"):
        expand(params_file="fast")


def test_the_transport_setting_is_added_unless_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = [type(action) for action in expand()]
    assert kinds == [SetEnvironmentVariable, launch_ros.LifecycleNode]
    monkeypatch.setenv(VARIABLE, "UDPv4")
    assert [type(action) for action in expand()] == [launch_ros.LifecycleNode]


def test_rviz_is_started_on_demand() -> None:
    *_, viewer = expand(rviz="true", namespace="front")
    assert type(viewer) is launch_ros.Node
    assert (viewer.node_package, viewer.node_executable) == ("rviz2", "rviz2")


def test_every_topic_of_the_view_is_moved_to_the_node() -> None:
    """A display that is forgotten here shows nothing as soon as the node has a namespace."""
    view = (ROOT / "config" / "segmentation.rviz").read_text(encoding="utf-8")
    shown = set(re.findall("Value: (/.*)", view))
    view_topics = runpy.run_path(str(FILE))["view_topics"]
    assert view_topics("front", "image") == {topic: f"/front{topic}" for topic in shown}
    assert view_topics("/", "/cam/raw") == {"/image": "/cam/raw"}
    assert view_topics("", "image") == {}


@pytest.fixture
def parameter_file(tmp_path: Path) -> Path:
    """Return a parameter file that says scale, overlay rate and a device that is not there."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "/**:\n  ros__parameters:\n    device: cuda:7\n    input:\n      scale: 0.5\n"
        "    publish:\n      overlay_rate_hz: 3.0\n"
    )
    return path


@launch_pytest.fixture
def front_camera(environment: None, parameter_file: Path) -> LaunchDescription:  # noqa: ARG001
    """Launch the node for a camera in namespace /front; `device` overrides the file."""
    node = include(
        image="/front/image_raw",
        namespace="front",
        params_file=str(parameter_file),
        device="cpu",
        log_level="warn",
    )
    return LaunchDescription([node, launch_pytest.actions.ReadyToTest()])


@pytest.fixture
def rig(client: Client) -> Iterator[Rig]:
    """Return what talks to the launched node."""

    def never() -> Any:
        pytest.fail("launch starts the node")

    made = Rig(client, never, "/front/segmentation", "/front/image_raw")
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.launch(fixture=front_camera)
def test_the_launched_node_answers(rig: Rig, prefix: Path) -> None:
    """Namespace, remapped image, parameter file, override and transport setting, in one start."""
    message = rig.picture(colourful(96, 128), frame_id="front_optical")
    mask = rig.segment(message)
    assert mask.header == message.header
    assert (mask.height, mask.width, mask.encoding) == (96, 128, "mono8")
    assert rig.get("device") == "cpu"
    assert rig.get("input.scale") == 0.5
    assert rig.get("publish.overlay_rate_hz") == 3.0
    assert rig.get("model") == "swiftnet18-half"
    assert rig.get("use_sim_time") is False
    assert (prefix / "setting").read_text() == SHIPPED
    topics = dict(rig.client.node.get_topic_names_and_types())
    assert "/front/camera_info" in topics


@launch_pytest.fixture
def sleeping_node(environment: None) -> LaunchDescription:  # noqa: ARG001
    """Launch a node that waits for a lifecycle manager, on simulated time."""
    node = include(namespace="asleep", autostart="false", use_sim_time="true", params_file="cpu")
    return LaunchDescription([node, launch_pytest.actions.ReadyToTest()])


@pytest.mark.slow
@pytest.mark.launch(fixture=sleeping_node)
def test_autostart_and_sim_time_are_passed_on(client: Client) -> None:
    rig = Rig(client, lambda: pytest.fail("launch starts the node"), "/asleep/segmentation")
    try:
        assert rig.state() == "unconfigured"
        assert rig.get("use_sim_time") is True
        assert rig.get("input.scale") == 0.5
        assert rig.get("precision") == "fp32"
    finally:
        rig.close()
