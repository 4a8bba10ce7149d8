"""Losses for training segmentation networks.

Every mean is taken over the whole batch of all processes: sums are added up with `total`
before they are divided, so that two processes descend exactly the curve of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from seg_node.core.types import IGNORE_LABEL
from seg_node.train.distributed import total

if TYPE_CHECKING:
    from torch import Tensor

    from seg_node.train.batches import Batch
    from seg_node.train.settings import Training

MIN_KEPT = 1 / 16
"""Smallest share of pixels that `ohem` keeps (BiSeNet's choice)."""
LABEL_STEP = 2
"""Labels are compared at every so many-th pixel of each axis."""
KNOWN = 0.5
"""Sum of soft probabilities from which on a soft label counts as known."""


def class_weights(counts: Tensor, softness: float = 1.1) -> Tensor:
    """Return loss weights [C] that lift rare classes: 1 / ln(softness + share), mean 1.

    The formula of ENet (Paszke et al., 2016, section 5.2) with a larger constant available for
    flatter weights.

    Args:
        counts: labelled pixels per class, [C].
        softness: above 1, larger is flatter; 0 for equal weights.

    """
    if softness == 0.0:
        return torch.ones(len(counts))
    share = counts.double() / counts.sum()
    weights = 1.0 / torch.log(softness + share)
    return (weights / weights.mean()).float()


def cross_entropy(
    log_probability: Tensor, labels: Tensor, weights: Tensor, emphasis: Tensor | None = None
) -> Tensor:
    """Return the cross entropy, averaged over labelled pixels with their class's weight.

    Args:
        log_probability: [N, C, H, W].
        labels: int64 [N, H, W], 255 = ignored.
        weights: loss weight per class, [C].
        emphasis: factor of every sample's part, [N]; None for 1.

    """
    if emphasis is None:
        sums = functional.nll_loss(
            log_probability, labels, weights, ignore_index=IGNORE_LABEL, reduction="sum"
        )
    else:
        losses = functional.nll_loss(
            log_probability, labels, weights, ignore_index=IGNORE_LABEL, reduction="none"
        )
        sums = (losses.sum((1, 2)) * emphasis).sum()
    known = labels[labels != IGNORE_LABEL]
    return total(sums) / total(weights[known].sum()).clamp_min(1e-6)


def hard_cross_entropy(
    log_probability: Tensor, labels: Tensor, threshold: float, emphasis: Tensor | None = None
) -> Tensor:
    """Return the cross entropy of hard pixels: OHEM as in BiSeNet (Yu et al., ECCV 2018).

    A pixel is hard if its true class has less than `threshold` probability; where too few are,
    the hardest sixteenth of each process's pixels counts. An emphasis [N] is a factor of every
    sample's hard pixels.
    """
    losses = functional.nll_loss(
        log_probability, labels, ignore_index=IGNORE_LABEL, reduction="none"
    ).flatten()
    known = labels.flatten() != IGNORE_LABEL
    losses = losses[known]
    chosen = (losses > -torch.log(torch.tensor(threshold))).nonzero().flatten()
    if len(chosen) < MIN_KEPT * len(losses):
        chosen = losses.topk(max(1, int(MIN_KEPT * len(losses)))).indices
    hard = losses[chosen]
    if emphasis is not None:
        hard = hard * emphasis.view(-1, 1, 1).expand(labels.shape).flatten()[known][chosen]
    count = losses.new_tensor(float(len(hard)))
    return total(hard.sum()) / total(count).clamp_min(1.0)


def soft_jaccard(
    log_probability: Tensor, labels: Tensor, emphasis: Tensor | None = None
) -> Tensor:
    """Return 1 - the mean soft intersection over union, pooled over the batch.

    Only classes present in the batch count, so an absent class cannot be rewarded for silence.

    Args:
        log_probability: [N, C, H, W].
        labels: int64 [N, H, W], 255 = ignored.
        emphasis: what a pixel of every sample counts, [N]; None for 1. Its mean multiplies the
            whole.

    """
    classes = log_probability.shape[1]
    known = labels != IGNORE_LABEL
    index = torch.where(known, labels, 0)
    probability = log_probability.exp() * known[:, None]
    if emphasis is not None:
        probability = probability * emphasis.view(-1, 1, 1, 1)
    right = probability.gather(1, index[:, None]).flatten()
    hit = right.new_zeros(classes).index_add(0, index.flatten(), right)
    truth = _true_pixels(index, known, classes, emphasis).to(right.dtype)
    hit, truth, claimed = total(torch.stack((hit, truth, probability.sum((0, 2, 3))))).unbind()
    present = truth > 0
    overlap = hit / (claimed + truth - hit).clamp_min(1e-6)
    missed = 1.0 - overlap[present].mean() if present.any() else hit.sum() * 0.0
    return missed if emphasis is None else missed * emphasis.mean()


def _true_pixels(index: Tensor, known: Tensor, classes: int, emphasis: Tensor | None) -> Tensor:
    """Count the pixels of every class, each by its sample's emphasis, [classes]."""
    if emphasis is None:
        return torch.bincount(index[known], minlength=classes)
    counted = emphasis.view(-1, 1, 1).expand(index.shape)[known]
    return torch.bincount(index[known], counted, minlength=classes)


def divergence(logits: Tensor, soft: Tensor, emphasis: Tensor | None = None) -> Tensor:
    """Return the mean Kullback-Leibler divergence from a teacher's soft labels.

    Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015, at temperature 1.

    Args:
        logits: [N, C, h, w].
        soft: teacher's probabilities [N, C, h, w]; all zero where unknown.
        emphasis: factor of every sample's part, [N]; None for 1.

    """
    mass = soft.sum(1, keepdim=True)
    known = mass > KNOWN
    target = soft / mass.clamp_min(KNOWN)
    pointwise = functional.kl_div(logits.log_softmax(1), target, reduction="none")
    if emphasis is not None:
        pointwise = pointwise * emphasis.view(-1, 1, 1, 1)
    sums = (pointwise * known).sum()
    return total(sums) / total(known.sum().to(sums.dtype)).clamp_min(1.0)


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits [N, C, h, w] bilinearly to (H, W), pixel centres kept in place."""
    if logits.shape[-2:] == size:
        return logits
    return functional.interpolate(logits, size, mode="bilinear", align_corners=False)


def sampled_labels(labels: Tensor, phase: int) -> Tensor:
    """Return every second label of each axis, [N, H/2, W/2]; see `segmentation_loss`."""
    return labels[:, phase & 1 :: LABEL_STEP, (phase >> 1) & 1 :: LABEL_STEP]


def segmentation_loss(
    logits: Tensor, batch: Batch, weights: Tensor, config: Training, phase: int = 0
) -> Tensor:
    """Return the whole loss of a batch: labels, Jaccard, teacher.

    Labels are compared at every second pixel: a quarter of the cost of all pixels, and still
    twice as fine as logits of stride 4. Which of the two is chosen by `phase`: over phases 0 to
    3 the sampled pixels lie evenly around the resized logits, so no shift is learned.

    Args:
        logits: [N, C, h, w], at any stride, in float32.
        batch: what the logits were computed from; sides of its labels are even.
        weights: loss weight per class, [C].
        config: which losses count, and how much.
        phase: any integer; its last two bits choose the row and column offset.

    """
    labels = sampled_labels(batch.labels, phase)
    full = resize_logits(logits, (labels.shape[-2], labels.shape[-1]))
    log_probability = full.log_softmax(1)
    emphasis = batch.emphasis
    if config.loss == "ohem":
        loss = hard_cross_entropy(log_probability, labels, config.ohem_threshold, emphasis)
    else:
        loss = cross_entropy(log_probability, labels, weights, emphasis)
    if config.jaccard > 0:
        loss = loss + config.jaccard * soft_jaccard(log_probability, labels, emphasis)
    if config.distill > 0 and batch.soft is not None:
        size = (batch.soft.shape[-2], batch.soft.shape[-1])
        taught = divergence(resize_logits(logits, size), batch.soft, emphasis)
        loss = loss + config.distill * taught
    return loss
