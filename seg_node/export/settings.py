"""What is asked of an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SIDES = (16, 8192)
"""Smallest and largest side of an image, in pixels."""
OPSETS = (18, 23)
"""Oldest and newest ONNX operator set: torch's exporter begins with the one, and ONNX Runtime for
Python 3.10 ends with the other."""
BATCHES = (1, 64)
"""Fewest and most images of one run."""
FORMATS = ("onnx", "pt2", "aoti", "tensorrt")
PRECISIONS = ("fp32", "fp16")
IMAGES = ("uint8", "float32")
DYNAMIC = ("", "batch", "size")


@dataclass(frozen=True)
class ExportSettings:
    """What is asked of an export.

    Attributes:
        model: a shipped model's name, or the path of a manifest.
        out: folder to write to; made if it is not there.
        size: (width, height) of the images in pixels; None for those it was trained on.
        parts: which of `parts.PARTS`; none for all that the model has.
        formats: which of `FORMATS`.
        precision: `fp32`, or `fp16`: weights and features in half precision.
        opset: ONNX operator set.
        dynamic: `batch` leaves the number of images open, `size` also their size; empty for
            neither.
        image: type of the images' numbers, 0..255 in both: `uint8` or `float32`.
        batch: images of one run, where their number is not left open.

    """

    model: str
    out: Path
    size: tuple[int, int] | None = None
    parts: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("onnx",)
    precision: str = "fp32"
    opset: int = OPSETS[0]
    dynamic: str = ""
    image: str = "uint8"
    batch: int = 1

    def check(self) -> None:
        """Refuse values that are out of range.

        Raises:
            ConfigError: one is; the text names it and what is allowed.

        """
        _among("precision", self.precision, PRECISIONS)
        _among("image", self.image, IMAGES)
        _among("dynamic", self.dynamic, DYNAMIC)
        for name in self.formats:
            _among("format", name, FORMATS)
        for side in self.size or ():
            _within("side of the images", side, SIDES)
        _within("opset", self.opset, OPSETS)
        _within("batch", self.batch, BATCHES)
        if self.dynamic and self.batch > 1:
            msg = f"batch is {self.batch}, but dynamic {self.dynamic!r} leaves it open: choose one"
            raise ConfigError(msg)
        if self.dynamic and "tensorrt" in self.formats:
            msg = f"dynamic is {self.dynamic!r}, but TensorRT engines have one shape: leave it out"
            raise ConfigError(msg)


def _among(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        msg = f"{name} is {value!r}; choose one of {', '.join(filter(None, allowed))}"
        raise ConfigError(msg)


def _within(name: str, value: int, bounds: tuple[int, int]) -> None:
    if not bounds[0] <= value <= bounds[1]:
        msg = f"{name} is {value}; allowed are {bounds[0]} to {bounds[1]}"
        raise ConfigError(msg)
