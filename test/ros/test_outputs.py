"""What is published to whom, on a stand-in for the node: no DDS."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from seg_node.core.config import Config
from seg_node.core.plan_drawing import draw_age, draw_plan
from seg_node.core.types import (
    Action,
    CAMVID_CLASSES,
    Frame,
    Plan,
    Reason,
    StepReport,
    StepResult,
)
from seg_node.ros.outputs import Classes, Outputs, PICTURES

ALWAYS = {"mask", "stats"}
LAZY = {"mask/compressed", "confidence", "age", "plan", "camera_info", *PICTURES}


FRAME = Frame(np.full((4, 6, 3), 200, np.uint8), stamp_ns=1_500_000_007, frame_id="camera")
PLAN = Plan(np.full((1, 1), Action.HIGH, np.uint8), Reason.DENSE)
LABELS = np.arange(24, dtype=np.uint8).reshape(4, 6)
AGE_MS = np.full((1, 1), 513, np.uint16)


class Publisher:
    """Counts what is published; has as many readers as it is told."""

    def __init__(self, qos: Any) -> None:
        """Start without readers."""
        self.qos = qos
        self.readers = 0
        self.sent: list[Any] = []

    def publish(self, message: Any) -> None:
        """Take one message."""
        self.sent.append(message)

    def get_subscription_count(self) -> int:
        """Return the number of readers."""
        return self.readers


class StandIn:
    """The methods of a node that `Outputs` uses."""

    def __init__(self) -> None:
        """Start without publishers."""
        self.publishers: dict[str, Publisher] = {}
        self.destroyed: list[Publisher] = []

    def create_lifecycle_publisher(
        self, kind: Any, topic: str, qos: Any, **options: Any
    ) -> Publisher:
        """Create a counting publisher."""
        del kind, options
        made = Publisher(qos)
        self.publishers[topic.removeprefix("~/")] = made
        return made

    def destroy_lifecycle_publisher(self, publisher: Publisher) -> None:
        """Remember what was destroyed."""
        self.destroyed.append(publisher)

    def get_fully_qualified_name(self) -> str:
        """Return a name."""
        return "/segmentation"

    def get_logger(self) -> Any:
        """Return a logger that says nothing."""
        return SimpleNamespace(info=lambda _: None)

    def get_clock(self) -> Any:
        """Return a clock that stands still."""
        from builtin_interfaces.msg import Time  # noqa: PLC0415 - only where there is ROS

        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=Time))


class Bench:
    """Outputs on a stand-in, with one frame to publish.

    Args:
        camera: name of the camera.

    """

    def __init__(self, camera: str = "") -> None:
        """Create the outputs."""
        self.node = StandIn()
        self.warnings: list[str] = []
        self.classes = Classes(self.node, CAMVID_CLASSES)
        self.outputs = Outputs(
            self.node, CAMVID_CLASSES, lambda s, _: self.warnings.append(s), camera
        )

    def listen(self, *names: str) -> None:
        """Give these outputs, and no others, a reader."""
        for name, publisher in self.node.publishers.items():
            publisher.readers = int(name in names)

    def publish(self, camera_info: Any = None, **settings: float) -> None:
        """Publish one frame of 4x6 pixels, of one block."""
        values = {f"publish.{name}": value for name, value in settings.items()}
        config = Config().updated({"publish.overlay_rate_hz": 0.0, **values})
        result = StepResult(LABELS, LABELS, PLAN, AGE_MS, StepReport({}, 1, 1, 1))
        self.outputs.publish(FRAME, result, config, {}, camera_info)

    def sent(self) -> dict[str, int]:
        """Return how many messages each output has sent, zeros left out."""
        return {n: len(p.sent) for n, p in self.node.publishers.items() if p.sent}


@pytest.fixture
def bench() -> Bench:
    """Return fresh outputs."""
    return Bench()


def camera_info(height: int, width: int) -> Any:
    """Return a calibration for images of this size."""
    from sensor_msgs.msg import CameraInfo  # noqa: PLC0415

    return CameraInfo(height=height, width=width)


def test_without_readers_only_mask_and_stats_go_out(bench: Bench) -> None:
    bench.publish(camera_info(4, 6))
    assert set(bench.sent()) == ALWAYS


@pytest.mark.parametrize("name", sorted(LAZY))
def test_an_output_goes_out_as_soon_as_it_has_a_reader(bench: Bench, name: str) -> None:
    bench.listen(name)
    bench.publish(camera_info(4, 6))
    assert set(bench.sent()) == ALWAYS | {name}


def test_every_message_has_the_header_of_the_image(bench: Bench) -> None:
    bench.listen(*LAZY)
    bench.publish(camera_info(4, 6))
    headers = [bench.node.publishers[name].sent[0].header for name in ALWAYS | LAZY]
    assert {(h.stamp.sec, h.stamp.nanosec, h.frame_id) for h in headers} == {
        (1, 500_000_007, "camera")
    }


def test_pixels_arrive_in_the_stated_layout(bench: Bench) -> None:
    bench.listen("age")
    bench.publish()
    mask, age = (bench.node.publishers[name].sent[0] for name in ("mask", "age"))
    assert (mask.height, mask.width, mask.step, mask.encoding) == (4, 6, 6, "mono8")
    assert bytes(mask.data) == bytes(range(24))
    assert (age.encoding, age.step) == ("mono16", 2)
    assert int.from_bytes(bytes(age.data), "big" if age.is_bigendian else "little") == 513


def test_camera_info_of_another_size_is_kept_back_and_told(bench: Bench) -> None:
    bench.listen("camera_info")
    bench.publish(camera_info(4, 7))
    assert "camera_info" not in bench.sent()
    assert bench.warnings == ["camera_info"]


@pytest.mark.parametrize("name", PICTURES)
def test_each_picture_waits_for_its_period(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """At 10 Hz the next one goes out after 100 ms, not after 99; the others do not delay it."""
    now_ns = 10**12
    monkeypatch.setattr("seg_node.ros.outputs.time.monotonic_ns", lambda: now_ns)
    (other, *_) = set(PICTURES) - {name}
    bench.listen(other)
    bench.publish(overlay_rate_hz=10.0)
    bench.listen(name)
    counts = []
    for step_ms in (50, 99, 1):
        now_ns += step_ms * 1_000_000
        bench.publish(overlay_rate_hz=10.0)
        counts.append(bench.sent()[name])
    assert counts == [1, 1, 2]


def test_pictures_of_plan_and_age_are_those_of_the_frame(bench: Bench) -> None:
    """Blocks of 64 pixels at half scale are 128 of the image's."""
    bench.listen("plan/image", "age/image")
    frame = Frame(np.full((128, 256, 3), 200, np.uint8))
    labels = np.zeros((128, 256), np.uint8)
    plan = Plan(np.array([[Action.HIGH, Action.REUSE]], np.uint8), Reason.REFRESHED)
    ages = np.array([[0, 700]], np.uint16)
    result = StepResult(labels, labels, plan, ages, StepReport({}, 1, 1, 1))
    config = Config().updated({"block_size": 64, "input.scale": 0.5, "max_age_ms": 900.0})
    bench.outputs.publish(frame, result, config, {}, None)
    expected = {
        "plan/image": draw_plan(frame.image, plan, 128),
        "age/image": draw_age(frame.image, ages, 900.0, 128),
    }
    assert not bench.warnings
    for name, picture in expected.items():
        (message,) = bench.node.publishers[name].sent
        assert (message.height, message.width, 3) == picture.shape
        assert (message.encoding, message.step) == ("rgb8", 3 * message.width)
        assert bytes(message.data) == picture.tobytes()


