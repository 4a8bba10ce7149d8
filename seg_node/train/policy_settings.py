"""Hyper-parameters of `train policy`, declared once: the command line derives from them."""

from __future__ import annotations

from dataclasses import dataclass

from seg_node.core.types import ConfigError
from seg_node.train.settings import MANY, setting, Training

NETS_SEE = 32
"""Blocks are whole multiples of so many pixels: what the policy network makes of one block."""


@dataclass(frozen=True)
class PolicyTraining(Training):
    """Hyper-parameters of `train policy`; rates of `Training` are those of the network.

    Raises:
        ConfigError: a value is out of its range.

    """

    steps: int = setting(2000, "Optimiser steps.", 1, MANY)
    learning_rate: float = setting(
        2e-4, "Peak of the network's learning rate; unused with frozen.", 1e-8, 10.0
    )

    frozen: bool = setting(
        default=False, doc="Only the policy learns; the network stays as it is, and is cheaper."
    )
    block_size: int = setting(64, "Side of the blocks in pixels.", NETS_SEE, 512)
    target: float = setting(0.3, "Share of HIGH blocks that the policy is to reach.", 0.0, 1.0)
    every_share: bool = setting(
        default=False,
        doc="Each step has a share of HIGH of its own, and the scores are shifted to it: all "
        "blocks are ranked, for every policy.high_fraction; target is where validation looks.",
    )
    reward: str = setting(
        "loss",
        "What makes a block worth full resolution: its loss, as in SegBlocks, or its gain, the "
        "loss at half resolution less that at full.",
        choices=("loss", "gain"),
    )
    size_weight: float = setting(
        1.0,
        "Weight of the distance to the target in the reward of every block; unused with "
        "every_share.",
        0.0,
        1000.0,
    )
    policy_channels: int = setting(
        64, "Channels of the policy network; 64 in the paper, 32 cost a third.", 1, 1024
    )
    policy_rate: float = setting(4e-4, "Peak of the policy's learning rate.", 1e-8, 10.0)
    random_share: float = setting(
        0.0, "Share of steps with a random share of random HIGH blocks, for any policy.", 0.0, 1.0
    )
    random_steps: int = setting(
        0, "Steps at the start with random blocks only: the policy waits for the network.", 0, MANY
    )

    def __post_init__(self) -> None:
        """Check every value, and pairs that depend on each other."""
        super().__post_init__()
        side = self.block_size
        if side % NETS_SEE:
            msg = f"block_size is {side}; it must be a multiple of {NETS_SEE}"
            raise ConfigError(msg)
        if any(length % side for length in self.crop):
            msg = (
                f"the crop is {self.crop_width}x{self.crop_height}; sides must be multiples of "
                f"block_size ({side})"
            )
            raise ConfigError(msg)
        if self.frozen and (self.random_share or self.random_steps):
            msg = "nothing learns from random blocks with frozen; leave random_share, random_steps"
            raise ConfigError(msg)
        if self.random_steps >= self.steps or self.random_share == 1.0:
            msg = (
                f"random_steps is {self.random_steps} of {self.steps} and random_share "
                f"{self.random_share}: the policy would never learn; lower them"
            )
            raise ConfigError(msg)

    def policy_rate_at(self, step: int) -> float:
        """Return the policy's learning rate of a step: it rises and falls as the network's."""
        return self.policy_rate * self.rate(step) / self.learning_rate
