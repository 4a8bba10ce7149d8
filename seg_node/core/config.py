"""Every setting of the pipeline and the node, declared once: default, meaning, unit, range.

ROS parameters, launch presets, the command line and the documentation derive from here. A
setting is `live` (applies from the next frame) or applies when the node is configured.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
import math
import re
from typing import Any, TYPE_CHECKING

from seg_node.core.sides import LARGEST, side_for
from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

Value = bool | int | float | str | tuple[str, ...]

MOTION_SOURCES = ("auto", "codec", "flow", "none")
"""Where motion may come from; see `MotionConfig.source`."""

CAMERA_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")
"""A camera's name becomes a part of topic names; this is what ROS 2 allows there."""


@dataclass(frozen=True)
class Limits:
    """What one setting means and may be.

    Attributes:
        doc: meaning, one sentence.
        unit: unit of the value; empty for choices, counts and fractions.
        low: smallest allowed value, inclusive.
        high: largest allowed value, inclusive.
        choices: allowed values of a closed choice; empty if open.
        live: True if a change applies from the next frame, False if on configure.

    """

    doc: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = True

    def check(self, name: str, value: Value) -> None:
        """Refuse a value that is out of range.

        Raises:
            ConfigError: names the setting, the value and what is allowed.

        """
        if self.choices and value not in self.choices:
            msg = f"{name} is {value!r}; choose one of {', '.join(self.choices)}"
            raise ConfigError(msg)
        if isinstance(value, str | tuple) or self.low is None or self.high is None:
            return
        if not (math.isfinite(value) and self.low <= value <= self.high):
            unit = f" {self.unit}" if self.unit else ""
            msg = f"{name} is {value}{unit}; allowed are {self.low} to {self.high}{unit}"
            raise ConfigError(msg)


def _setting(default: Value, limits: Limits) -> Any:
    return field(default=default, metadata={"limits": limits})


@dataclass(frozen=True)
class InputConfig:
    """How images come in."""

    transport: str = _setting(
        "raw",
        Limits(
            "Message type of the image topic: raw sensor_msgs/Image, compressed "
            "sensor_msgs/CompressedImage (jpeg, png, h264, h265) on <image>/compressed, ffmpeg "
            "FFMPEGPacket on <image>/ffmpeg, or foxglove CompressedVideo on <image>/foxglove.",
            choices=("raw", "compressed", "ffmpeg", "foxglove"),
            live=False,
        ),
    )
    converter: str = _setting(
        "auto",
        Limits(
            "Who converts raw images: cv_bridge, the built-in converter, or auto (cv_bridge "
            "where it imports and passes a self-check, else the built-in).",
            choices=("auto", "cv_bridge", "builtin"),
            live=False,
        ),
    )
    scale: float = _setting(
        1.0,
        Limits(
            "Side of the network's input relative to the image; 0.5 costs a quarter. Masks are "
            "published at the image's own size.",
            low=0.05,
            high=1.0,
        ),
    )
    stale_s: float = _setting(
        1.0,
        Limits("Without an image for this long, diagnostics say stale.", "s", 0.05, 3600.0),
    )


@dataclass(frozen=True)
class PolicyConfig:
    """How blocks are ranked in mode segblocks."""

    score: str = _setting(
        "learned",
        Limits(
            "What ranks the blocks: learned (the model's policy network), heuristic (what "
            "shrinking the image loses), middle (rows near the middle), or random.",
            choices=("learned", "heuristic", "middle", "random"),
            live=False,
        ),
    )
    high_fraction: float = _setting(
        0.2,
        Limits(
            "Share of the blocks that are computed at full resolution, those ranked highest.",
            low=0.0,
            high=1.0,
        ),
    )


@dataclass(frozen=True)
class MotionConfig:
    """How remembered features find to where things are now."""

    source: str = _setting(
        "auto",
        Limits(
            "Where motion comes from: codec (the vectors of a compressed video), flow (estimated "
            "from the images), none (as if nothing moved), or auto (codec where the stream "
            "carries vectors, else flow).",
            choices=MOTION_SOURCES,
        ),
    )
    estimator: str = _setting(
        "auto",
        Limits(
            "What estimates motion from images: dis (OpenCV on the CPU), matching (where frames "
            "are computed), or auto (matching on a CUDA device with kernels triton, else dis).",
            choices=("auto", "dis", "matching"),
            live=False,
        ),
    )


@dataclass(frozen=True)
class BudgetConfig:
    """What a frame of mode adaptive may cost."""

    latency_ms: float = _setting(
        0.0,
        Limits(
            "Time that a frame of mode adaptive may take on average, from image to mask; 0: "
            "budget.compute counts instead.",
            "ms",
            0.0,
            10000.0,
        ),
    )
    compute: float = _setting(
        0.3,
        Limits(
            "Share of the dense network's multiply-accumulates that a frame of mode adaptive may "
            "cost on average; not used where budget.latency_ms is set.",
            low=0.0,
            high=1.0,
        ),
    )


