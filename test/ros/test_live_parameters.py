"""Parameters over DDS: described, ranged, refused with a reason, applied from the next frame."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.config import Config, options
from seg_node.core.pipeline import Segmenter
from seg_node.core.types import Frame
from test.ros.rig import pixels_of, stamp_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from test.ros.rig import Rig

pytestmark = pytest.mark.ros


def test_every_setting_is_declared_with_description_and_range(front: Rig) -> None:
    from rcl_interfaces.srv import DescribeParameters  # noqa: PLC0415 - only where there is ROS

    settings = {option.name: option for option in options(Config())}
    request = DescribeParameters.Request(names=list(settings))
    service = f"{front.name}/describe_parameters"
    found = front.client.call(DescribeParameters, service, request).descriptors
    assert [d.name for d in found] == list(settings)
    for descriptor in found:
        limits = settings[descriptor.name].limits
        assert limits.doc in descriptor.description
        assert "Takes effect" in descriptor.description
        ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
        if limits.low is not None and limits.high is not None:
            assert [(r.from_value, r.to_value) for r in ranges] == [(limits.low, limits.high)]
        for choice in limits.choices:
            assert choice in descriptor.additional_constraints


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("input.scale", 1.5, "input.scale"),
        ("publish.overlay_opacity", -0.1, "publish.overlay_opacity"),
        ("overload", "oldest", "choose one of newest, every"),
        ("input.scale", 1, "type"),
        ("input.scale", "half", "type"),
        ("model", "swiftnet18", "cleanup"),
        ("device", "cpu", "cleanup"),
        ("block_size", 32, "cleanup"),
        ("input.transport", "compressed", "cleanup"),
    ],
)
def test_refusal_says_why_and_changes_nothing(
    front: Rig, name: str, value: Any, reason: str
) -> None:
    before = front.get(name)
    assert reason in front.set(name, value)
    assert front.get(name) == before


def test_setting_for_configure_may_change_after_cleanup(rear: Rig, rgb: NDArray[np.uint8]) -> None:
    """A larger plan shows that the new block size is in use."""
    from sensor_msgs.msg import Image  # noqa: PLC0415

    with rear.setting("block_size", 32):
        rear.bring_to("active")
        message = rear.picture(rgb)
        with rear.listening(Image, "plan") as seen:
            rear.insist(message, lambda: seen, "a plan")
        assert pixels_of(seen[0]).shape == (3, 4)
        rear.bring_to("unconfigured")


def test_blocks_follow_the_live_share(rear: Rig, rgb: NDArray[np.uint8]) -> None:
    """Mode and share change from the next frame on; ~/plan shows the grid, ~/stats the cost."""
    from sensor_msgs.msg import Image  # noqa: PLC0415

    def plan_of(fraction: float) -> tuple[list[int], float]:
        assert rear.set("policy.high_fraction", fraction) == ""
        message = rear.picture(rgb)
        with rear.listening(Image, "plan") as seen:
            rear.insist(message, lambda: seen, "a plan")
        return sorted(pixels_of(seen[-1]).ravel().tolist()), float(
            rear.stats(stamp_of(seen[-1]))["gmac"]
        )

    with rear.setting("policy.score", "heuristic"), rear.setting("policy.high_fraction", 0.2):
        rear.bring_to("active")
        with rear.setting("mode", "segblocks"):
            half, half_cost = plan_of(0.5)
            quarter, quarter_cost = plan_of(0.25)
        rear.bring_to("unconfigured")
    assert half == [1, 1, 2, 2]
    assert quarter == [1, 1, 1, 2]
    assert quarter_cost < half_cost


def test_mode_without_a_policy_is_refused_with_the_fix(rear: Rig, rgb: NDArray[np.uint8]) -> None:
    """The model of this rig has no learned policy; the node goes on in its mode."""
    rear.bring_to("active")
    assert "policy.score" in rear.set("mode", "segblocks")
    assert rear.get("mode") == "dense"
    rear.segment(rear.picture(rgb))
    rear.bring_to("unconfigured")


def test_block_size_must_be_a_multiple_of_32(rear: Rig) -> None:
    assert "multiple of 32" in rear.set("block_size", 40)


def test_scale_applies_from_the_next_frame(
    front: Rig, rgb: NDArray[np.uint8], segmenter: Segmenter
) -> None:
    """Masks keep the image's size; the cost falls."""
    full = front.picture(rgb)
    front.segment(full)
    half = Segmenter(
        segmenter._executor.net,
        segmenter.policies,
        Config(mode="dense").updated({"input.scale": 0.5}),
    )
    with front.setting("input.scale", 0.5):
        message = front.picture(rgb)
        mask = front.segment(message)
    np.testing.assert_array_equal(pixels_of(mask), half.step(Frame(rgb)).labels)
    cost = [float(front.stats(stamp_of(m))["gmac"]) for m in (message, full)]
    assert cost[0] < 0.5 * cost[1]


def test_overlay_rate_is_a_limit(front: Rig, rgb: NDArray[np.uint8]) -> None:
    """At one per 1000 s only the first of several frames has an overlay; at 0 every one has."""
    from sensor_msgs.msg import Image  # noqa: PLC0415

    with front.listening(Image, "overlay") as seen:
        with front.setting("publish.overlay_rate_hz", 0.0):
            message = front.picture(rgb)
            front.insist(message, lambda: seen, "an overlay")
        with front.setting("publish.overlay_rate_hz", 0.001):
            before = len(seen)
            for _ in range(3):
                front.segment(front.picture(rgb))
        with front.setting("publish.overlay_rate_hz", 0.0):
            last = front.picture(rgb)
            front.insist(last, lambda: stamp_of(seen[-1]) == stamp_of(last), "an overlay")
    assert {stamp_of(m) for m in seen[before:]} <= {stamp_of(message), stamp_of(last)}
