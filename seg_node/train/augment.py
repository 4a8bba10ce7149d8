"""Label-safe augmentation: what moves pixels moves labels and soft labels alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import IGNORE_LABEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.train.settings import Training

PADDING_GREY = 114
SOFT_STRIDE = 4
"""Image pixels per soft label, on each axis."""
PASTED_SHARE = 0.1
"""Classes that cover less than this share of a picture are small."""
REMAP_CHANNELS = 4
"""Most channels that OpenCV warps at once."""


@dataclass(frozen=True)
class Picture:
    """One training sample.

    Attributes:
        image: RGB, uint8 [H, W, 3].
        labels: class per pixel, uint8 [H, W], 255 = void.
        soft: a teacher's class probabilities times 255, uint8 [ceil(H/4), ceil(W/4), classes];
            None without a teacher.

    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    soft: NDArray[np.uint8] | None = None


def augment(
    picture: Picture, how: Training, crop: tuple[int, int], rng: np.random.Generator
) -> Picture:
    """Scale, crop to (width, height) padding with void, flip, and disturb the colours.

    The soft labels that come back are zero where the crop reaches over the picture's edge.
    """
    factor = float(np.exp(rng.uniform(*np.log((how.scale_min, how.scale_max)))))
    moved = _scale_and_crop(picture, factor, crop, rng)
    if rng.random() < how.flip:
        moved = _flip(moved)
    image = jitter_color(moved.image, how.jitter, rng)
    if rng.random() < how.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5)), np.uint8)
    if rng.random() < how.jpeg:
        image = jpeg_round_trip(image, int(rng.integers(40, 96)))
    return Picture(image, moved.labels, moved.soft)


def _scale_and_crop(
    picture: Picture, factor: float, crop: tuple[int, int], rng: np.random.Generator
) -> Picture:
    width, height = crop
    size = tuple(max(1, round(side * factor)) for side in picture.labels.shape[::-1])
    shrink = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(picture.image, size, interpolation=shrink), np.uint8)
    labels = np.asarray(
        cv2.resize(picture.labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
    )
    left = int(rng.integers(max(0, size[0] - width) + 1))
    top = int(rng.integers(max(0, size[1] - height) + 1))
    image = image[top : top + height, left : left + width]
    labels = labels[top : top + height, left : left + width]
    down, right = height - labels.shape[0], width - labels.shape[1]
    if down or right:
        image = np.pad(image, ((0, down), (0, right), (0, 0)), constant_values=PADDING_GREY)
        labels = np.pad(labels, ((0, down), (0, right)), constant_values=IGNORE_LABEL)
    if picture.soft is None:
        return Picture(image, labels)
    scale = (size[0] / picture.labels.shape[1], size[1] / picture.labels.shape[0])
    return Picture(image, labels, _crop_soft(picture.soft, scale, (left, top), crop))


def _crop_soft(
    soft: NDArray[np.uint8],
    scale: tuple[float, float],
    origin: tuple[int, int],
    crop: tuple[int, int],
) -> NDArray[np.uint8]:
    """Sample soft labels at the centres of the crop's 4x4 cells; zero outside the picture."""
    width, height = (-(-side // SOFT_STRIDE) for side in crop)
    # Cell i of the crop lies at image pixel (origin + 4 (i + 1/2)) / scale of the picture.
    matrix = np.zeros((2, 3))
    for axis in (0, 1):
        matrix[axis, axis] = 1.0 / scale[axis]
        start = origin[axis] + SOFT_STRIDE / 2
        matrix[axis, 2] = start / scale[axis] / SOFT_STRIDE - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    planes = [
        cv2.warpAffine(
            np.ascontiguousarray(soft[:, :, first : first + REMAP_CHANNELS]),
            matrix,
            (width, height),
            flags=flags,
        ).reshape(height, width, -1)
        for first in range(0, soft.shape[2], REMAP_CHANNELS)
    ]
    return np.asarray(np.concatenate(planes, axis=2), np.uint8)


def paste(onto: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Paste the pixels of some small classes of another picture of the same size.

    Of the classes that cover less than `PASTED_SHARE` of the other picture each is pasted with
    probability 1/2. Rare things so appear in many surroundings: after ClassMix (Olsson et al.,
    WACV 2021), with small classes instead of any, so that the scene stays a scene.
    """
    known = other.labels[other.labels != IGNORE_LABEL]
    counts = np.bincount(known, minlength=IGNORE_LABEL + 1)
    small = np.flatnonzero((counts > 0) & (counts < PASTED_SHARE * other.labels.size))
    chosen = np.zeros(IGNORE_LABEL + 1, np.bool_)
    chosen[small[rng.random(len(small)) < 0.5]] = True  # noqa: PLR2004 - a fair coin
    mask = chosen[other.labels]
    image = np.where(mask[:, :, None], other.image, onto.image)
    labels = np.where(mask, other.labels, onto.labels)
    if onto.soft is None:
        return Picture(image, labels)
    centres = mask[SOFT_STRIDE // 2 :: SOFT_STRIDE, SOFT_STRIDE // 2 :: SOFT_STRIDE]
    pasted = np.zeros_like(onto.soft) if other.soft is None else other.soft
    return Picture(image, labels, np.where(centres[:, :, None], pasted, onto.soft))


def _flip(picture: Picture) -> Picture:
    soft = None if picture.soft is None else picture.soft[:, ::-1]
    return Picture(picture.image[:, ::-1], picture.labels[:, ::-1], soft)


def jitter_color(
    image: NDArray[np.uint8], amount: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Vary brightness, contrast and saturation of an RGB image by at most `amount`."""
    image = np.ascontiguousarray(image)
    bright, contrast, saturation = 1.0 + rng.uniform(-amount, amount, 3)
    # One affine map of RGB: mix with grey, spread around the mean, scale.
    grey = np.array([0.299, 0.587, 0.114])
    mean = float(grey @ cv2.mean(image)[:3])
    mix = saturation * np.eye(3) + (1.0 - saturation) * np.tile(grey, (3, 1))
    matrix = np.column_stack(
        (bright * contrast * mix, np.full(3, bright * (1.0 - contrast) * mean))
    )
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def jpeg_round_trip(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode an RGB image as JPEG of a quality (1..100) and decode it again."""
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(decoded, np.uint8)[:, :, ::-1])
