"""Masks over DDS: the right pixels and the right header, from every kind of image."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.core.types import Frame
from seg_node.data.compressed_images import compressed_to_rgb, encode_jpeg, encode_png
from seg_node.data.raw_images import image_to_rgb
from test.ros.rig import pixels_of, set_header, stamp_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from seg_node.core.pipeline import Segmenter
    from test.ros.rig import Rig

pytestmark = pytest.mark.ros


def padded_rgb(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    rows = rgb.reshape(len(rgb), -1)
    return rig.picture(np.pad(rows, ((0, 0), (0, 13)), constant_values=255), width=rgb.shape[1])


def bgr(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    return rig.picture(rgb[..., ::-1], "bgr8")


def grey(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    return rig.picture(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), "mono8")


def bayer(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    mosaic = rgb[..., 1].copy()
    mosaic[::2, ::2] = rgb[::2, ::2, 0]
    mosaic[1::2, 1::2] = rgb[1::2, 1::2, 2]
    return rig.picture(mosaic, "bayer_rggb8")


def nv12(rig: Rig, rgb: NDArray[np.uint8]) -> Any:
    height, width = rgb.shape[:2]
    planar = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    chroma = planar[height:].reshape(2, -1).T.reshape(height // 2, width)
    pixels = np.concatenate([planar[:height], chroma])
    return rig.picture(pixels, "nv12", height=height)


@pytest.mark.parametrize("make", [padded_rgb, bgr, grey, bayer, nv12])
def test_mask_equals_the_step_of_this_process(
    front: Rig, rgb: NDArray[np.uint8], segmenter: Segmenter, make: Any
) -> None:
    """Law 6: the node adds nothing to `Segmenter.step`."""
    message = make(front, rgb)
    expected = segmenter.step(Frame(image_to_rgb(message))).labels
    mask = front.segment(message)
    assert mask.encoding == "mono8"
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(pixels_of(mask), expected)


def test_every_output_keeps_the_header(front: Rig, rgb: NDArray[np.uint8]) -> None:
    from sensor_msgs.msg import Image  # noqa: PLC0415 - only where there is ROS

    with (
        front.setting("publish.overlay_rate_hz", 0.0),
        front.listening(Image, "confidence") as confidence,
        front.listening(Image, "overlay") as overlay,
        front.listening(Image, "plan") as plan,
        front.listening(Image, "age") as age,
    ):
        message = front.picture(rgb, frame_id="left_optical")
        planes = (confidence, overlay, plan, age)
        front.insist(message, lambda: all(planes), "all outputs")
        mask = front.segment(message)
        headers = [m[-1].header for m in planes] + [mask.header]
        headers.append(front.stats_header(stamp_of(message)))
    assert headers == [message.header] * 6


def test_planes_have_the_documented_shapes(
    front: Rig, rgb: NDArray[np.uint8], segmenter: Segmenter
) -> None:
    from sensor_msgs.msg import Image  # noqa: PLC0415

    message = front.picture(rgb)
    expected = segmenter.step(Frame(rgb))
    with (
        front.listening(Image, "confidence") as confidence,
        front.listening(Image, "plan") as plan,
        front.listening(Image, "age") as age,
    ):
        front.insist(message, lambda: confidence and plan and age, "all outputs")
    np.testing.assert_array_equal(pixels_of(confidence[-1]), expected.confidence)
    np.testing.assert_array_equal(pixels_of(plan[-1]), expected.plan.grid)
    assert (age[-1].encoding, pixels_of(age[-1]).shape) == ("mono16", expected.age_ms.shape)


def test_stats_tell_what_the_frame_cost(
    front: Rig, rgb: NDArray[np.uint8], segmenter: Segmenter
) -> None:
    message = front.picture(rgb)
    front.segment(message)
    stats = front.stats(stamp_of(message))
    macs = segmenter.step(Frame(rgb)).report.macs
    assert float(stats["gmac"]) == pytest.approx(macs / 1e9, abs=1e-3)
    assert float(stats["step_ms"]) > 0
    assert stats["fraction_high"] == "1.000"


def test_size_may_change_between_frames(
    front: Rig, rgb: NDArray[np.uint8], segmenter: Segmenter
) -> None:
    front.segment(front.picture(rgb))
    before = front.next_status("input").count("size_changes")
    smaller = np.ascontiguousarray(rgb[:50, :70])
    mask = front.segment(front.picture(smaller))
    expected = segmenter.step(Frame(smaller)).labels
    np.testing.assert_array_equal(pixels_of(mask), expected)
    assert front.next_status("input").count("size_changes") == before + 1


@pytest.fixture
def compressed(front_rig: Rig) -> Iterator[Rig]:
    """Return the node with `input.transport` compressed, and put it back afterwards."""
    front_rig.bring_to("unconfigured")
    with front_rig.setting("input.transport", "compressed"):
        front_rig.bring_to("active")
        yield front_rig
        front_rig.bring_to("unconfigured")


def test_compressed_images_come_in_beside_the_remapped_topic(
    compressed: Rig, rgb: NDArray[np.uint8], segmenter: Segmenter
) -> None:
    """Remapping image to /front/image_raw moves this to /front/image_raw/compressed."""
    from sensor_msgs.msg import CompressedImage  # noqa: PLC0415

    for text, data in (
        ("rgb8; jpeg compressed bgr8", encode_jpeg(rgb)),
        ("png", encode_png(rgb)),
    ):
        message = CompressedImage(format=text)
        message.data.frombytes(data)
        set_header(message, compressed.next_stamp(), "camera")
        expected = segmenter.step(Frame(compressed_to_rgb(message))).labels
        np.testing.assert_array_equal(pixels_of(compressed.segment(message)), expected)
