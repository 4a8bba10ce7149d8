"""The records that pass between stages, the words of the project, and its errors.

Shape legend, used in every docstring: N batch, C channels, H, W input pixels, h, w feature
pixels, gh, gw blocks, B block side in input pixels. Times are int nanoseconds (`_ns`) in
records, float seconds (`_s`) in controllers, milliseconds (`_ms`) only at the human edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

IGNORE_LABEL = 255
"""Label value of a pixel without a class: void in labels, never produced in a mask."""


class SegNodeError(Exception):
    """Base of every error that this package raises on purpose; its text names the fix."""


class ConfigError(SegNodeError):
    """A parameter has a value that it may not have."""


class ModelError(SegNodeError):
    """A model is unknown, damaged, or does not fit what was asked of it."""


class DataError(SegNodeError):
    """A dataset, bag, video or label file cannot be used as asked."""


class DeviceMemoryError(SegNodeError):
    """A frame does not fit into the memory of the device; it has no mask, the stream goes on."""


class ImageError(DataError):
    """One image cannot be used; its frame is dropped and counted, the stream goes on.

    Attributes:
        topic: where the image came from, empty if unknown.
        encoding: the encoding as the message states it.
        width: the width as the message states it, in pixels.
        height: the height as the message states it, in pixels.

    """

    def __init__(
        self, problem: str, *, topic: str = "", encoding: str = "", width: int = 0, height: int = 0
    ) -> None:
        """Compose one sentence of origin, image and problem."""
        origin = f" on {topic}" if topic else ""
        super().__init__(f"image{origin} (encoding {encoding!r}, {width}x{height}): {problem}")
        self.topic = topic
        self.encoding = encoding
        self.width = width
        self.height = height


class Action(IntEnum):
    """What is done for one block of one frame."""

    REUSE = 0
    LOW = 1
    HIGH = 2


class Reason(Enum):
    """Why a frame's plan is what it is."""

    DENSE = "dense mode computes every block"
    BLOCKS = "the policy's share of the blocks at full resolution, the others at half"
    MOVED = "the newest full computation, moved to where things are now"
    SHARPENED = "half resolution, sharpened by the newest full computation"
    REFRESHED = "the blocks that are worth it within the budget, the others moved from before"
    GATED = "gated modules where the image changed, elsewhere their results moved from before"
    INTERVAL = "keyframe_interval frames have passed since the newest full computation"
    AGE = "the newest full computation would be older than max_age_ms"
    ASKED = "a full frame was asked for"
    FIRST = "there is no earlier frame"
    SCENE_CUT = "the scene was cut: the earlier frame, moved, does not explain this one"
    GAP = "time jumped: backwards, or too far ahead to follow the motion"
    CAMERA = "the image's size, frame_id or camera is another one"
    NO_VECTORS = "the stream carries no motion vectors for this frame"
    INTRA = "the codec coded the whole frame anew"
    DROPPED = "the motion vectors refer to a frame that was dropped"
    MEMORY = "memory of the device is short: half resolution, nothing remembered"


@dataclass(frozen=True)
class Motion:
    """Where the content of a frame was in an earlier frame of the same camera.

    Attributes:
        flow: backward flow (x, y), float32 [h, w, 2], in pixels of this array: what is at p was
            at p + flow(p). The array covers the whole image, at its size or coarser; corner
            pixels lie on corner pixels (`align_corners=True`).
        valid: where the flow is known, bool [h, w]; elsewhere the content was outside the earlier
            image or hidden in it, or was coded anew.
        intra: where a codec coded the content anew instead of moving it, bool [h, w]; never valid.
            None where no codec is involved.
        since_ns: stamp of the earlier frame.

    """

    flow: NDArray[np.float32]
    valid: NDArray[np.bool_]
    intra: NDArray[np.bool_] | None = None
    since_ns: int = 0


WARM_UP_CAMERA = "warm-up"
"""Camera of frames that prepare the machine; they say nothing of what real cameras need."""


