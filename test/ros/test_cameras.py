"""Several cameras on one node: topics of their own, one model, and none that stops the others."""

from __future__ import annotations

from contextlib import contextmanager, ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any, TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.config import Config
from seg_node.core.types import ConfigError, Frame
from test.ros.rig import pixels_of, RESEND_S, set_header, stamp_of
from test.ros.test_services import enable, keyframe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from seg_node.core.pipeline import Segmenter
    from test.ros.rig import Rig, Status

NAMES = ("front", "left", "right")


def node(**remaps: str) -> Any:
    """Return what resolves names as a node in /robot does."""
    return SimpleNamespace(
        resolve_topic_name=lambda name: remaps.get(name.replace("/", "_"), f"/robot/{name}")
    )


# ---- topics, without a node ---------------------------------------------------------------------


def test_topics_are_the_names_remapped_with_the_suffix_of_the_transport() -> None:
    pytest.importorskip("rclpy")
    from seg_node.ros.cameras import find_cameras  # noqa: PLC0415 - only where there is ROS

    config = Config().updated({"cameras": ("front", "left"), "input.transport": "compressed"})
    front, left = find_cameras(node(left_image="/cam2/image_raw"), config)
    assert (front.name, front.topic) == ("front", "/robot/front/image/compressed")
    assert (left.name, left.topic) == ("left", "/cam2/image_raw/compressed")
    assert left.prefix == "left/"
    (alone,) = find_cameras(node(), Config())
    assert (alone.name, alone.topic, alone.prefix) == ("", "/robot/image", "")


def test_cameras_that_share_a_topic_are_refused_with_the_fix() -> None:
    """They would share their memory, too, and each would see the other's frames as jumps."""
    pytest.importorskip("rclpy")
    from seg_node.ros.cameras import check_topics, find_cameras  # noqa: PLC0415

    config = Config().updated({"cameras": NAMES})
    check_topics(find_cameras(node(), config))
    shared = find_cameras(node(left_image="/usb", right_image="/usb"), config)
    with pytest.raises(ConfigError, match=r"left and right both .* /usb; remap left/image or"):
        check_topics(shared)


# ---- a node -------------------------------------------------------------------------------------


class Trio:
    """Three cameras on one node in /rear, and what comes back.

    Args:
        rig: the node.

    """

    def __init__(self, rig: Rig) -> None:
        """Hear nothing yet."""
        self.rig = rig
        self.masks: dict[str, list[Any]] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Subscribe to the masks of all cameras."""
        from sensor_msgs.msg import Image  # noqa: PLC0415 - only where there is ROS

        with ExitStack() as stack:
            for name in NAMES:
                heard = self.rig.listening(Image, f"{name}/mask")
                self.masks[name] = stack.enter_context(heard)
            yield

    def segment(self, **messages: Any) -> dict[str, Any]:
        """Send messages, by camera, until each has its mask; returns the masks."""
        due = dict.fromkeys(messages, 0)

        def found() -> dict[str, Any]:
            wanted = {name: stamp_of(message) for name, message in messages.items()}
            return {
                name: mask
                for name, stamp in wanted.items()
                for mask in self.masks[name]
                if stamp_of(mask) == stamp
            }

        def attempt() -> dict[str, Any] | None:
            masks = found()
            now_ns = self.rig.client.node.get_clock().now().nanoseconds
            for name in messages.keys() - masks.keys():
                if now_ns >= due[name]:
                    self.send(name, messages[name])
                    due[name] = now_ns + int(RESEND_S * 1e9)
            return masks if len(masks) == len(messages) else None

        masks: dict[str, Any] = self.rig.client.wait_for(attempt, f"masks of {list(messages)}")
        return masks

    def send(self, name: str, message: Any) -> None:
        """Publish an image of a camera once."""
        self.rig.client.publish(message, f"/rear/{name}/image")

    def readers(self) -> int:
        """Return how many of the cameras have a subscription."""
        infos = self.rig.client.node.get_subscriptions_info_by_topic
        return sum(len(infos(f"/rear/{name}/image")) for name in NAMES)

    def statuses(self) -> dict[str, Status]:
        """Return the next status of each camera, all of one report; the model's comes last."""
        self.rig.next_status("model")
        return {name: self.rig._statuses[f"camera {name}"] for name in NAMES}

    @contextmanager
    def reasons(self) -> Iterator[dict[tuple[str, int], str]]:
        """Subscribe to all ~/stats; yields the reason of each plan by camera and stamp."""
        from diagnostic_msgs.msg import DiagnosticArray  # noqa: PLC0415

        heard: dict[tuple[str, int], str] = {}

        def note(name: str, message: Any) -> None:
            text = message.status[0].message.partition(": ")[0]
            heard.setdefault((name, stamp_of(message)), text)

        node, qos = self.rig.client.node, self.rig.client.qos()
        made = [
            node.create_subscription(
                DiagnosticArray, f"{self.rig.name}/{name}/stats", partial(note, name), qos
            )
            for name in NAMES
        ]
        yield heard
        for subscription in made:
            node.destroy_subscription(subscription)

    def play(self, rgb: NDArray[np.uint8], reasons: dict[tuple[str, int], str]) -> set[str]:
        """Send one more picture to each camera, 50 ms after the last, and return the reasons."""
        stamps = {name: stamp_of(self.masks[name][-1]) + 50_000_000 for name in NAMES}
        pictures = {x: self.rig.picture(rgb, stamp_ns=stamps[x]) for x in NAMES}
        self.segment(**pictures)
        self.rig.client.wait_for(lambda: stamps.items() <= reasons.keys(), "stats of all cameras")
        return {reasons[item] for item in stamps.items()}


