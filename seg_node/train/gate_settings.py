"""Hyper-parameters of `train gate`, declared once: the command line derives from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

from seg_node.core.types import ConfigError
from seg_node.train.low_settings import LowTraining
from seg_node.train.settings import MANY, setting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seg_node.core.config import Limits

OF_LOW = frozenset({"weights", "fusion", "fusion_after", "similarity", "task"})
"""Settings of pairs of frames that concern a half-resolution branch alone."""


@dataclass(frozen=True)
class GateTraining(LowTraining):
    """Hyper-parameters of the training of gates; the network stays as it is.

    Raises:
        ConfigError: a value is out of its range.

    """

    steps: int = setting(300, "Optimiser steps.", 1, MANY)
    learning_rate: float = setting(5e-3, "Peak of the learning rate.", 1e-8, 10.0)
    distill: float = setting(
        1.0, "Weight of the divergence from the network without gates.", 0.0, 100.0
    )
    fusion_after: int = setting(0, "There is no fusion.", 0, 0)
    distance_max: int = setting(
        8, "Remembered frames are 1 to so many frames old, at 15 Hz.", 1, 100
    )
    block_side: int = setting(64, "Side of a bin in pixels.", 32, 512)
    dropped_min: float = setting(
        0.1, "Least share of the gated MACs that is to be dropped.", 0.01, 0.99
    )
    dropped_max: float = setting(0.9, "Largest share that is to be dropped.", 0.01, 0.99)
    rate_weight: float = setting(
        5.0, "Weight of the squared distance from the share that is to be dropped.", 0.0, 1000.0
    )
    temperature: float = setting(0.5, "Noise of the gates while they learn.", 0.01, 10.0)
    collapse_steps: int = setting(
        100, "Steps in a row with all gates open, or all shut, after which the run stops.", 2, MANY
    )

    def __post_init__(self) -> None:
        """Check every value, and pairs that depend on each other."""
        super().__post_init__()
        if self.block_side % 32 or any(side % self.block_side for side in self.crop):
            msg = (
                f"block_side is {self.block_side} and the crop {self.crop_width}x"
                f"{self.crop_height}; the side must be a multiple of 32, the crop one of the side"
            )
            raise ConfigError(msg)
        if self.dropped_min > self.dropped_max:
            msg = (
                f"dropped_min is {self.dropped_min} and dropped_max {self.dropped_max}; "
                "the first must not exceed the second"
            )
            raise ConfigError(msg)

    def described(self) -> Iterator[tuple[str, Any, Limits]]:
        """Yield name, value and limits of every setting that applies."""
        return (row for row in super().described() if row[0] not in OF_LOW)
