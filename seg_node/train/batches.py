"""Training batches as a pure function of (seed, step): a resumed run is the same run.

Labelled frames and rendered streets are mixed; every sample is scaled, cropped, flipped and
jittered. Batches are prepared one step ahead in a thread: numpy and OpenCV release the
interpreter while torch computes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.types import IGNORE_LABEL
from seg_node.data.street import Street

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.data.datasets import Sample
    from seg_node.train.settings import Augmentation, SegmentTraining

    Picture = tuple[NDArray[np.uint8], NDArray[np.uint8]]

STREET_SEED_OFFSET = 1_000_000
"""Training streets use seeds from here up; smaller seeds stay unseen for demos and tests."""
STREET_FRAMES = 600
"""Frames of each training street among which one is drawn."""


def jitter_color(
    image: NDArray[np.uint8], amount: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Vary brightness, contrast and saturation of an RGB image by at most `amount`."""
    bright, contrast, saturation = 1.0 + rng.uniform(-amount, amount, 3)
    pixels = image.astype(np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    mean = float(grey.mean())
    pixels = grey[:, :, None] + saturation * (pixels - grey[:, :, None])
    pixels = (mean + contrast * (pixels - mean)) * bright
    clipped: NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return clipped


def augment(
    picture: Picture, how: Augmentation, crop: tuple[int, int], rng: np.random.Generator
) -> Picture:
    """Scale, crop to (width, height) padding with void, flip and jitter one picture."""
    image, labels = picture
    width, height = crop
    factor = float(np.exp(rng.uniform(*np.log(how.scale))))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    shrink = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(image, size, interpolation=shrink), np.uint8)
    labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    down, right = max(0, height - size[1]), max(0, width - size[0])
    if down or right:
        image = np.pad(image, ((0, down), (0, right), (0, 0)), constant_values=114)
        labels = np.pad(labels, ((0, down), (0, right)), constant_values=IGNORE_LABEL)
    top = int(rng.integers(image.shape[0] - height + 1))
    left = int(rng.integers(image.shape[1] - width + 1))
    image = image[top : top + height, left : left + width]
    labels = labels[top : top + height, left : left + width]
    if rng.random() < 0.5:  # noqa: PLR2004 - a fair coin
        image, labels = image[:, ::-1], labels[:, ::-1]
    return jitter_color(image, how.jitter, rng), np.ascontiguousarray(labels)


def render_streets(count: int, seed: int) -> list[Picture]:
    """Render one random frame of each of `count` streets; about 0.2 s of one core each."""
    rng = np.random.default_rng((seed, 2))
    frames = rng.integers(STREET_FRAMES, size=count)
    return [
        Street(STREET_SEED_OFFSET + index).picture(int(frame))
        for index, frame in enumerate(frames)
    ]


class BatchMaker:
    """Makes the batch of any step of a run.

    Args:
        samples: labelled frames; without any, all samples are streets.
        config: batch size, share of streets, augmentation and seed.

    """

    def __init__(self, samples: Sequence[Sample], config: SegmentTraining) -> None:
        """Keep the decoded labelled frames in memory and render the streets."""
        self.pictures: list[Picture] = [
            (s.frame.image, s.labels) for s in samples if s.labels is not None
        ]
        self.size = config.batch
        self.street_share = config.street_share if self.pictures else 1.0
        self.seed = config.seed
        self.how = config.augmentation
        self.streets = render_streets(config.streets, self.seed) if self.street_share > 0 else []

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images uint8 [N, 3, H, W] and labels int64 [N, H, W] of one step."""
        rng = np.random.default_rng((self.seed, step))
        made = [augment(p, self.how, self.how.crop_at(step), rng) for p in self._draw(step, rng)]
        images = np.stack([image for image, _ in made]).transpose(0, 3, 1, 2)
        labels = np.stack([label for _, label in made]).astype(np.int64)
        return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels)

    def _draw(self, step: int, rng: np.random.Generator) -> Iterator[Picture]:
        for slot in range(self.size):
            if rng.random() < self.street_share:
                yield self.streets[int(rng.integers(len(self.streets)))]
            else:
                yield self.pictures[self._index(step * self.size + slot)]

    def _index(self, position: int) -> int:
        """Walk the labelled frames in a new order every epoch."""
        epoch, offset = divmod(position, len(self.pictures))
        order = np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.pictures))
        return int(order[offset])

    def run(self, first: int, last: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (step, images, labels) for first <= step < last, one step prepared ahead."""
        if first >= last:
            return
        with ThreadPoolExecutor(1, "batches") as pool:
            ahead = pool.submit(self, first)
            for step in range(first, last):
                images, labels = ahead.result()
                if step + 1 < last:
                    ahead = pool.submit(self, step + 1)
                yield step, images, labels

    def label_counts(self, classes: int) -> Tensor:
        """Return labelled pixels per class [classes] over all labelled frames, at least 1 each."""
        total = np.ones(classes, np.int64)
        for _, labels in self.pictures:
            total += np.bincount(labels[labels != IGNORE_LABEL], minlength=classes)
        return torch.from_numpy(total)