@pytest.fixture(scope="module")
def trio_rig(rear_rig: Rig) -> Iterator[Rig]:
    """Return the node with three cameras; afterwards it has one again."""
    rear_rig.bring_to("unconfigured")
    with rear_rig.setting("cameras", list(NAMES)):
        yield rear_rig
        rear_rig.bring_to("unconfigured")


@pytest.fixture
def trio(trio_rig: Rig) -> Iterator[Trio]:
    """Return three cameras on the node, freshly active: its counts are zero."""
    trio_rig.bring_to("inactive")
    trio_rig.bring_to("active")
    made = Trio(trio_rig)
    with made.listening():
        yield made


@pytest.mark.ros
def test_every_camera_gets_its_own_masks(
    trio: Trio, rgb: NDArray[np.uint8], segmenter: Segmenter
) -> None:
    """Its pixels, header and calibration, although sizes differ and frames are mixed."""
    from sensor_msgs.msg import CameraInfo  # noqa: PLC0415

    rig = trio.rig
    pixels = {"front": rgb, "left": np.ascontiguousarray(rgb[::-1, :70]), "right": rgb[:40]}
    sent = {x: rig.picture(pixels[x], frame_id=f"{x}_optical") for x in NAMES}
    masks = trio.segment(**sent)
    for name in NAMES:
        assert masks[name].header == sent[name].header
        expected = segmenter.step(Frame(pixels[name])).labels
        np.testing.assert_array_equal(pixels_of(masks[name]), expected)
    info = set_header(CameraInfo(height=90, width=70), 1, "left lens")
    with rig.listening(CameraInfo, "left/camera_info") as infos:

        def passed() -> list[Any]:
            rig.client.publish(info, "/rear/left/camera_info")
            trio.segment(**{x: rig.picture(pixels[x], frame_id=f"{x}_optical") for x in NAMES})
            return infos

        rig.client.wait_for(passed, "the calibration of the left camera")
    assert infos[0].header.frame_id == "left_optical"
    for name, status in trio.statuses().items():
        assert {mask.header.frame_id for mask in trio.masks[name]} == {f"{name}_optical"}
        assert status.count("size_changes") == 0
        assert status.values["topic"] == f"/rear/{name}/image"
    topics = dict(rig.client.node.get_topic_names_and_types())
    assert {f"{rig.name}/legend", f"{rig.name}/right/overlay"} <= topics.keys()
    assert not rig.client.node.get_publishers_info_by_topic(f"{rig.name}/mask")
    assert "cleanup" in rig.set("cameras", ["front"])


@pytest.mark.ros
def test_a_broken_and_a_missing_camera_do_not_stop_the_third(
    trio: Trio, rgb: NDArray[np.uint8]
) -> None:
    """Left sends garbage, right is not plugged in; both are told, and front goes on."""
    rig = trio.rig
    rig.client.forget("/rear/right/image")
    broken = rig.picture(rgb, "32FC7")
    for _ in range(3):
        trio.send("left", broken)
        trio.segment(front=rig.picture(rgb))
    rig.wait_status("camera left", lambda s: s.level == "ERROR" and s.count("refused") > 0)
    found = trio.statuses()
    text = "unusable image: image on /rear/left/image (encoding '32FC7'"
    assert found["left"].text.startswith(text)
    assert found["left"].count("published") == 0
    assert found["right"].level == "WARN"
    assert found["right"].text.startswith("no publisher on /rear/right/image")
    assert found["front"].count("published") >= 3
    assert found["front"].count("refused") == 0
    whole = rig.next_status("input")
    assert whole.level == "ERROR"
    assert "left: unusable image" in whole.text
    assert "right: no publisher" in whole.text
    trio.segment(left=rig.picture(rgb), right=rig.picture(rgb))
    rig.wait_status("camera left", lambda s: "unusable" not in s.text)
    assert rig.process is not None
    assert "left: frame dropped: image on /rear/left/image" in rig.process.text


@pytest.mark.ros
def test_services_act_on_all_cameras(trio: Trio, rgb: NDArray[np.uint8]) -> None:
    """A keyframe for each; off means that no camera is subscribed."""
    rig = trio.rig
    with rig.setting("mode", "warp"), trio.reasons() as reasons:

        def heard() -> bool:
            trio.segment(**{name: rig.picture(rgb) for name in NAMES})
            return {name for name, _ in reasons} == set(NAMES)

        rig.client.wait_for(heard, "stats of all cameras")
        moved = trio.play(rgb, reasons)
        assert keyframe(rig).success
        asked = trio.play(rgb, reasons)
    assert moved == {"the newest full computation, moved to where things are now"}
    assert asked == {"a full frame was asked for"}
    assert enable(rig, on=False).success
    rig.client.wait_for(lambda: trio.readers() == 0, "no subscription")
    assert {status.text for status in trio.statuses().values()} == {"switched off by ~/enable"}
    assert enable(rig, on=True).success
    rig.client.wait_for(lambda: trio.readers() == len(NAMES), "all subscriptions")


@pytest.mark.ros
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["front cam"], "'front cam', which cannot be part of a topic name"),
        (["front", "front"], "'front' twice"),
        ([""], "use letters, digits and _"),
        ("front", "expected a list of names"),
        ([1, 2], "expected a list of names"),
    ],
)
def test_names_that_cannot_be_are_refused(rear: Rig, value: Any, words: str) -> None:
    before = rear.get("cameras")
    assert words in rear.set("cameras", value)
    assert rear.get("cameras") == before