def test_a_scale_set_while_a_frame_was_in_work_costs_its_pictures_only(bench: Bench) -> None:
    """The blocks are not where the settings say: told, and the rest of the frame goes out."""
    bench.listen("plan/image", "age/image", "plan")
    grid = np.full((3, 3), Action.HIGH, np.uint8)
    ages = np.zeros((3, 3), np.uint16)
    result = StepResult(LABELS, LABELS, Plan(grid, Reason.DENSE), ages, StepReport({}, 1, 1, 1))
    bench.outputs.publish(FRAME, result, Config(), {}, None)
    assert set(bench.sent()) == ALWAYS | {"plan"}
    assert bench.warnings == ["age/image", "plan/image"]


def test_every_publisher_has_a_profile_of_its_own(bench: Bench) -> None:
    """Rclpy writes the override of one topic into the profile it is given."""
    profiles = [publisher.qos for publisher in bench.node.publishers.values()]
    assert len({id(profile) for profile in profiles}) == len(profiles)


def test_legend_is_announced_and_latched(bench: Bench) -> None:
    from rclpy.qos import DurabilityPolicy  # noqa: PLC0415

    bench.classes.announce()
    legend = bench.node.publishers["legend"]
    assert len(legend.sent) == 1
    assert legend.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL


def test_label_info_is_announced_where_vision_msgs_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the fields of vision_msgs 4: the package is not in every index."""
    messages = SimpleNamespace(LabelInfo=SimpleNamespace, VisionClass=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vision_msgs", SimpleNamespace(msg=messages))
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", messages)
    bench = Bench()
    bench.classes.announce()
    (info,) = bench.node.publishers["label_info"].sent
    found = {c.class_id: c.class_name for c in info.class_map}
    assert found == {i: c.name for i, c in enumerate(CAMVID_CLASSES)}


def test_destroy_destroys_every_publisher_once(bench: Bench) -> None:
    for owner in (bench.outputs, bench.classes) * 2:
        owner.destroy()
    assert sorted(map(id, bench.node.destroyed)) == sorted(map(id, bench.node.publishers.values()))


def test_outputs_of_a_camera_carry_its_name_and_the_classes_do_not() -> None:
    """`~/front/mask` and `~/legend`; `~/front/stats` says whose frame it was."""
    bench = Bench("front")
    bench.publish()
    assert set(bench.sent()) == {f"front/{name}" for name in ALWAYS}
    assert set(bench.node.publishers) == {
        *(f"front/{name}" for name in ALWAYS | LAZY),
        "legend",
    }
    (stats,) = bench.node.publishers["front/stats"].sent
    assert stats.status[0].name == "/segmentation/front: frame"
    assert stats.status[0].hardware_id == "camera"
