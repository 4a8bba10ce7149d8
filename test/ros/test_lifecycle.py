"""The node's life: configure, activate, deactivate, clean up, shut down, end."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from test.ros.rig import NodeProcess, Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from test.ros.rig import Client

pytestmark = pytest.mark.ros


def test_autostart_activates_the_node_at_once(front: Rig) -> None:
    assert front.first_state == "active"


def test_without_autostart_the_node_waits_to_be_configured(rear: Rig) -> None:
    assert rear.first_state == "unconfigured"
    assert rear.next_status("model").text == "unconfigured: no model loaded"
    assert rear.readers() == 0


def test_configure_and_activate_bring_masks(rear: Rig, rgb: NDArray[np.uint8]) -> None:
    assert rear.change("configure")
    assert rear.state() == "inactive"
    assert rear.readers() == 0
    assert rear.change("activate")
    assert rear.state() == "active"
    assert rear.segment(rear.picture(rgb)).height == len(rgb)


def test_deactivate_frees_the_subscription_and_activate_takes_it_again(
    rear: Rig, rgb: NDArray[np.uint8]
) -> None:
    """A deactivated node costs the camera nothing."""
    rear.bring_to("active")
    rear.segment(rear.picture(rgb))
    assert rear.change("deactivate")
    rear.client.wait_for(lambda: rear.readers() == 0, "the subscription to vanish")
    assert "not subscribed" in rear.next_status("input").text
    assert rear.change("activate")
    rear.segment(rear.picture(rgb))
    rear.wait_status("output", lambda status: status.count("published") >= 1)


def test_cleanup_frees_the_model_and_configure_loads_it_again(
    rear: Rig, rgb: NDArray[np.uint8]
) -> None:
    rear.bring_to("inactive")
    assert rear.next_status("model").values["network"] == "swiftnet18-half"
    assert rear.change("cleanup")
    assert rear.next_status("model").text == "unconfigured: no model loaded"
    rear.bring_to("active")
    rear.segment(rear.picture(rgb))


def test_two_nodes_do_not_disturb_each_other(
    front: Rig, rear: Rig, rgb: NDArray[np.uint8]
) -> None:
    """Each has its own camera, state and masks."""
    rear.bring_to("active")
    in_front, behind = front.picture(rgb, frame_id="f"), rear.picture(rgb[:40], frame_id="r")
    mask, other = front.segment(in_front), rear.segment(behind)
    assert (mask.header.frame_id, mask.height) == ("f", len(rgb))
    assert (other.header.frame_id, other.height) == ("r", 40)
    assert rear.change("deactivate")
    assert front.state() == "active"
    front.segment(front.picture(rgb))


def test_unknown_model_is_refused_and_the_node_stays(rear: Rig) -> None:
    """The operator reads why, sets the parameter right and configures again."""
    with rear.setting("model", "swiftnet99"):
        assert not rear.change("configure")
        assert rear.state() == "unconfigured"
        assert rear.process is not None
        assert "swiftnet99" in rear.process.text
        assert rear.next_status("model").text == "unconfigured: no model loaded"
    rear.bring_to("inactive")


def test_unknown_device_is_refused_with_a_reason(rear: Rig) -> None:
    """A name that cannot be is refused at once, a GPU that is not there on configure."""
    assert "cuda:N" in rear.set("device", "tpu")
    with rear.setting("device", "cuda:7"):
        assert not rear.change("configure")
        assert rear.process is not None
        assert "device is 'cuda:7', but torch sees" in rear.process.text
        assert rear.next_status("model").text == "unconfigured: no model loaded"


def test_impossible_steps_leave_the_state_alone(rear: Rig) -> None:
    assert not rear.change("deactivate")
    assert rear.state() == "unconfigured"


@pytest.fixture
def mortal(client: Client, start_node: Callable[..., NodeProcess]) -> Iterator[Rig]:
    """Return a running node of its own, to be ended by the test."""
    rig = Rig(
        client,
        lambda: start_node("-r", "__ns:=/mortal"),
        "/mortal/segmentation",
        "/mortal/image",
    )
    rig.bring_to("active")
    yield rig
    rig.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_node_with_zero_and_without_noise(
    mortal: Rig, rgb: NDArray[np.uint8], number: signal.Signals
) -> None:
    """With images on the way, as when a robot is switched off."""
    mortal.segment(mortal.picture(rgb))
    for _ in range(10):
        mortal.send(mortal.picture(rgb))
    assert mortal.process is not None
    assert mortal.process.end(number) == 0
    lines = mortal.process.text.splitlines()
    assert [line for line in lines if not line.startswith("[INFO]")] == []


SLOW_START = """
import sys, time
import rclpy
from seg_node.ros import node
load = node.model_for
def slowly(name):
    print("LOADING", flush=True)
    time.sleep(1.0)
    print("ROS IS", "UP" if rclpy.ok() else "DOWN", flush=True)
    return load(name)
node.model_for = slowly
sys.exit(node.main())
"""


def test_signal_is_a_request_and_strikes_nothing_in_work(
    client: Client, start_node: Callable[..., NodeProcess]
) -> None:
    """Rclpy's own handler would end ROS below the transition, and race with the tear-down."""
    process = start_node(program=SLOW_START)
    client.wait_for(lambda: "LOADING" in process.text, "the model to load")
    assert process.end() == 0
    lines = [line for line in process.text.splitlines() if not line.startswith("[INFO]")]
    assert lines == ["LOADING", "ROS IS UP"]


def test_shutdown_frees_everything_and_stays_final(mortal: Rig) -> None:
    assert mortal.change("shutdown")
    assert mortal.state() == "finalized"
    mortal.client.wait_for(lambda: mortal.readers() == 0, "the subscription to vanish")
    assert mortal.next_status("model").text == "finalized: no model loaded"
    assert not mortal.change("configure")
    assert mortal.process is not None
    assert mortal.process.end() == 0


def test_bad_value_at_start_ends_with_one_clear_line(
    start_node: Callable[..., NodeProcess],
) -> None:
    """The classic trap: YAML reads 1 as a whole number."""
    process = start_node("-p", "input.scale:=1")
    assert process.wait() == 1
    (line,) = process.text.splitlines()
    assert line.startswith("segmentation_node: parameter input.scale must be a float (write 1.0")


def test_autostart_with_unknown_model_ends_with_the_reason(
    start_node: Callable[..., NodeProcess],
) -> None:
    """Nobody is there to configure it again."""
    process = start_node("-p", "model:=swiftnet99")
    assert process.wait() == 1
    assert "on_configure: " in process.text
    assert "swiftnet99" in process.text
    assert "Traceback" not in process.text
