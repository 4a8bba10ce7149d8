"""Scores during training: mean IoU at full and half resolution, and on blocks of both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from seg_node.core.config import Config, PolicyConfig
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import AllHigh, Ranked
from seg_node.core.scores import Complexity
from seg_node.core.types import Frame, IGNORE_LABEL
from seg_node.train.batches import halve
from seg_node.train.losses import resize_logits
from seg_node.train.resolution import use_resolution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn, Tensor

    from seg_node.core.policy import BlockPolicy
    from seg_node.train.augment import Picture
    from seg_node.train.policy import Pair
    from seg_node.train.policy_settings import PolicyTraining


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


def validate_blocks(
    pair: Pair, pictures: Sequence[Picture], classes: int, config: PolicyTraining
) -> dict[str, float]:
    """Score a policy as `evaluate` does: the target share of the blocks at full resolution.

    Args:
        pair: network and policy in eval mode.
        pictures: labelled frames.
        classes: number of classes.
        config: target and block_size.

    Returns:
        mean IoU (0..1) of the modes segblocks and dense, and the MACs that the first costs of
        the second's.

    """
    settings = Config(
        device=str(next(pair.network.parameters()).device),
        precision="fp32",
        mode="segblocks",
        block_size=config.block_size,
        policy=PolicyConfig(high_fraction=config.target),
    )
    policies: dict[str, BlockPolicy] = {
        "dense": AllHigh(),
        "segblocks": Ranked(Complexity(pair.policy)),
    }
    segmenter = Segmenter(pair.network, policies, settings)
    counts = {mode: torch.zeros(classes, classes, dtype=torch.int64) for mode in policies}
    macs = dict.fromkeys(policies, 0)
    for picture in pictures:
        labels = torch.from_numpy(picture.labels)
        for mode in policies:
            segmenter.reconfigure(replace(settings, mode=mode))
            result = segmenter.step(Frame(picture.image))
            counts[mode] += count_pairs(torch.from_numpy(result.labels), labels, classes)
            macs[mode] += result.report.macs
    return {
        "val_miou": mean_iou(counts["segblocks"]),
        "val_dense_miou": mean_iou(counts["dense"]),
        "val_macs": macs["segblocks"] / macs["dense"],
    }


def confusion(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count (true, predicted) pairs, int64 [classes, classes].

    Args:
        logits: [N, classes, h, w]; resized to the labels.
        labels: uint8 [N, H, W], 255 = ignored.
        classes: number of classes.

    """
    guess = resize_logits(logits, (labels.shape[-2], labels.shape[-1])).argmax(1)
    return count_pairs(guess, labels, classes)


def count_pairs(guess: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count (true, predicted) pairs, int64 [classes, classes].

    Args:
        guess: predicted class, any integers [N, H, W].
        labels: uint8 [N, H, W], 255 = ignored.
        classes: number of classes.

    """
    known = labels != IGNORE_LABEL
    pairs = labels[known].long() * classes + guess[known].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def mean_iou(counts: Tensor) -> float:
    """Return the mean IoU (0..1) of a confusion matrix over the classes that occur."""
    hit = counts.diag()
    union = counts.sum(0) + counts.sum(1) - hit
    seen = union > 0
    return float((hit[seen] / union[seen]).mean()) if seen.any() else 0.0
