"""Training of the policy of mode segblocks, with the network that runs on its blocks or alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from torch import nn, Tensor

from seg_node.core.blocks import BlockLayout, grid_shape
from seg_node.core.sparse import split
from seg_node.core.tiles import halved
from seg_node.core.types import Action
from seg_node.train.batches import Batch
from seg_node.train.learner import Learner
from seg_node.train.losses import segmentation_loss
from seg_node.train.optimizers import make_optimizer
from seg_node.train.policy_settings import PolicyTraining
from seg_node.train.reinforce import (
    block_losses,
    draw_any_share,
    draw_blocks,
    policy_lesson,
    reward_at_share,
    reward_at_target,
    shifted_to,
)
from seg_node.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from seg_node.core.sparse import BlockTensor
    from seg_node.train.batches import BatchMaker
    from seg_node.train.reinforce import Draw, Reward
    from seg_node.train.trainer import Run

    Validate = Callable[["Pair"], Mapping[str, float]]

BETAS = (0.5, 0.999)
"""Of Adam for the policy, as in the paper's code; so are the next two."""
WEIGHT_DECAY = 1e-4
NORM_MOMENTUM = 0.02
DICE = 6
"""Number of the stream of random numbers that blocks are drawn from."""


@dataclass(frozen=True)
class Pair:
    """A network and the policy that chooses its HIGH blocks.

    Attributes:
        network: maps images, or a `BlockTensor`, to logits.
        policy: maps images [N, 3, H, W] and their grid (gh, gw) to logits [N, gh, gw].

    """

    network: nn.Module
    policy: nn.Module


class PolicyTrainer(Trainer[PolicyTraining, Batch, Pair]):
    """Trains a policy by REINFORCE, and its network by the task's loss unless it is frozen.

    Args:
        pair: weights to start from.
        batches: makes the batch of every step; all of them in this process.
        weights: loss weight per class, [classes].
        place: where it happens.
        validate: called with the averages now and then; its scores are logged.

    Raises:
        ConfigError: the folder holds a run with other settings.
        DataError: the disk has no room for checkpoints, or the checkpoint is damaged.

    """

    batches: BatchMaker[PolicyTraining]

    def __init__(
        self,
        pair: Pair,
        batches: BatchMaker[PolicyTraining],
        weights: Tensor,
        place: Run,
        validate: Validate | None = None,
    ) -> None:
        """Prepare what learns, and load the checkpoint if there is one."""
        super().__init__(batches, place, validate)
        config = self.config
        self.weights = weights.to(place.device)
        self.network = pair.network.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
        self.network.eval().requires_grad_(not config.frozen)
        self.policy = _policy_learner(pair.policy.to(place.device), config)
        self.learners = {"policy": self.policy}
        if not config.frozen:
            optimizer = make_optimizer(self.network, config)
            self.learners["network"] = Learner(self.network, optimizer, config.average)
        self._resume()

    def averaged(self) -> Pair:
        """Return the moving averages of network and policy, in eval mode."""
        network = self.network if self.config.frozen else self.learners["network"].averaged()
        return Pair(network, self.policy.averaged())

    def _begin(self) -> None:
        for learner in self.learners.values():
            learner.net.train()

    def _learn(self, step: int, batch: Batch) -> Mapping[str, float]:
        config = self.config
        rng = np.random.default_rng((config.seed, step, DICE))
        images = batch.images.contiguous(memory_format=torch.channels_last)
        share = float(rng.random()) if config.every_share else None
        scores, draw = self._draw(step, images, share, rng)
        with torch.set_grad_enabled(not config.frozen), self._autocast():
            logits = run_blocks(self.network, images, draw.grids, config.block_size).float()
        loss = segmentation_loss(logits, batch, self.weights, config, phase=step)
        figures = {"loss": float(loss.detach()), "rate": config.rate(step)}
        figures["high"] = float(draw.high.mean())
        self._refuse_infinite("loss", figures["loss"], step)
        if not config.frozen:
            self._teach("network", loss, figures["rate"], step)
        if scores is None:
            return figures
        if config.reward == "gain":
            losses = self._gains(images, batch, step)
        else:
            losses = self._losses(logits.detach(), batch, step)
        lesson = policy_lesson(scores, draw, self._reward(losses, draw, share))
        self._teach("policy", lesson.loss, config.policy_rate_at(step), step)
        return {**figures, **lesson.figures}

    def _losses(self, logits: Tensor, batch: Batch, step: int) -> Tensor:
        side = self.config.block_size
        return block_losses(logits, batch.labels, self.weights, side, phase=step)

    def _gains(self, images: Tensor, batch: Batch, step: int) -> Tensor:
        """Return what full resolution takes from the loss of each block, [N, gh, gw]."""
        training = self.network.training
        self.network.eval()  # its norms are not to take statistics of whole passes
        with torch.no_grad(), self._autocast():
            low, high = (self.network(x).float() for x in (halved(images), images))
        self.network.train(training)
        return self._losses(low, batch, step) - self._losses(high, batch, step)

    def _reward(self, losses: Tensor, draw: Draw, share: float | None) -> Reward:
        if share is None:
            return reward_at_target(losses, draw.high, self.config)
        return reward_at_share(losses, share)

    def _draw(
        self, step: int, images: Tensor, share: float | None, rng: np.random.Generator
    ) -> tuple[Tensor | None, Draw]:
        """Return the blocks of a step, and the policy's scores if it chose them."""
        config = self.config
        grid = grid_shape(images.shape[-2], images.shape[-1], config.block_size)
        if step < config.random_steps or rng.random() < config.random_share:
            return None, draw_any_share((len(images), *grid), rng)
        scores: Tensor = self.policy.net(images, grid)
        if share is not None:
            scores = shifted_to(scores, share)
        return scores, draw_blocks(scores.detach().sigmoid().cpu().numpy(), rng)

    def _teach(self, name: str, loss: Tensor, rate: float, step: int) -> None:
        learner = self.learners[name]
        learner.find_gradient(loss)
        self._follow(learner, rate, step, f"norm of the {name}'s gradient")

    def _state(self) -> dict[str, Any]:
        return {name: learner.state() for name, learner in self.learners.items()}

    def _load(self, state: Mapping[str, Any]) -> None:
        for name, learner in self.learners.items():
            learner.load(state[name])

    def _bytes(self) -> int:
        return sum(learner.nbytes() for learner in self.learners.values())


def _policy_learner(net: nn.Module, config: PolicyTraining) -> Learner:
    net.requires_grad_(requires_grad=True)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = NORM_MOMENTUM
    optimizer = torch.optim.Adam(
        net.parameters(), config.policy_rate, BETAS, weight_decay=WEIGHT_DECAY
    )
    return Learner(net, optimizer, config.average)


def run_blocks(net: nn.Module, images: Tensor, grids: NDArray[np.uint8], side: int) -> Tensor:
    """Return the logits of a network that runs on the blocks of a batch.

    Args:
        net: called as net(images), or as net(blocks) with a `BlockTensor`.
        images: RGB 0..255, uint8 [N, 3, H, W].
        grids: HIGH or LOW per block, uint8 [N, gh, gw].
        side: side of a block in pixels.

    Returns:
        [N, classes, h, w] at the network's stride; at twice the stride where all blocks are LOW.

    """
    logits: Tensor
    if (grids == Action.HIGH).all():
        logits = net(images)
        return logits
    if (grids == Action.LOW).all():
        logits = net(halved(images))
        return logits
    size = (images.shape[-2], images.shape[-1])
    blocks: BlockTensor = net(split(images, BlockLayout(grids, side, size, device=images.device)))
    return blocks.combined()
