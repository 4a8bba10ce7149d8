"""Frames that come faster than they are processed, steps that take long, and one that dies.

The node is the real one, but its `Segmenter.step` waits while the file HOLD exists and raises
once the file DIE does. While IMPATIENT exists, the node does not wait long for such a step.
"""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import pytest

from test.ros.rig import Rig, stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from test.ros.rig import Client, NodeProcess

pytestmark = pytest.mark.ros

PROGRAM = """\
import os, pathlib, sys, time
from seg_node.core import pipeline
from seg_node.ros import node

folder = pathlib.Path(os.environ["TEST_FOLDER"])
step = pipeline.Segmenter.step

def held(self, frame, *more):
    if frame.camera == pipeline.WARM_UP_CAMERA:
        return step(self, frame, *more)
    node.WORKER_STOP_S = 0.5 if (folder / "IMPATIENT").exists() else 600.0
    (folder / "BUSY").touch()
    while (folder / "HOLD").exists():
        time.sleep(0.01)
    if (folder / "DIE").exists():
        raise ZeroDivisionError("told to die")
    return step(self, frame, *more)

pipeline.Segmenter.step = held
sys.exit(node.main())
"""

PARAMETERS = """\
/**:
  ros__parameters:
    qos_overrides:
      /slow/image:
        subscription:
          reliability: reliable
"""


class Brake:
    """Holds the node's step, by a file that its program watches."""

    def __init__(self, folder: Path) -> None:
        """Take the folder that the program watches."""
        self.folder = folder

    def pull(self) -> None:
        """Let the next step wait."""
        (self.folder / "BUSY").unlink(missing_ok=True)
        (self.folder / "HOLD").touch()

    def release(self) -> None:
        """Let steps run."""
        for name in ("HOLD", "IMPATIENT", "DIE"):
            (self.folder / name).unlink(missing_ok=True)

    def holds(self) -> bool:
        """Return whether a step has begun since the brake was pulled."""
        return (self.folder / "BUSY").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the node's program watches."""
    path = tmp_path_factory.mktemp("slow")
    (path / "slow.yaml").write_text(PARAMETERS)
    return path


@pytest.fixture(scope="module")
def slow_rig(
    client: Client, start_node: Callable[..., NodeProcess], folder: Path
) -> Iterator[Rig]:
    """Return the node whose steps can be held."""
    args = ("-r", "__ns:=/slow", "--params-file", str(folder / "slow.yaml"))
    rig = Rig(
        client,
        lambda: start_node(*args, program=PROGRAM, TEST_FOLDER=str(folder)),
        "/slow/segmentation",
        "/slow/image",
    )
    yield rig
    rig.close()


@pytest.fixture
def brake(folder: Path) -> Iterator[Brake]:
    """Return the brake, released afterwards."""
    made = Brake(folder)
    yield made
    made.release()


@pytest.fixture
def slow(slow_rig: Rig, brake: Brake) -> Rig:
    """Return the node, freshly active: its counts are zero."""
    brake.release()
    slow_rig.bring_to("inactive")
    slow_rig.bring_to("active")
    return slow_rig


def connect(rig: Rig, rgb: NDArray[np.uint8]) -> None:
    """Return when images surely arrive and none waits any more.

    A mask proves the connection; the mask of one more image, that nothing sent earlier is left.
    """
    rig.segment(rig.picture(rgb))
    stamp = rig.send(rig.picture(rgb))
    rig.client.wait_for(lambda: rig.mask(stamp), "a mask")


def hold_one_frame(rig: Rig, brake: Brake, rgb: NDArray[np.uint8]) -> int:
    """Send one frame into a step that waits, and return its stamp."""
    connect(rig, rgb)
    brake.pull()
    message = rig.picture(rgb)
    rig.send(message)
    rig.client.wait_for(brake.holds, "the step to begin")
    return stamp_of(message)


