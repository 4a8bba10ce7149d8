"""Scores during training: mean IoU at full and at half resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from seg_node.core.types import IGNORE_LABEL
from seg_node.train.batches import halve
from seg_node.train.losses import resize_logits
from seg_node.train.resolution import use_resolution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn, Tensor

    from seg_node.train.augment import Picture


def validate(
    net: nn.Module, pictures: Sequence[Picture], classes: int, *, low: bool = False
) -> float:
    """Return the mean IoU (0..1), pooled over pictures and averaged over the classes seen.

    Args:
        net: network in eval mode.
        pictures: labelled frames.
        classes: number of classes.
        low: show the network images of half the size.

    """
    device = next(net.parameters()).device
    use_resolution(net, low=low)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    with torch.inference_mode():
        for picture in pictures:
            image = torch.from_numpy(picture.image).permute(2, 0, 1)[None]
            logits = net((halve(image) if low else image).to(device)).float().cpu()
            counts += confusion(logits, torch.from_numpy(picture.labels)[None], classes)
    use_resolution(net, low=False)
    return mean_iou(counts)


def confusion(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count (true, predicted) pairs, int64 [classes, classes].

    Args:
        logits: [N, classes, h, w]; resized to the labels.
        labels: uint8 [N, H, W], 255 = ignored.
        classes: number of classes.

    """
    guess = resize_logits(logits, (labels.shape[-2], labels.shape[-1])).argmax(1)
    known = labels != IGNORE_LABEL
    pairs = labels[known].long() * classes + guess[known]
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def mean_iou(counts: Tensor) -> float:
    """Return the mean IoU (0..1) of a confusion matrix over the classes that occur."""
    hit = counts.diag()
    union = counts.sum(0) + counts.sum(1) - hit
    seen = union > 0
    return float((hit[seen] / union[seen]).mean()) if seen.any() else 0.0
