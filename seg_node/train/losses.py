"""Losses for training segmentation networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from seg_node.core.types import IGNORE_LABEL
from seg_node.nets.swiftnet import upsample

if TYPE_CHECKING:
    from torch import Tensor


def class_weights(counts: Tensor, softness: float = 1.1) -> Tensor:
    """Return loss weights [C] that lift rare classes: 1 / ln(softness + share), mean 1.

    The formula of ENet (Paszke et al., 2016, section 5.2) with a larger constant available for
    flatter weights.

    Args:
        counts: labelled pixels per class, [C].
        softness: above 1; larger is flatter.

    """
    share = counts.double() / counts.sum()
    weights = 1.0 / torch.log(softness + share)
    return (weights / weights.mean()).float()


def soft_jaccard(log_probability: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - the mean soft intersection over union, pooled over the batch.

    Only classes present in the batch count, so an absent class cannot be rewarded for silence.

    Args:
        log_probability: [N, C, H, W].
        labels: int64 [N, H, W], 255 = ignored.

    """
    classes = log_probability.shape[1]
    known = labels != IGNORE_LABEL
    index = torch.where(known, labels, 0)
    probability = log_probability.exp() * known[:, None]
    right = probability.gather(1, index[:, None]).flatten()
    hit = right.new_zeros(classes).index_add(0, index.flatten(), right)
    truth = torch.bincount(index[known], minlength=classes).to(right.dtype)
    union = probability.sum((0, 2, 3)) + truth - hit
    present = truth > 0
    return 1.0 - (hit[present] / union[present]).mean() if present.any() else right.sum() * 0.0


def segmentation_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, *, jaccard: float, phase: int = 0
) -> Tensor:
    """Return weighted cross entropy plus `jaccard` times `soft_jaccard`.

    Both are taken at every second pixel: a quarter of the cost of all pixels, and still twice
    as fine as the logits. Which of the two is chosen by `phase`: over phases 0 to 3 the sampled
    pixels lie evenly around the upsampled logits, so no shift is learned.

    Args:
        logits: [N, C, H / 4, W / 4], rounded up.
        labels: int64 [N, H, W], 255 = ignored.
        weights: loss weight per class, [C].
        jaccard: weight of the soft Jaccard term, 0 or more.
        phase: any integer; its last two bits choose the row and column offset.

    """
    labels = labels[:, phase & 1 :: 2, (phase >> 1) & 1 :: 2]
    full = upsample(logits, 2, (labels.shape[-2], labels.shape[-1]))
    log_probability = full.log_softmax(1)
    loss = functional.nll_loss(log_probability, labels, weights, ignore_index=IGNORE_LABEL)
    return loss + jaccard * soft_jaccard(log_probability, labels) if jaccard > 0 else loss
