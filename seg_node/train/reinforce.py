"""REINFORCE for the policy of HIGH and LOW blocks: what is drawn, its reward, its loss.

Facts: papers.md section 3A, steps 3 and 4. One thing is done otherwise here: blocks that are
switched on only to round their number up were not the policy's choice, so its probability of
choosing them is not in the loss (SegBlocks' code takes it on the rounded grid).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seg_node.core.blocks import quantise
from seg_node.core.types import Action, IGNORE_LABEL
from seg_node.train.losses import LABEL_STEP, resize_logits, sampled_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.train.policy_settings import PolicyTraining


@dataclass(frozen=True)
class Draw:
    """The blocks of a batch that are computed at full resolution.

    Attributes:
        wished: blocks that were drawn, bool [N, gh, gw].
        high: these, and others that were switched on to round their number, bool [N, gh, gw].

    """

    wished: NDArray[np.bool_]
    high: NDArray[np.bool_]

    @property
    def grids(self) -> NDArray[np.uint8]:
        """Return the `Action` of every block, uint8 [N, gh, gw]."""
        return np.where(self.high, Action.HIGH, Action.LOW).astype(np.uint8)


def draw_blocks(probability: NDArray[np.floating], rng: np.random.Generator) -> Draw:
    """Draw each block with its probability, [N, gh, gw], then round their number up."""
    return _rounded_up(rng.random(probability.shape) < probability, rng)


def draw_any_share(shape: tuple[int, ...], rng: np.random.Generator) -> Draw:
    """Draw random blocks of a grid [N, gh, gw]; every number of them is equally probable."""
    order = rng.permutation(int(np.prod(shape))).reshape(shape)
    return _rounded_up(order < rng.integers(order.size + 1), rng)


def _rounded_up(wished: NDArray[np.bool_], rng: np.random.Generator) -> Draw:
    high = quantise(wished, rng.random(wished.shape))
    if np.count_nonzero(~high) == 1:
        # It may be a single feature pixel, of which BatchNorm cannot take statistics.
        high = np.ones_like(high)
    return Draw(wished, high)


def block_losses(logits: Tensor, labels: Tensor, weights: Tensor, side: int, phase: int) -> Tensor:
    """Return the cross entropy of each block, averaged over its labelled pixels.

    It is the cross entropy of the task's loss: pixels have the weight of their class, and every
    second one counts.

    Args:
        logits: [N, C, h, w], at any stride.
        labels: int64 [N, H, W] of whole blocks, 255 = void.
        weights: loss weight per class, [C].
        side: side of a block in image pixels.
        phase: which pixels count; see `segmentation_loss`.

    Returns:
        [N, gh, gw]; NaN where no pixel has a label.

    """
    seen = sampled_labels(labels, phase)
    log_probability = resize_logits(logits, (seen.shape[-2], seen.shape[-1])).log_softmax(1)
    losses = functional.nll_loss(
        log_probability, seen, weights, ignore_index=IGNORE_LABEL, reduction="none"
    )
    known = (seen != IGNORE_LABEL).to(losses.dtype)
    both = functional.avg_pool2d(torch.stack((losses, known), 1), side // LABEL_STEP)
    return both[:, 0] / both[:, 1]


@dataclass(frozen=True)
class Lesson:
    """What a batch teaches the policy.

    Attributes:
        loss: its gradient is that of REINFORCE, scalar.
        figures: for the log.

    """

    loss: Tensor
    figures: dict[str, float]


def policy_lesson(scores: Tensor, draw: Draw, losses: Tensor, config: PolicyTraining) -> Lesson:
    """Return the loss of the policy: mean of -log p(choice) * reward over its own choices.

    The reward of HIGH is (l - mean l) + size_weight * (target - share of HIGH); that of LOW is
    its negative. So what is hard, under whichever resolution it was seen, becomes HIGH, and
    everything does while there are too few HIGH blocks. A block without labels says nothing
    about l: it has the mean.

    Args:
        scores: logits of the policy, [N, gh, gw].
        draw: what was drawn from them, and computed.
        losses: l, the task's loss in each block, [N, gh, gw]; NaN where unknown.
        config: target and size_weight.

    """
    wished, high = (torch.from_numpy(x).to(scores.device) for x in (draw.wished, draw.high))
    known = ~losses.isnan()
    baseline = losses[known].sum() / known.sum().clamp_min(1)
    room = config.target - float(draw.high.mean())
    harder = torch.where(known, losses - baseline, torch.zeros_like(losses))
    advantage = (harder + config.size_weight * room).detach()
    reward = torch.where(wished, advantage, -advantage)
    log_p = -functional.binary_cross_entropy_with_logits(
        scores, wished.to(scores.dtype), reduction="none"
    )
    own = wished == high  # the others were switched on by the rounding
    count = own.sum().clamp_min(1)
    loss = -(log_p * reward)[own].sum() / count
    figures = {
        "policy_loss": float(loss.detach()),
        "baseline": float(baseline.detach()),
        "entropy": float(_entropy(scores.detach()).mean()),
        "high_wished": float(draw.wished.mean()),
        "reward": float(reward[own].sum() / count),
    }
    return Lesson(loss, figures)


def _entropy(scores: Tensor) -> Tensor:
    """Return the entropy of each choice, in nats: from 0 to ln 2."""
    p = scores.sigmoid()
    return functional.binary_cross_entropy_with_logits(scores, p, reduction="none")