def send_all(rig: Rig, rgb: NDArray[np.uint8], count: int) -> list[int]:
    """Send frames without waiting for masks; returns when the node has taken them in."""
    stamps = [rig.send(rig.picture(rgb)) for _ in range(count)]
    rig.client.wait_until_delivered(rig.image)
    counts = [-1, rig.next_status("input").count("received")]
    while counts[-1] != counts[-2]:
        counts.append(rig.next_status("input").count("received"))
    return stamps


def test_newest_frame_is_processed_and_the_overtaken_are_counted(
    slow: Rig, brake: Brake, rgb: NDArray[np.uint8]
) -> None:
    """Reports keep coming while a step takes long.

    With a queue of one, DDS itself may replace images that the node has not yet taken, so what
    counts is that none is lost between the node's own counts.
    """
    held = hold_one_frame(slow, brake, rgb)
    received = slow.next_status("input").count("received")
    dropped = slow.next_status("compute").count("dropped")
    stamps = send_all(slow, rgb, 1) + send_all(slow, rgb, 19)
    taken = slow.next_status("input").count("received") - received
    brake.release()
    slow.client.wait_for(lambda: slow.mask(stamps[-1]), "the newest mask")
    assert slow.mask(held) is not None
    assert [stamp for stamp in stamps if slow.mask(stamp)] == [stamps[-1]]
    assert taken >= 2
    assert int(slow.stats(stamps[-1])["dropped"]) - dropped == taken - 1
    assert slow.next_status("compute").count("dropped") - dropped == taken - 1


def test_every_frame_of_a_burst_comes_back(
    slow: Rig, brake: Brake, rgb: NDArray[np.uint8]
) -> None:
    """A change of `overload` while active takes effect, down to the depth of the queue."""
    with slow.setting("overload", "every"):
        hold_one_frame(slow, brake, rgb)
        stamps = send_all(slow, rgb, 20)
        brake.release()
        slow.client.wait_for(lambda: all(slow.mask(s) for s in stamps), "20 masks")
        assert slow.next_status("compute").count("dropped") == 0


def test_deactivate_waits_for_the_frame_in_work(
    slow: Rig, brake: Brake, rgb: NDArray[np.uint8]
) -> None:
    """Its mask still goes out; those that waited do not."""
    held = hold_one_frame(slow, brake, rgb)
    (waiting,) = send_all(slow, rgb, 1)
    answer = slow.begin("deactivate")
    slow.client.wait_for(lambda: slow.readers() == 0, "the subscription to vanish")
    brake.release()
    slow.client.wait_for(lambda: answer.done() and slow.mask(held), "the mask in work")
    assert answer.result().success
    assert slow.mask(waiting) is None


@pytest.mark.parametrize("state", ["inactive", "unconfigured"])
def test_step_that_outlasts_its_activation_is_forgotten(
    slow: Rig, brake: Brake, rgb: NDArray[np.uint8], state: str
) -> None:
    """Deactivate and cleanup give up waiting; the late result meets no destroyed publisher."""
    (brake.folder / "IMPATIENT").touch()
    held = hold_one_frame(slow, brake, rgb)
    slow.bring_to(state)
    assert slow.process is not None
    assert "takes longer than 0.5 s" in slow.process.text
    slow.bring_to("active")
    brake.release()
    connect(slow, rgb)
    assert slow.mask(held) is None
    assert "Traceback" not in slow.process.text


def test_failing_step_ends_the_node_with_its_traceback(
    slow: Rig, brake: Brake, rgb: NDArray[np.uint8]
) -> None:
    """A node that computes nothing must not look alive: its launch file can restart it."""
    connect(slow, rgb)
    (brake.folder / "DIE").touch()
    slow.send(slow.picture(rgb))
    process: Any = slow.process
    assert process.wait() == 1
    assert "the worker thread died" in process.text
    assert "ZeroDivisionError: told to die" in process.text
