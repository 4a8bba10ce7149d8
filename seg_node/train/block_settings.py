"""Hyper-parameters of `train segment --student blocks`, declared once."""

from __future__ import annotations

from dataclasses import dataclass

from seg_node.core.types import ConfigError
from seg_node.train.low_settings import LowTraining
from seg_node.train.settings import MANY, setting


@dataclass(frozen=True)
class BlockTraining(LowTraining):
    """Hyper-parameters of the training of a network for its blocks.

    Raises:
        ConfigError: a value is out of its range.

    """

    steps: int = setting(1500, "Optimiser steps.", 1, MANY)
    learning_rate: float = setting(4e-4, "Peak of the learning rate.", 1e-8, 10.0)
    distill: float = setting(
        1.0, "Weight of the divergence from the network at the start.", 0.0, 100.0
    )
    block_side: int = setting(32, "Side of a block in pixels.", 32, 512)
    share_min: float = setting(0.1, "Least share of the blocks that are computed.", 0.0, 1.0)
    share_max: float = setting(0.4, "Largest share of the blocks that are computed.", 0.0, 1.0)

    def __post_init__(self) -> None:
        """Check every value, and pairs that depend on each other."""
        super().__post_init__()
        if self.block_side % 32 or self.share_min > self.share_max:
            msg = (
                f"block_side is {self.block_side} and shares {self.share_min} to {self.share_max};"
                " the side must be a multiple of 32, the first share at most the second"
            )
            raise ConfigError(msg)
