"""Hyper-parameters of training, declared once: the command line derives from this dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
import math
from typing import Any, TYPE_CHECKING

from seg_node.core.config import Limits
from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

CROP_MULTIPLE = 16
"""Features of halved crops at stride 8, and soft labels, need whole pixels."""
MANY = 1_000_000_000


def setting(
    default: Any,
    doc: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Return a field of a dataclass of settings, with its meaning and range."""
    limits = Limits(doc, low=low, high=high, choices=choices)
    return field(default=default, metadata={"limits": limits})


@dataclass(frozen=True)
class Training:
    """Hyper-parameters that all trainings on labelled frames share.

    All of them are written into the checkpoint: a run is resumed as itself or refused.

    Raises:
        ConfigError: a value is out of its range.

    """

    steps: int = setting(5000, "Optimiser steps.", 1, MANY)
    batch: int = setting(8, "Samples in a step, over all processes.", 1, 65536)
    crop_width: int = setting(448, "Width of the training crop in pixels.", 32, 8192)
    crop_height: int = setting(320, "Height of the training crop in pixels.", 32, 8192)

    optimizer: str = setting("adamw", "Update rule.", choices=("adamw", "sgd"))
    learning_rate: float = setting(2e-3, "Peak of the learning rate.", 1e-8, 10.0)
    weight_decay: float = setting(1e-2, "Decay of convolution weights only.", 0.0, 10.0)
    momentum: float = setting(0.9, "Momentum of sgd.", 0.0, 1.0)
    schedule: str = setting("cosine", "Fall of the learning rate.", choices=("cosine", "poly"))
    warmup: int = setting(150, "Steps of linear warm-up; never more than a tenth of all.", 0, MANY)
    clip_norm: float = setting(5.0, "Largest norm of the gradient.", 1e-6, 1e9)
    average: float = setting(
        0.998,
        "Decay per step of the shipped average of the weights; less in the beginning.",
        0.0,
        1.0,
    )
    precision: str = setting(
        "fp32", "Number format of convolutions (bf16: autocast).", choices=("fp32", "bf16")
    )

    loss: str = setting(
        "ce", "Cross entropy over all pixels, or over the hardest (ohem).", choices=("ce", "ohem")
    )
    ohem_threshold: float = setting(
        0.7, "Pixels whose true class has less than this probability are hard.", 0.0, 1.0
    )
    softness: float = setting(
        1.1, "Flatness of the class weights 1/ln(softness + share) of ce; 0: none.", 0.0, 1e6
    )
    jaccard: float = setting(0.5, "Weight of the soft Jaccard loss.", 0.0, 100.0)
    distill: float = setting(
        1.0, "Weight of the divergence from the teacher, where there is one.", 0.0, 100.0
    )

    scale_min: float = setting(0.5, "Smallest random resize factor.", 0.05, 20.0)
    scale_max: float = setting(2.0, "Largest random resize factor.", 0.05, 20.0)
    flip: float = setting(0.5, "Probability of a horizontal flip.", 0.0, 1.0)
    jitter: float = setting(
        0.4, "Largest relative change of brightness, contrast and saturation.", 0.0, 1.0
    )
    blur: float = setting(0.1, "Probability of a Gaussian blur.", 0.0, 1.0)
    jpeg: float = setting(0.1, "Probability of a JPEG round trip.", 0.0, 1.0)
    paste: float = setting(
        0.0, "Probability that small classes of another frame are pasted in.", 0.0, 1.0
    )
    street_share: float = setting(0.0, "Probability of a rendered street as sample.", 0.0, 1.0)
    streets: int = setting(300, "Number of different rendered streets.", 0, 100_000)
    unlabelled_share: float = setting(
        0.1, "Probability of an unlabelled frame as sample, where there are any.", 0.0, 1.0
    )

    seed: int = setting(0, "Seed of weights, batches and augmentation.", 0, MANY)
    deterministic: bool = setting(
        default=False, doc="Refuse operations whose result depends on the order of threads."
    )
    workers: int = setting(1, "Threads that prepare batches, in each process.", 1, 256)
    checkpoint_every: int = setting(100, "Steps between checkpoints.", 1, MANY)
    validate_every: int = setting(500, "Steps between validations.", 1, MANY)

    def __post_init__(self) -> None:
        """Check every value, and pairs that depend on each other."""
        for name, value, limits in self.described():
            limits.check(name, value)
        if self.scale_min > self.scale_max:
            msg = f"scale_min {self.scale_min} is above scale_max {self.scale_max}; swap them"
            raise ConfigError(msg)
        if any(side % CROP_MULTIPLE for side in self.crop):
            msg = (
                f"the crop is {self.crop_width}x{self.crop_height}; sides must be multiples of 16"
            )
            raise ConfigError(msg)
        if 0.0 < self.softness <= 1.0:
            msg = f"softness is {self.softness}; use 0 for equal weights, or more than 1"
            raise ConfigError(msg)
        if self.street_share > 0.0 and self.streets == 0:
            msg = f"street_share is {self.street_share} of 0 streets; raise streets"
            raise ConfigError(msg)

    def described(self) -> Iterator[tuple[str, Any, Limits]]:
        """Yield name, value and limits of every setting."""
        for item in fields(self):
            yield item.name, getattr(self, item.name), item.metadata["limits"]

    @property
    def halved_share(self) -> float:
        """Return the share of steps whose images are halved."""
        return 0.0

    def crop_at(self, step: int) -> tuple[int, int]:  # noqa: ARG002 - subclasses may vary it
        """Return (width, height) of the crop at a step, in pixels."""
        return self.crop

    @property
    def crop(self) -> tuple[int, int]:
        """Return (width, height) of the full crop, in pixels."""
        return self.crop_width, self.crop_height

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        warmup = min(self.warmup, self.steps // 10)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        if self.schedule == "poly":
            return self.learning_rate * math.pow(1.0 - progress, 0.9)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class SegmentTraining(Training):
    """Hyper-parameters of `train segment`.

    Raises:
        ConfigError: a value is out of its range.

    """

    early_steps: int = setting(
        0, "Steps at the start with crops of 3/4 of each side, rounded to 32 pixels.", 0, MANY
    )
    low_share: float = setting(
        0.0, "Share of steps whose images are halved: mixed-resolution training.", 0.0, 1.0
    )
    low_norms: bool = setting(
        default=False, doc="BatchNorm of their own for halved images; writes two models."
    )

    def __post_init__(self) -> None:
        """Check every value, and pairs that depend on each other."""
        super().__post_init__()
        if self.low_norms and self.low_share in (0.0, 1.0):
            msg = f"low_norms needs halved and full images; low_share is {self.low_share}"
            raise ConfigError(msg)

    @property
    def halved_share(self) -> float:
        """Return the share of steps whose images are halved."""
        return self.low_share

    def crop_at(self, step: int) -> tuple[int, int]:
        """Return (width, height) of the crop at a step, in pixels."""
        if step >= self.early_steps:
            return self.crop
        return tuple(max(32, round(side * 0.75 / 32) * 32) for side in self.crop)  # type: ignore[return-value]  # two sides
