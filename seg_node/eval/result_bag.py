"""The result bag: all that a run makes of a recording, at the recording's own stamps.

An mcap that Foxglove, rviz and every rosbag2 tool open. Topics are those of the node; pictures
are compressed as `image_transport` does it, masks and confidence without loss.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.core.drawing import overlay
from seg_node.core.plan_drawing import draw_age, draw_plan, picture_width
from seg_node.core.types import IGNORE_LABEL, Plan, Reason
from seg_node.data.bag import BagReader
from seg_node.data.bag_writer import BagWriter
from seg_node.data.compressed_images import compressed_to_rgb, encode_jpeg, encode_png
from seg_node.eval.worst import error_map

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray
    from typing_extensions import Self

    from seg_node.core.config import Config
    from seg_node.core.types import ClassInfo
    from seg_node.data.sources import Sample

IMAGE_TOPIC = "/image/compressed"
MASK_TOPIC = "/segmentation/mask"
CONFIDENCE_TOPIC = "/segmentation/confidence/compressed"
OVERLAY_TOPIC = "/segmentation/overlay/compressed"
PLAN_TOPIC = "/segmentation/plan"
PLAN_PICTURE_TOPIC = "/segmentation/plan/image/compressed"
AGE_TOPIC = "/segmentation/age"
AGE_PICTURE_TOPIC = "/segmentation/age/image/compressed"
REFERENCE_TOPIC = "/segmentation/reference/compressed"
REFERENCE_OVERLAY_TOPIC = "/segmentation/reference/overlay/compressed"
ERROR_TOPIC = "/segmentation/error/compressed"
STATS_TOPIC = "/segmentation/stats"
LEGEND_TOPIC = "/segmentation/legend"

JPEG = "rgb8; jpeg compressed bgr8"
PNG_MONO8 = "mono8; png compressed mono8"
QUALITY = 85
"""JPEG quality of pictures, 0..100."""


@dataclass(frozen=True)
class Stats:
    """What one frame cost, in the words of the node's ~/stats.

    Attributes:
        name: name of the status.
        text: summary.
        values: details.

    """

    name: str
    text: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Made:
    """What was made of a frame, as far as it is known.

    Attributes:
        mask: class ids, uint8 [H, W] of the image's size.
        stats: what it cost.
        plan: what was computed.
        confidence: probability of each pixel's class times 255, uint8 [H, W].
        age_ms: age of the newest full computation behind each block, uint16 [gh, gw].
        reference: what should have come out, uint8 [H, W], 255 = void: the labels, or without
            them what mode `dense` makes of the frame.

    """

    mask: NDArray[np.uint8]
    stats: Stats | None = None
    plan: Plan | None = None
    confidence: NDArray[np.uint8] | None = None
    age_ms: NDArray[np.uint16] | None = None
    reference: NDArray[np.uint8] | None = None


def legend_json(classes: Sequence[ClassInfo]) -> str:
    """Return the classes as the node's ~/legend says them."""
    entries = [{"id": i, "name": c.name, "color": c.color} for i, c in enumerate(classes)]
    return json.dumps({"classes": entries, "ignore": IGNORE_LABEL})


