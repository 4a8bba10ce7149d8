"""Hyper-parameters of `train segment --student low`, declared once: the command line has them."""

from __future__ import annotations

from dataclasses import dataclass

from seg_node.core.types import ConfigError
from seg_node.train.settings import MANY, setting, Training

LOW_CROP_MULTIPLE = 64
"""Half of a crop has whole pixels at stride 32."""


@dataclass(frozen=True)
class LowTraining(Training):
    """Hyper-parameters of the training of a half-resolution branch.

    Raises:
        ConfigError: a value is out of its range.

    """

    steps: int = setting(3000, "Optimiser steps.", 1, MANY)
    crop_width: int = setting(320, "Width of the training crop in pixels.", 64, 8192)
    crop_height: int = setting(256, "Height of the training crop in pixels.", 64, 8192)
    learning_rate: float = setting(1e-3, "Peak of the learning rate.", 1e-8, 10.0)
    distill: float = setting(0.0, "0: the one teacher is the network itself.", 0.0, 0.0)
    paste: float = setting(
        0.5, "Probability that small classes of another frame move through a still.", 0.0, 1.0
    )
    street_share: float = setting(0.3, "Probability of a rendered street as sample.", 0.0, 1.0)
    streets: int = setting(60, "Number of different rendered streets.", 0, 100_000)
    unlabelled_share: float = setting(
        0.2, "Probability of a pair of unlabelled frames, where there are any.", 0.0, 1.0
    )

    weights: str = setting(
        "own",
        "What the branch has of its own: all weights, or its BatchNorms (norms) beside the "
        "network's convolutions; or only the fusion learns, behind the network of the start as it "
        "is (none).",
        choices=("own", "norms", "none"),
    )
    distance_max: int = setting(
        11, "Remembered frames are 1 to so many frames old, at 15 Hz.", 1, 100
    )
    fusion: str = setting(
        "gated",
        "How LOW features and moved ones meet: added after attention, as AR-Seg's CReFF (creff), "
        "or blended by a learned gate (gated); or results meet, blended by a gate that sees what "
        "has changed (blend).",
        choices=("creff", "gated", "blend"),
    )
    fusion_after: int = setting(
        1000, "Steps at the start without fusion: half resolution alone.", 0, MANY
    )
    similarity: float = setting(
        1.0,
        "Weight of the squared difference from the features at full resolution, or, with blend, "
        "of the divergence from the result there.",
        0.0,
        1000.0,
    )
    task: float = setting(1.0, "Weight of the loss by the labels.", 0.0, 1000.0)
    street_frames: int = setting(14, "Frames rendered of each street.", 2, 10_000)
    estimated_share: float = setting(
        0.5, "Probability that exact motion is replaced by estimated motion.", 0.0, 1.0
    )
    motion_noise: float = setting(0.5, "Probability of disturbed motion.", 0.0, 1.0)
    hidden_known: float = setting(
        0.3, "Probability that what was hidden is marked, where it is known.", 0.0, 1.0
    )

    def __post_init__(self) -> None:
        """Check every value, and pairs that depend on each other."""
        super().__post_init__()
        if any(side % LOW_CROP_MULTIPLE for side in self.crop):
            msg = (
                f"the crop is {self.crop_width}x{self.crop_height}; sides must be multiples of "
                f"{LOW_CROP_MULTIPLE}, so that half of it has whole pixels at stride 32"
            )
            raise ConfigError(msg)
        if self.fusion_after >= self.steps:
            msg = (
                f"fusion_after is {self.fusion_after} of {self.steps} steps: the fusion would "
                "never learn; lower it"
            )
            raise ConfigError(msg)
        if self.fusion_after and self.weights == "none":
            msg = (
                f"weights is none and fusion_after {self.fusion_after}: nothing would be learned "
                "before the fusion joins; set fusion_after to 0"
            )
            raise ConfigError(msg)
        if self.similarity == 0.0 and self.task == 0.0:
            msg = "similarity and task are both 0: nothing would be learned; raise one"
            raise ConfigError(msg)
