"""REINFORCE for the policy of HIGH and LOW blocks: what is drawn, its reward, its loss.

Facts: papers.md section 3A, steps 3 and 4. One thing is done otherwise here: blocks that are
switched on only to round their number up were not the policy's choice, so its probability of
choosing them is not in the loss (SegBlocks' code takes it on the rounded grid). And a policy may
learn every share of HIGH instead of one target.
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

FAR = 8.0
"""A block whose logit is so far from the middle is as good as decided: 0.9997."""

HALVINGS = 40


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


@dataclass(frozen=True)
class Reward:
    """What HIGH is worth; LOW is worth its negative.

    Attributes:
        of_high: of each block, [N, gh, gw].
        baseline: the loss or gain above which HIGH is worth something; mean over the images.

    """

    of_high: Tensor
    baseline: float


def reward_at_target(losses: Tensor, high: NDArray[np.bool_], config: PolicyTraining) -> Reward:
    """Return (l - mean l) + size_weight * (target - share of HIGH), the paper's reward.

    So what is hard, under whichever resolution it was seen, becomes HIGH, and everything does
    while there are too few HIGH blocks. A block without labels says nothing about l: it has the
    mean.

    Args:
        losses: l, the task's loss in each block or what HIGH takes from it, [N, gh, gw]; NaN
            where unknown.
        high: blocks that were computed at full resolution, bool [N, gh, gw].
        config: target and size_weight.

    """
    known = ~losses.isnan()
    baseline = losses[known].sum() / known.sum().clamp_min(1)
    room = config.target - float(high.mean())
    harder = torch.where(known, losses - baseline, torch.zeros_like(losses))
    return Reward(harder + config.size_weight * room, float(baseline))


def reward_at_share(losses: Tensor, share: float) -> Reward:
    """Return l - l of the last block that gets HIGH, if a share of each image's blocks does.

    The sum over the blocks of an image is largest if just these are HIGH. A block without labels
    is worth nothing either way.

    Args:
        losses: as for `reward_at_target`.
        share: of HIGH, 0..1.

    """
    last = losses.flatten(1).nanquantile(1.0 - share, dim=1).nan_to_num().view(-1, 1, 1)
    return Reward((losses - last).nan_to_num(), float(last.mean()))


def shifted_to(scores: Tensor, share: float) -> Tensor:
    """Return scores plus one number per image that makes the mean probability of HIGH a share.

    What is added is a constant to the gradient.

    Args:
        scores: logits of HIGH, [N, gh, gw].
        share: wished, 0..1; at the ends, as near as a logit of +-`FAR` beyond all comes.

    """
    flat = scores.detach().double().flatten(1)
    low = -flat.amax(1, keepdim=True) - FAR
    high = -flat.amin(1, keepdim=True) + FAR
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = (flat + middle).sigmoid().mean(1, keepdim=True) < share
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return scores + low.view(-1, 1, 1).to(scores.dtype)


def policy_lesson(scores: Tensor, draw: Draw, reward: Reward) -> Lesson:
    """Return the loss of the policy: mean of -log p(choice) * reward over its own choices.

    Args:
        scores: logits of the policy, [N, gh, gw].
        draw: what was drawn from them, and computed.
        reward: of HIGH, and the negative of LOW.

    """
    wished, high = (torch.from_numpy(x).to(scores.device) for x in (draw.wished, draw.high))
    worth = reward.of_high.detach()
    earned = torch.where(wished, worth, -worth)
    log_p = -functional.binary_cross_entropy_with_logits(
        scores, wished.to(scores.dtype), reduction="none"
    )
    own = wished == high  # the others were switched on by the rounding
    count = own.sum().clamp_min(1)
    loss = -(log_p * earned)[own].sum() / count
    figures = {
        "policy_loss": float(loss.detach()),
        "baseline": reward.baseline,
        "entropy": float(_entropy(scores.detach()).mean()),
        "high_wished": float(draw.wished.mean()),
        "reward": float(earned[own].sum() / count),
    }
    return Lesson(loss, figures)


def _entropy(scores: Tensor) -> Tensor:
    """Return the entropy of each choice, in nats: from 0 to ln 2."""
    p = scores.sigmoid()
    return functional.binary_cross_entropy_with_logits(scores, p, reduction="none")