class ResultBag:
    """Writes the bag, frame by frame; use it as a context manager.

    Args:
        path: its folder, which must not exist.
        classes: classes of the masks, in label order.
        colors: RGB per label, uint8 [256, 3].
        config: settings that the frames are segmented with.

    Raises:
        DataError: it cannot be written.

    """

    def __init__(
        self,
        path: Path,
        classes: Sequence[ClassInfo],
        colors: NDArray[np.uint8],
        config: Config,
    ) -> None:
        """Open the bag."""
        # Masks and plans as they are shrink to a hundredth.
        self._bag = BagWriter(path, compression="chunk")
        self._classes = classes
        self._colors = colors
        self._opacity = config.publish.overlay_opacity
        self._side_in = config.shown_side
        self._max_age_ms = config.max_age_ms
        self._empty = True

    def write(self, sample: Sample, made: Made, blended: NDArray[np.uint8]) -> None:
        """Write everything about one frame.

        Args:
            sample: the frame.
            made: what was made of it.
            blended: the mask over the image, RGB uint8 [H, W, 3].

        Raises:
            DataError: writing fails, or plan or ages do not cover the image.

        """
        frame = sample.frame
        times: dict[str, Any] = {
            "stamp_ns": frame.stamp_ns,
            "receive_ns": frame.stamp_ns if sample.receive_ns is None else sample.receive_ns,
        }
        if self._empty:
            text = legend_json(self._classes)
            receive_ns = times["receive_ns"]
            self._bag.write_string(LEGEND_TOPIC, text, receive_ns=receive_ns, latched=True)
            self._empty = False
        framed = {**times, "frame_id": frame.frame_id}
        for topic, array in self._raw(made):
            self._bag.write_image(topic, array, **framed)
        for topic, picture in self._pictures(frame.image, made, blended):
            self._bag.write_compressed(topic, encode_jpeg(picture, QUALITY), JPEG, **framed)
        for topic, labels in self._lossless(made):
            self._bag.write_compressed(topic, encode_png(labels), PNG_MONO8, **framed)
        if made.stats is not None:
            hardware = frame.frame_id or "camera"
            name, text, values = made.stats.name, made.stats.text, made.stats.values
            self._bag.write_diagnostics(STATS_TOPIC, name, hardware, 0, text, values, **times)

    def __enter__(self) -> Self:
        """Return itself; the constructor has opened the bag."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the bag, whatever ended the body, so that it can be read."""
        self._bag.close()

    @staticmethod
    def _raw(made: Made) -> Generator[tuple[str, NDArray[Any]]]:
        yield MASK_TOPIC, made.mask
        if made.plan is not None:
            yield PLAN_TOPIC, made.plan.grid
        if made.age_ms is not None:
            yield AGE_TOPIC, made.age_ms

    @staticmethod
    def _lossless(made: Made) -> Generator[tuple[str, NDArray[np.uint8]]]:
        if made.confidence is not None:
            yield CONFIDENCE_TOPIC, made.confidence
        if made.reference is not None:
            yield REFERENCE_TOPIC, made.reference

    def _pictures(
        self, image: NDArray[np.uint8], made: Made, blended: NDArray[np.uint8]
    ) -> Generator[tuple[str, NDArray[np.uint8]]]:
        width, side = picture_width(image.shape[1]), self._side_in(image)
        yield IMAGE_TOPIC, image
        yield OVERLAY_TOPIC, blended
        if made.plan is not None:
            yield PLAN_PICTURE_TOPIC, draw_plan(image, made.plan, side, width=width)
        if made.age_ms is not None:
            picture = draw_age(image, made.age_ms, self._max_age_ms, side, width=width)
            yield AGE_PICTURE_TOPIC, picture
        if made.reference is not None:
            shown = overlay(image, made.reference, self._colors, self._opacity)
            yield REFERENCE_OVERLAY_TOPIC, shown
            yield ERROR_TOPIC, error_map(image, made.reference, made.mask)


def read_made(path: Path) -> Generator[Made]:
    """Yield what a result bag holds of each frame, in order.

    The bag is open until the iterator ends or is closed.

    Raises:
        DataError: the bag cannot be read.

    """
    with BagReader(path) as bag:
        there = [topic.name for topic in bag.topics if topic.name in _READ]
        frame: dict[str, Any] = {}
        stamp: tuple[int, int] | None = None
        for item in bag.messages(there):
            header = item.message.header
            own = (header.stamp.sec, header.stamp.nanosec)
            # Labels of single frames only: what is there of a frame is told by the next one.
            if frame and (own != stamp or item.topic in frame):
                yield _made(frame)
                frame = {}
            stamp = own
            frame[item.topic] = item.message
        if frame:
            yield _made(frame)


_READ = (MASK_TOPIC, STATS_TOPIC, PLAN_TOPIC, CONFIDENCE_TOPIC, AGE_TOPIC, REFERENCE_TOPIC)


def _made(messages: Mapping[str, Any]) -> Made:
    stats = _stats(messages[STATS_TOPIC]) if STATS_TOPIC in messages else None
    plan = None
    if PLAN_TOPIC in messages and stats is not None:
        plan = Plan(_array(messages[PLAN_TOPIC], np.uint8), Reason(stats.values["reason"]))
    planes = {
        topic: compressed_to_rgb(messages[topic])[:, :, 0]
        for topic in (CONFIDENCE_TOPIC, REFERENCE_TOPIC)
        if topic in messages
    }
    return Made(
        mask=_array(messages[MASK_TOPIC], np.uint8),
        stats=stats,
        plan=plan,
        confidence=planes.get(CONFIDENCE_TOPIC),
        age_ms=_array(messages[AGE_TOPIC], np.uint16) if AGE_TOPIC in messages else None,
        reference=planes.get(REFERENCE_TOPIC),
    )


def _array(message: Any, dtype: type[np.generic]) -> Any:
    """Return the pixels [H, W] of a message that `ResultBag` wrote."""
    little = np.dtype(dtype).newbyteorder("<")
    return message.data.view(little).reshape(message.height, message.width).astype(dtype)


def _stats(array: Any) -> Stats:
    (status,) = array.status
    return Stats(status.name, status.message, {item.key: item.value for item in status.values})
