"""How much there is to see in a picture: scores by which training data are slimmed.

All look at the picture or at its labels, need no network, and are the same on every machine with
the same OpenCV. What each of them predicts: `benchmarks/complexity.py`, docs/slimming.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import IGNORE_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from seg_node.train.augment import Picture

    Score = Callable[[Picture], float]

JPEG_QUALITY = 75
LEVELS = 256
"""Grey levels."""
BITS = 8
"""Bits in a byte."""


def gradient(picture: Picture) -> float:
    """Return the mean magnitude of the grey image's gradient, in grey levels per pixel."""
    grey = _grey(picture).astype(np.float32)
    along = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3)
    # Sobel's kernel adds up eight times the slope.
    return float(np.hypot(along, down).mean()) / 8.0


def entropy(picture: Picture) -> float:
    """Return the entropy of the grey levels, in bits: 0 to 8."""
    counts = np.bincount(_grey(picture).ravel(), minlength=LEVELS)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def jpeg_size(picture: Picture) -> float:
    """Return the size as JPEG of quality 75, in bits per pixel."""
    return _bits(picture, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))


def png_size(picture: Picture) -> float:
    """Return the size as PNG, in bits per pixel."""
    return _bits(picture, ".png", ())


def boundaries(picture: Picture) -> float:
    """Return the share of labelled pixels whose right or lower neighbour has another label.

    0 where nothing is labelled: there is nothing to tell apart.
    """
    labels = picture.labels
    known = labels != IGNORE_LABEL
    edge = np.zeros(labels.shape, np.bool_)
    edge[:, :-1] |= (labels[:, :-1] != labels[:, 1:]) & known[:, :-1] & known[:, 1:]
    edge[:-1] |= (labels[:-1] != labels[1:]) & known[:-1] & known[1:]
    return float(edge.sum() / max(1, known.sum()))


SCORES: dict[str, Score] = {
    "boundaries": boundaries,
    "gradient": gradient,
    "entropy": entropy,
    "jpeg": jpeg_size,
    "png": png_size,
}
"""Scores by their name in `--complexity`: the larger, the more there is to see."""


@dataclass(frozen=True)
class Scored:
    """Frames with their complexity.

    Attributes:
        complexity: key of `SCORES`.
        names: of the frames.
        scores: of the frames, [N].

    """

    complexity: str
    names: tuple[str, ...]
    scores: NDArray[np.float64]


def score_pictures(names: Sequence[str], pictures: Sequence[Picture], complexity: str) -> Scored:
    """Score every picture.

    Args:
        names: of the pictures.
        pictures: labelled pictures.
        complexity: key of `SCORES`.

    Raises:
        DataError: a file cannot be read; the text names it.

    """
    measure = SCORES[complexity]
    scores = np.array([measure(picture) for picture in pictures], np.float64)
    return Scored(complexity, tuple(names), scores)


def ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the place of every score among all, 0 (least) to 1, equal ones the same, [N]."""
    if len(scores) == 1:
        return np.full(1, 0.5)
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    middle = last - (counts - 1) / 2
    return np.asarray(middle[place] / (len(scores) - 1), np.float64)


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation of two scores of the same things, -1 to 1."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def _grey(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture.image, cv2.COLOR_RGB2GRAY), np.uint8)


def _bits(picture: Picture, extension: str, how: tuple[int, ...]) -> float:
    _, data = cv2.imencode(extension, picture.image[:, :, ::-1], how)
    return float(data.size) * BITS / picture.labels.size
