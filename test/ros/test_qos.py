"""Every camera and every reader of masks matches, whatever their quality of service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from test.ros.rig import Rig

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("camera_reliable", [True, False])
@pytest.mark.parametrize("reader_reliable", [True, False])
def test_any_camera_reaches_any_reader(
    front: Rig, rgb: NDArray[np.uint8], *, camera_reliable: bool, reader_reliable: bool
) -> None:
    from sensor_msgs.msg import Image  # noqa: PLC0415 - only where there is ROS

    message = front.picture(rgb)
    topic = f"{front.name}/mask"
    with front.client.listening(Image, topic, reliable=reader_reliable) as masks:
        front.insist(message, lambda: masks, "a mask", reliable=camera_reliable)
    assert masks[0].header == message.header


def test_overrides_change_the_named_topic_and_no_other(rear: Rig, rgb: NDArray[np.uint8]) -> None:
    from rclpy.qos import ReliabilityPolicy  # noqa: PLC0415

    rear.bring_to("active")
    rear.segment(rear.picture(rgb))
    node = rear.client.node
    (image,) = node.get_subscriptions_info_by_topic(rear.image)
    (camera_info,) = node.get_subscriptions_info_by_topic("/rear/camera_info")
    assert image.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert camera_info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    found = {
        name: node.get_publishers_info_by_topic(f"{rear.name}/{name}")[0].qos_profile.reliability
        for name in ("mask", "confidence", "age", "plan", "stats")
    }
    assert found.pop("confidence") == ReliabilityPolicy.BEST_EFFORT
    assert set(found.values()) == {ReliabilityPolicy.RELIABLE}