@dataclass(frozen=True)
class ReuseConfig:
    """What mode adaptive leaves as it was."""

    threshold: float = _setting(
        0.1,
        Limits(
            "Blocks below it are not computed anew before they are due by age: difference of the "
            "image from that of their computation, in levels 0..255 beyond the noise, times the "
            "uncertainty of their result, 0.03 to 1.",
            low=0.0,
            high=255.0,
        ),
    )


@dataclass(frozen=True)
class GateConfig:
    """What the gates of mode stmg drop."""

    threshold: float = _setting(
        0.5,
        Limits(
            "A gated part of the network is left out where it scores below it, and what it made "
            "before is reused; 0 computes everything, 1 only what is due by age.",
            low=0.0,
            high=1.0,
        ),
    )


@dataclass(frozen=True)
class PublishConfig:
    """What goes out beside mask and stats."""

    overlay_opacity: float = _setting(
        0.5, Limits("Weight of class colours over the image in ~/overlay.", low=0.0, high=1.0)
    )
    overlay_rate_hz: float = _setting(
        10.0,
        Limits(
            "Most pictures per second on each of ~/overlay, ~/plan/image and ~/age/image, to "
            "spare the network; 0 = all.",
            "Hz",
            0.0,
            1000.0,
        ),
    )


@dataclass(frozen=True)
class Config:
    """All settings; names of nested stages join with a dot, such as `input.scale`."""

    model: str = _setting(
        "swiftnet18-half",
        Limits("Name of a shipped model, or path of a manifest (*.json).", live=False),
    )
    device: str = _setting(
        "auto",
        Limits(
            "Where to compute: auto (GPU if there is one), cpu, cuda, cuda:N, or tensorrt (modes "
            "dense, warp and arseg on the GPU, whole frames by the engines in engines).",
            live=False,
        ),
    )
    engines: str = _setting(
        "out/export",
        Limits(
            "Folder of the engines of device tensorrt, as seg_node export --formats tensorrt "
            "writes them.",
            live=False,
        ),
    )
    precision: str = _setting(
        "auto",
        Limits(
            "Number format of the network: auto (fp16 on GPU, fp32 on CPU), fp32, bf16, fp16.",
            choices=("auto", "fp32", "bf16", "fp16"),
            live=False,
        ),
    )
    kernels: str = _setting(
        "auto",
        Limits(
            "What computes blocks: triton (fused kernels for CUDA devices), torch (any device), "
            "or auto (triton on a CUDA device where it is installed, else torch).",
            choices=("auto", "triton", "torch"),
            live=False,
        ),
    )
    graphs: str = _setting(
        "auto",
        Limits(
            "Whether networks run as CUDA graphs, without gaps between launches, on whole frames "
            "and, with kernels triton, on blocks: auto (on a CUDA device), on (refused on a CPU), "
            "or off.",
            choices=("auto", "on", "off"),
            live=False,
        ),
    )
    threads: int = _setting(
        0,
        Limits("CPU threads of the network; 0 = as torch chooses.", low=0, high=1024, live=False),
    )
    memory_limit_mb: float = _setting(
        0.0,
        Limits(
            "Most memory of the device, in 10^6 bytes: on a GPU all that torch takes there, on a "
            "CPU what is remembered of earlier frames. Where it is short, less is computed and "
            "remembered, as diagnostics tell. 0: what there is.",
            "MB",
            0.0,
            1e6,
        ),
    )
    block_size: int = _setting(
        0,
        Limits(
            "Side of a block of the plan, a multiple of 32; where blocks are computed at half "
            "resolution, a multiple of twice the network's largest stride (64 for the shipped). "
            "0: 64 in mode segblocks, a third of the image's shorter side and at least 128 in "
            "stmg, else 128.",
            "px",
            0,
            LARGEST,
            live=False,
        ),
    )
    block_buckets: int = _setting(
        0,
        Limits(
            "The number of blocks that a frame computes is rounded up to one of so many, by "
            "computing its last block again, so that few shapes occur; 0: of 32 where blocks run "
            "as CUDA graphs, else it is any number.",
            low=0,
            high=1024,
            live=False,
        ),
    )
    cameras: tuple[str, ...] = _setting(
        (),
        Limits(
            "Names of several cameras of one node, such as [front, left]: images come from "
            "<name>/image and <name>/camera_info, results go to ~/<name>/mask and so on. Empty: "
            "one camera, image and camera_info to ~/mask and so on.",
            live=False,
        ),
    )
    mode: str = _setting(
        "adaptive",
        Limits(
            "How the compute of a frame is chosen: dense computes all of it; segblocks computes "
            "policy.high_fraction of the blocks at full and the others at half resolution; warp "
            "computes every keyframe_interval-th frame and moves its result to the frames "
            "between; arseg computes those at half resolution, sharpened by what was moved; "
            "stmg leaves out residual blocks of the network and convolutions of its decoder where "
            "little changed, and reuses what they made; adaptive computes in each frame the "
            "blocks that are worth it within the budget.",
            choices=("dense", "segblocks", "warp", "arseg", "stmg", "adaptive"),
        ),
    )
    keyframe_interval: int = _setting(
        12,
        Limits(
            "In modes warp and arseg one of so many frames is computed in full.",
            "frames",
            low=1,
            high=1000,
        ),
    )
    max_age_ms: float = _setting(
        2000.0,
        Limits(
            "No pixel of a mask rests on a full computation that is older; a frame is computed "
            "in full before.",
            "ms",
            0.0,
            60000.0,
        ),
    )
    overload: str = _setting(
        "newest",
        Limits(
            "When frames arrive faster than they are processed: newest drops the older ones, "
            "every queues them all (for replay, never while driving).",
            choices=("newest", "every"),
        ),
    )
    input: InputConfig = field(default_factory=InputConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    reuse: ReuseConfig = field(default_factory=ReuseConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)

    def __post_init__(self) -> None:
        """Check every setting, then the rules between them.

        Raises:
            ConfigError: a setting may not have its value.

        """
        for option in options(self):
            option.limits.check(option.name, option.value)
        if self.block_size % 32:
            msg = f"block_size is {self.block_size}; it must be a multiple of 32"
            raise ConfigError(msg)
        device = self.device
        index = device.removeprefix("cuda:")
        if device not in {"auto", "cpu", "cuda", "tensorrt"} and not (
            device != index and index.isdigit()
        ):
            msg = f"device is {device!r}; use auto, cpu, cuda, cuda:N or tensorrt"
            raise ConfigError(msg)
        _check_cameras(self.cameras)

    def block_side(self, size: tuple[int, int]) -> int:
        """Return the side of a block in pixels: `block_size`, or what suits the mode.

        Args:
            size: height and width of the image, in pixels, as the network sees it.

        """
        return self.block_size or side_for(self.mode, size)

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width, in pixels, in which the network sees an image of `size`."""
        height, width = (max(1, round(length * self.input.scale)) for length in size)
        return height, width

    def shown_side(self, image: NDArray[Any]) -> float:
        """Return the side of a block in pixels of the camera's image, [H, W, 3]."""
        height, width = image.shape[:2]
        return self.block_side(self.seen_size((height, width))) / self.input.scale

    def updated(self, values: Mapping[str, Value]) -> Config:
        """Return a copy with some settings changed, by dotted name.

        Raises:
            ConfigError: unknown name, wrong type or value out of range.

        """
        known = {option.name: option for option in options(self)}
        changed: Config = self
        for name, value in values.items():
            if name not in known:
                msg = f"unknown setting {name!r}; known: {', '.join(sorted(known))}"
                raise ConfigError(msg)
            changed = _replaced(changed, name, _as_type(name, value, known[name].value))
        return changed


@dataclass(frozen=True)
class Option:
    """One setting with its dotted name, current value and limits."""

    name: str
    value: Value
    limits: Limits


def options(config: Any, prefix: str = "") -> Iterator[Option]:
    """Yield every setting of a config, nested stages included, in declaration order."""
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from options(value, f"{prefix}{item.name}.")
        else:
            yield Option(prefix + item.name, value, item.metadata["limits"])


def _check_cameras(names: tuple[str, ...]) -> None:
    """Refuse names that cannot be topics, or that two cameras would share.

    Raises:
        ConfigError: names the camera and the fix.

    """
    for name in names:
        if not CAMERA_NAME.fullmatch(name):
            msg = (
                f"cameras has {name!r}, which cannot be part of a topic name; use letters, digits "
                "and _, beginning with a letter, such as front_left"
            )
            raise ConfigError(msg)
        if names.count(name) > 1:
            msg = f"cameras has {name!r} twice; give each camera a name of its own"
            raise ConfigError(msg)


def _replaced(config: Config, name: str, value: Value) -> Config:
    stage, _, leaf = name.rpartition(".")
    if not stage:
        return replace(config, **{leaf: value})  # type: ignore[arg-type]  # checked by _as_type
    inner = replace(getattr(config, stage), **{leaf: value})
    return replace(config, **{stage: inner})


def _as_type(name: str, value: Value, like: Value) -> Value:
    """Return the value in the type of the setting; only int to float is converted."""
    if isinstance(like, tuple):
        return _as_names(name, value)
    if type(value) is type(like):
        return value
    if isinstance(like, float) and type(value) is int:
        return float(value)
    msg = f"{name} is {value!r} ({type(value).__name__}); expected a {type(like).__name__}"
    raise ConfigError(msg)


def _as_names(name: str, value: Value) -> Value:
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return value
    shown = list(value) if isinstance(value, tuple) else value
    msg = f"{name} is {shown!r}; expected a list of names, such as [front, left]"
    raise ConfigError(msg)
