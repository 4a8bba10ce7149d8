"""Builds each outgoing message in one small function; every one keeps the input's header."""

from __future__ import annotations

import json
from typing import Any, TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from seg_node.core.stats import frame_values, NS_PER_MS
from seg_node.core.types import IGNORE_LABEL
from seg_node.data.compressed_images import encode_png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from seg_node.core.types import ClassInfo, Frame, StepResult


def make_header(frame: Frame) -> Any:
    """Return the header that the image came with."""
    header = Header()
    header.stamp.sec, header.stamp.nanosec = divmod(frame.stamp_ns, 1_000_000_000)
    header.frame_id = frame.frame_id
    return header


def make_image(header: Any, pixels: NDArray[Any], encoding: str) -> Any:
    """Return a sensor_msgs/Image of [H, W] or [H, W, C] pixels, rows unpadded."""
    pixels = np.ascontiguousarray(pixels)
    message = Image()
    message.header = header
    message.height, message.width = pixels.shape[:2]
    message.encoding = encoding
    message.step = pixels.strides[0]
    # Assigning `data` copies byte by byte on some distributions; filling it in place never does.
    message.data.frombytes(pixels.data.cast("B"))
    return message


def make_png(header: Any, labels: NDArray[np.uint8]) -> Any:
    """Return a sensor_msgs/CompressedImage of class ids; PNG, because JPEG would change ids."""
    message = CompressedImage()
    message.header = header
    message.format = "mono8; png compressed mono8"
    message.data.frombytes(encode_png(labels))
    return message


def make_legend(classes: Sequence[ClassInfo]) -> Any:
    """Return the classes as JSON in a std_msgs/String: id, name and RGB colour of each."""
    entries = [{"id": i, "name": c.name, "color": c.color} for i, c in enumerate(classes)]
    return String(data=json.dumps({"classes": entries, "ignore": IGNORE_LABEL}))


def make_label_info(header: Any, classes: Sequence[ClassInfo]) -> Any:
    """Return vision_msgs/LabelInfo.

    Raises:
        ImportError: vision_msgs is not installed.

    """
    from vision_msgs.msg import LabelInfo, VisionClass  # noqa: PLC0415 - not on every machine

    message = LabelInfo(header=header, threshold=0.5)
    message.class_map = [VisionClass(class_id=i, class_name=c.name) for i, c in enumerate(classes)]
    return message


def make_status(
    name: str, hardware_id: str, level: bytes, text: str, values: Mapping[str, object]
) -> Any:
    """Return one diagnostic_msgs/DiagnosticStatus; floats are written with three decimals."""
    pairs = [
        KeyValue(key=k, value=f"{v:.3f}" if isinstance(v, float) else str(v))
        for k, v in values.items()
    ]
    return DiagnosticStatus(
        name=name, hardware_id=hardware_id, level=level, message=text, values=pairs
    )


def make_stats(header: Any, node: str, result: StepResult, extra: Mapping[str, object]) -> Any:
    """Return what one frame cost as a DiagnosticArray with the image's header."""
    values = {**frame_values(result), **extra}
    report = result.report
    text = f"{result.plan.reason.value}: {report.total_ns / NS_PER_MS:.1f} ms"
    status = make_status(
        f"{node}: frame", frame_hardware(header), DiagnosticStatus.OK, text, values
    )
    return DiagnosticArray(header=header, status=[status])


def frame_hardware(header: Any) -> str:
    """Return the hardware id of a camera: its frame id, or 'camera' if it has none."""
    return str(header.frame_id) or "camera"