@dataclass(frozen=True)
class Frame:
    """One camera image.

    Attributes:
        image: RGB, uint8 [H, W, 3].
        stamp_ns: header stamp in nanoseconds.
        frame_id: coordinate frame of the camera, copied to every output.
        camera: name of the camera; memory is kept per camera.
        motion: motion since the frame before, where the stream carries it, as video codecs do.

    """

    image: NDArray[np.uint8]
    stamp_ns: int = 0
    frame_id: str = ""
    camera: str = ""
    motion: Motion | None = None

    def __post_init__(self) -> None:
        """Refuse anything but uint8 [H, W, 3] with at least one pixel.

        Raises:
            ImageError: the image has another shape or type.

        """
        image = self.image
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:  # noqa: PLR2004 - RGB
            msg = f"expected a uint8 array [H, W, 3], got {image.dtype} {list(image.shape)}"
            raise ImageError(msg, topic=self.camera)


@dataclass(frozen=True)
class Plan:
    """What will be computed for one frame.

    Attributes:
        grid: `Action` per block, uint8 [gh, gw].
        reason: why this plan was chosen.
        fits: whether it keeps the budget; False where even the cheapest plan that is allowed
            costs more.
        predicted_ns: what a step is expected to take; None where the mode does not predict.
        distortion: mean error of the remembered image, moved, in levels 0..255; None where nothing
            is remembered.
        gates: which gated stages of the network are computed where, bool
            [G, gh, gw], in the order in which they run; None in modes without gates.

    """

    grid: NDArray[np.uint8]
    reason: Reason
    fits: bool = True
    predicted_ns: int | None = None
    distortion: float | None = None
    gates: NDArray[np.bool_] | None = None

    @property
    def high(self) -> int:
        """Number of HIGH blocks."""
        return int(np.count_nonzero(self.grid == Action.HIGH))

    def fraction(self, action: Action) -> float:
        """Return the share (0..1) of blocks with this action."""
        return float(np.count_nonzero(self.grid == action) / self.grid.size)


@dataclass(frozen=True)
class MemoryUse:
    """What a step took of the memory of its device.

    Attributes:
        peak_bytes: the most that was allocated there during the step; on a CPU, which does not
            tell, the most that was remembered.
        held_bytes: what is remembered after it of earlier frames, of all cameras.
        short: times since the start that memory was short.
        lost: frames since the start that got no mask because of it.
        left_out: what is left out for now because of it; empty for nothing.

    """

    peak_bytes: int
    held_bytes: int
    short: int = 0
    lost: int = 0
    left_out: str = ""


@dataclass(frozen=True)
class StepReport:
    """What one step cost.

    Attributes:
        stage_ns: wall time of each stage, in order of execution.
        total_ns: wall time of the whole step.
        macs: multiply-accumulates executed.
        dense_macs: multiply-accumulates of the dense network on the same frame.
        joules: energy that the machine has used meanwhile; None where nobody measures it.
        memory: what it took of the memory of its device; None where nobody looks.

    """

    stage_ns: Mapping[str, int]
    total_ns: int
    macs: int
    dense_macs: int
    joules: float | None = None
    memory: MemoryUse | None = None


@dataclass(frozen=True)
class StepResult:
    """The outcome of one step.

    Attributes:
        labels: class id per input pixel, uint8 [H, W].
        confidence: probability of that class times 255, uint8 [H, W]; [0, 0] where the result
            came from elsewhere and does not tell it.
        plan: what was computed.
        age_ms: age of the newest full computation behind each block, uint16 [gh, gw].
        report: what it cost.

    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    plan: Plan
    age_ms: NDArray[np.uint16]
    report: StepReport


@dataclass(frozen=True)
class ClassInfo:
    """One class of a model.

    Attributes:
        name: name, as in the data set.
        color: RGB, 0..255, of overlays and legends.

    """

    name: str
    color: tuple[int, int, int]


CAMVID_CLASSES = (
    ClassInfo("Sky", (128, 128, 128)),
    ClassInfo("Building", (128, 0, 0)),
    ClassInfo("Pole", (192, 192, 128)),
    ClassInfo("Road", (128, 64, 128)),
    ClassInfo("Sidewalk", (0, 0, 192)),
    ClassInfo("Tree", (128, 128, 0)),
    ClassInfo("SignSymbol", (192, 128, 128)),
    ClassInfo("Fence", (64, 64, 128)),
    ClassInfo("Car", (64, 0, 128)),
    ClassInfo("Pedestrian", (64, 64, 0)),
    ClassInfo("Bicyclist", (0, 128, 192)),
)
"""The 11 CamVid classes in label order; 255 is void."""
