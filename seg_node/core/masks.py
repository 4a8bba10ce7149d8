"""Logits become a mask: the class of each pixel, and how probable it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn import functional

from seg_node.core.types import ModelError
from seg_node.loops import compiling, deciding
from seg_node.loops.sharing import threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    Mask = tuple[NDArray[np.uint8], NDArray[np.uint8]]
    Planes = tuple[Tensor, Tensor]

CONFIDENCE_MAX = 255
STRIPE = 16
"""Rows of logits that are enlarged at a time."""

_LEAST = 1e-30
"""Sums of exponentials below this are as good as zero; what is divided by them is, too."""


def decide(logits: Tensor, stride: int, size: tuple[int, int]) -> Mask:
    """Upsample logits to pixels and choose the class of most probability.

    Args:
        logits: [1, classes, h, w].
        stride: image pixels per logit, on each axis.
        size: image size (H, W), at most stride times (h, w).

    Returns:
        class id, uint8 [H, W], and its probability times 255, uint8 [H, W].

    """
    labels, confidence = decide_planes(logits, stride, size)
    return labels.cpu().numpy(), confidence.cpu().numpy()


def decide_planes(logits: Tensor, stride: int, size: tuple[int, int]) -> Planes:
    """Do the same, and leave the result on the device.

    Raises:
        ModelError: the logits do not cover the image, so the network's stride is not what it says.

    """
    covered = logits.shape[-2] * stride, logits.shape[-1] * stride
    if size[0] > covered[0] or size[1] > covered[1]:
        msg = (
            f"logits of {tuple(logits.shape[-2:])} at stride {stride} cover {covered} pixels of "
            f"an image of {size}; a network has to return one pixel for each stride, rounded up"
        )
        raise ModelError(msg)
    if compiling.usable(logits):
        mask = tuple(np.empty(size, np.uint8) for _ in range(2))
        deciding.decide(threads(), logits[0].contiguous().numpy(), stride, *mask)
        return torch.from_numpy(mask[0]), torch.from_numpy(mask[1])
    # The largest logit of each feature pixel becomes zero: no exponential of them can overflow.
    planes = (logits - logits.amax(1, keepdim=True)).float().contiguous()
    on_cpu = logits.device.type == "cpu"
    labels, confidence = (_decide_plane_by_plane if on_cpu else _decide_at_once)(planes, stride)
    return labels[: size[0], : size[1]], confidence[: size[0], : size[1]]


def _decide_at_once(planes: Tensor, stride: int) -> Planes:
    """Return class and probability of every pixel by reductions over the classes."""
    full = functional.interpolate(planes, scale_factor=stride, mode="bilinear")
    best, labels = full.max(1)
    share = torch.exp(best - full.logsumexp(1)) * CONFIDENCE_MAX
    return labels[0].to(torch.uint8), share[0].round().to(torch.uint8)


def _decide_plane_by_plane(planes: Tensor, stride: int) -> Planes:
    """Return class and probability of every pixel, one class after the other.

    Two planes of pixels are held instead of one per class, and of these a stripe at a time: more
    would leave the CPU's caches.
    """
    _, _, h, w = planes.shape
    logits = planes[0].numpy()
    labels, confidence = (np.empty((h * stride, w * stride), np.uint8) for _ in range(2))
    for top in range(0, h, STRIPE):
        bottom = min(top + STRIPE, h)
        first, last = max(top - 1, 0), min(bottom + 1, h)  # a row more on each side, to blend with
        size = (w * stride, (last - first) * stride)
        inside = slice((top - first) * stride, (bottom - first) * stride)
        found = _choose(
            cv2.resize(plane[first:last], size, interpolation=cv2.INTER_LINEAR)[inside]
            for plane in logits
        )
        rows = slice(top * stride, bottom * stride)
        labels[rows], confidence[rows] = found
    return torch.from_numpy(labels), torch.from_numpy(confidence)


def decide_rows(logits: Tensor) -> Planes:
    """Choose the class of most probability for pixels of anywhere.

    Args:
        logits: [n, classes].

    Returns:
        class id, uint8 [n], and its probability times 255, uint8 [n], on the same device.

    """
    rows = (logits - logits.amax(1, keepdim=True)).float()
    if rows.device.type == "cpu":
        found = _choose(iter(rows.T.contiguous().numpy()[:, None]))
        label, confidence = (torch.from_numpy(row[0]) for row in found)
        return label, confidence
    best, labels = rows.max(1)
    share = torch.exp(best - rows.logsumexp(1)) * CONFIDENCE_MAX
    return labels.to(torch.uint8), share.round().to(torch.uint8)


def _choose(planes: Iterator[NDArray[np.float32]]) -> Mask:
    """Return class and probability from planes of logits, one for each class, float32 [h, w]."""
    best = next(planes)
    total = cv2.exp(best)
    labels = np.zeros(best.shape, np.uint8)
    for index, plane in enumerate(planes, start=1):
        more = cv2.compare(plane, best, cv2.CMP_GT)
        np.copyto(labels, np.uint8(index), where=more.view(np.bool_))
        best = np.asarray(cv2.max(plane, best), np.float32)
        total = cv2.add(total, cv2.exp(plane))
    share = cv2.divide(cv2.exp(best), np.maximum(total, _LEAST))
    return labels, np.asarray(cv2.convertScaleAbs(share, alpha=CONFIDENCE_MAX), np.uint8)


def resize_result(
    labels: NDArray[np.uint8], confidence: NDArray[np.uint8], size: tuple[int, int]
) -> Mask:
    """Resize labels (nearest) and confidence (bilinear) to the image's size (H, W)."""
    if labels.shape == size:
        return labels, confidence
    target = (size[1], size[0])
    return (
        np.asarray(cv2.resize(labels, target, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8),
        np.asarray(cv2.resize(confidence, target, interpolation=cv2.INTER_LINEAR), np.uint8),
    )
