"""Outputs beside mask and stats: what they carry once somebody listens."""

from __future__ import annotations

import json
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.core.types import CAMVID_CLASSES
from test.ros.rig import pixels_of, stamp_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from test.ros.rig import Rig

pytestmark = pytest.mark.ros


def test_compressed_mask_decodes_to_the_exact_mask(front: Rig, rgb: NDArray[np.uint8]) -> None:
    """It is a PNG: JPEG would make class ids up."""
    from sensor_msgs.msg import CompressedImage  # noqa: PLC0415 - only where there is ROS

    message = front.picture(rgb)
    with front.listening(CompressedImage, "mask/compressed") as seen:
        front.insist(message, lambda: seen, "a compressed mask")
    mask = front.segment(message)
    decoded = cv2.imdecode(np.frombuffer(seen[0].data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert "png" in seen[0].format
    assert seen[0].header == message.header
    np.testing.assert_array_equal(decoded, pixels_of(mask))


def test_overlay_blends_class_colours_by_the_opacity(front: Rig, rgb: NDArray[np.uint8]) -> None:
    """Opacity 0 is the image, 1 the colours; a change applies from the next frame."""
    from sensor_msgs.msg import Image  # noqa: PLC0415

    colors = np.array([c.color for c in CAMVID_CLASSES], np.uint8)
    with (
        front.setting("publish.overlay_rate_hz", 0.0),
        front.setting("publish.overlay_opacity", 0.0),
        front.listening(Image, "overlay") as seen,
    ):
        image = front.picture(rgb)
        front.insist(image, lambda: with_stamp(seen, image), "an overlay")
        with front.setting("publish.overlay_opacity", 1.0):
            painted = front.picture(rgb)
            front.insist(painted, lambda: with_stamp(seen, painted), "an overlay")
    labels = pixels_of(front.segment(painted))
    np.testing.assert_array_equal(pixels_of(with_stamp(seen, image)), rgb)
    np.testing.assert_array_equal(pixels_of(with_stamp(seen, painted)), colors[labels])


@pytest.mark.parametrize("name", ["plan/image", "age/image"])
def test_pictures_of_plan_and_age_come_over_the_wire(
    front: Rig, rgb: NDArray[np.uint8], name: str
) -> None:
    """The image, enlarged to a width of 480, with the legend below; mode dense computes all."""
    from sensor_msgs.msg import Image  # noqa: PLC0415

    message = front.picture(rgb)
    with front.listening(Image, name) as seen:
        front.insist(message, lambda: with_stamp(seen, message), f"~/{name}")
    picture = pixels_of(with_stamp(seen, message))
    assert with_stamp(seen, message).encoding == "rgb8"
    assert picture.shape[1:] == (480, 3)
    assert picture.shape[0] > round(rgb.shape[0] * 480 / rgb.shape[1])


def with_stamp(seen: list[Any], message: Any) -> Any:
    """Return the message among those seen that has the stamp of another, None if there is none."""
    return next((m for m in seen if stamp_of(m) == stamp_of(message)), None)


def test_legend_is_there_for_a_late_joiner(front: Rig) -> None:
    from std_msgs.msg import String  # noqa: PLC0415

    with front.listening(String, "legend", latched=True) as seen:
        front.client.wait_for(lambda: seen, "the legend")
    legend = json.loads(seen[0].data)
    assert [entry["name"] for entry in legend["classes"]] == [c.name for c in CAMVID_CLASSES]
    assert [tuple(entry["color"]) for entry in legend["classes"]] == [
        c.color for c in CAMVID_CLASSES
    ]
    assert [entry["id"] for entry in legend["classes"]] == list(range(len(CAMVID_CLASSES)))
    assert legend["ignore"] == 255


def test_label_info_is_there_for_a_late_joiner(front: Rig) -> None:
    vision_msgs = pytest.importorskip("vision_msgs.msg")
    with front.listening(vision_msgs.LabelInfo, "label_info", latched=True) as seen:
        front.client.wait_for(lambda: seen, "label_info")
    classes = {c.class_id: c.class_name for c in seen[0].class_map}
    assert classes == {i: c.name for i, c in enumerate(CAMVID_CLASSES)}


def test_camera_info_follows_the_image(front: Rig, rgb: NDArray[np.uint8]) -> None:
    """The mask's calibration has the mask's header, so that both can be paired."""
    from sensor_msgs.msg import CameraInfo  # noqa: PLC0415

    info = CameraInfo(height=rgb.shape[0], width=rgb.shape[1], distortion_model="plumb_bob")
    info.k[0] = 123.0
    with front.listening(CameraInfo, "camera_info") as seen:
        message = front.picture(rgb)

        def passed() -> Any:
            front.client.publish(info, "/front/camera_info")
            return with_stamp(seen, message)

        front.insist(message, passed, "camera_info")
        passed_on = with_stamp(seen, message)
        assert passed_on.header == message.header
        assert (passed_on.k[0], passed_on.distortion_model) == (123.0, "plumb_bob")

        smaller = front.picture(rgb[:40])
        front.segment(smaller)
        again = front.picture(rgb)
        front.insist(again, lambda: with_stamp(seen, again), "camera_info of the right size")
        assert with_stamp(seen, smaller) is None
    assert front.process is not None
    assert "camera_info is of another size" in front.process.text
