"""What is added to the logits of each class so that mIoU is best: logit adjustment after training.

Training weights rare classes up, so that they are learned at all; what was learned then claims too
many pixels for them, which mIoU counts twice, in the class that wins and in the one that loses.
One number per class, found on the training data, takes that back (Menon et al., "Long-tail
learning via logit adjustment", ICLR 2021, section 4; there the numbers follow from the classes'
shares, here they are searched for, because the measure is mIoU).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from seg_node.core.types import DataError, IGNORE_LABEL, ModelError
from seg_node.train.losses import resize_logits
from seg_node.train.validation import count_pairs, mean_iou

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn, Tensor

    from seg_node.train.augment import Picture

PIXELS = 2_000_000
"""Labelled pixels that are looked at, spread evenly over the frames: 90 MB for 11 classes."""
LARGEST = 3.0
"""Largest offset: a factor of 20 of a class's probability."""
STEP = 0.125
"""Distance of the offsets that are tried."""
SWEEPS = 10
"""Most rounds over all classes; four or five are enough for mIoU to stand still."""
FOLDS = 5
"""Parts of the frames, each of which is once held out."""


@dataclass(frozen=True)
class Pixels:
    """Pixels drawn from some frames.

    Attributes:
        logits: float32 [P, classes].
        labels: uint8 [P], no void.

    """

    logits: Tensor
    labels: Tensor

    def miou(self, offsets: Tensor) -> float:
        """Return the mean IoU (0..1) with these offsets [classes] added to the logits."""
        guess = (self.logits + offsets).argmax(1)
        return mean_iou(count_pairs(guess, self.labels, self.logits.shape[1]))


@dataclass(frozen=True)
class Gain:
    """Mean IoU (0..1) without and with offsets.

    Attributes:
        before: without.
        after: with those that were found on the same pixels.
        held_before: mean over frames held out, part by part, without.
        held_after: the same, with offsets found on the other parts.

    """

    before: float
    after: float
    held_before: float
    held_after: float


@torch.inference_mode()
def draw_pixels(
    net: nn.Module,
    pictures: Sequence[Picture],
    seed: int = 0,
    tell: Callable[[int], None] = lambda _: None,
) -> list[Pixels]:
    """Run a network over labelled pictures and draw some labelled pixels of each.

    Args:
        net: network in eval mode.
        pictures: labelled frames.
        seed: of the drawing.
        tell: called with the number of frames done.

    Returns:
        the pixels of every frame.

    Raises:
        DataError: no pixel is labelled.

    """
    device = next(net.parameters()).device
    dice = torch.Generator().manual_seed(seed)
    share = max(1, PIXELS // max(1, len(pictures)))
    drawn = []
    for done, picture in enumerate(pictures, start=1):
        labels = torch.from_numpy(picture.labels)
        image = torch.from_numpy(picture.image).permute(2, 0, 1)[None].to(device)
        logits = resize_logits(net(image).float().cpu(), (labels.shape[0], labels.shape[1]))[0]
        known = (labels.flatten() != IGNORE_LABEL).nonzero()[:, 0]
        known = known[torch.randperm(len(known), generator=dice)[:share]]
        drawn.append(Pixels(logits.flatten(1)[:, known].T.contiguous(), labels.flatten()[known]))
        tell(done)
    if not sum(len(pixels.labels) for pixels in drawn):
        msg = f"none of the {len(pictures)} frames has a labelled pixel; give labelled data"
        raise DataError(msg)
    return drawn


def find_offsets(frames: Sequence[Pixels]) -> Tensor:
    """Return the offsets [classes] of best mIoU, found class by class.

    Each is a multiple of `STEP` within -`LARGEST`..`LARGEST`. A class without labelled pixels
    keeps 0.
    """
    pixels = _joined(frames)
    offsets = torch.zeros(pixels.logits.shape[1])
    best = pixels.miou(offsets)
    seen = pixels.labels.bincount().nonzero()[:, 0].tolist()
    for _ in range(SWEEPS):
        before = best
        for label in seen:
            score, offset = _best_of_class(pixels, offsets, label)
            if score > best:
                offsets[label], best = offset, score
        if best == before:
            break
    return offsets


def _best_of_class(pixels: Pixels, offsets: Tensor, label: int) -> tuple[float, float]:
    """Return the best mIoU that the offset of one class can reach, and that offset.

    A pixel goes to the class from one offset on, and is its runner-up's below it. So one pass
    over the pixels counts for every offset which pixels it wins.
    """
    tried = torch.arange(-LARGEST, LARGEST + STEP / 2, STEP)
    classes = len(offsets)
    others = pixels.logits + offsets
    others[:, label] = -torch.inf
    strength, runner = others.max(1)
    first = torch.searchsorted(tried, strength - pixels.logits[:, label], right=True)
    cells = (first * classes + pixels.labels) * classes + runner
    counts = torch.bincount(cells, minlength=(len(tried) + 1) * classes**2)
    counts = counts.view(-1, classes, classes)
    won = counts.cumsum(0)[:-1]
    pairs = counts.sum(0) - won
    pairs[:, :, label] += won.sum(2)
    scores = [mean_iou(matrix) for matrix in pairs]
    best = max(range(len(tried)), key=scores.__getitem__)
    return scores[best], float(tried[best])


def judge(frames: Sequence[Pixels], offsets: Tensor, strength: float = 1.0) -> Gain:
    """Say what offsets [classes] are worth, on the frames they were found on and on others.

    For the latter, frames are cut into `FOLDS` runs of neighbours, so that a place is hardly ever
    on both sides; fewer frames than that are one part each.

    Args:
        frames: pixels of each frame.
        offsets: found on them, at full strength.
        strength: part of the offsets that is added, 0..1.

    """
    whole, none = _joined(frames), torch.zeros_like(offsets)
    count = min(FOLDS, len(frames))
    bounds = [len(frames) * part // count for part in range(count + 1)]
    scores = []
    for first, last in pairwise(bounds):
        held, others = frames[first:last], [*frames[:first], *frames[last:]]
        found = find_offsets(others) if others else none
        part = _joined(held)
        scores.append((part.miou(none), part.miou(strength * found)))
    before, after = torch.tensor(scores).mean(0).tolist()
    return Gain(whole.miou(none), whole.miou(strength * offsets), before, after)


def last_bias(net: nn.Module) -> Tensor:
    """Return the bias [classes] of the last layer, which the offsets are added to.

    Raises:
        ModelError: the network does not end in a convolution with a bias.

    """
    head = getattr(net, "head", None)
    if not isinstance(head, torch.nn.Conv2d) or head.bias is None:
        msg = (
            f"the head of {type(net).__name__} is {type(head).__name__}: offsets need a last "
            "convolution with a bias, as `head = nn.Conv2d(channels, classes, 1)`"
        )
        raise ModelError(msg)
    return head.bias


def _joined(frames: Sequence[Pixels]) -> Pixels:
    logits = torch.cat([pixels.logits for pixels in frames])
    return Pixels(logits, torch.cat([pixels.labels for pixels in frames]))
