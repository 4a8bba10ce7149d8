"""Training batches as a pure function of (seed, step): a resumed run is the same run.

Labelled frames, unlabelled frames with a teacher's soft labels, and rendered streets are mixed.
Every slot of a batch draws from a generator of its own, so several processes that share the
slots of a step between them see together exactly what one process sees. Batches are prepared
ahead in threads: numpy and OpenCV release the interpreter while torch computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from seg_node.core.types import ConfigError, IGNORE_LABEL
from seg_node.data.street import Street
from seg_node.train.augment import augment, paste, Picture, SOFT_STRIDE
from seg_node.train.distributed import Share

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch import Tensor
    from typing_extensions import Self

    from seg_node.train.settings import Training


class Portable(Protocol):
    """What a step computes on: it can be brought to a device."""

    def to(self, device: torch.device) -> Self:
        """Return it on a device."""
        ...


Settings = TypeVar("Settings", bound="Training")
"""Which training's hyper-parameters."""
Made = TypeVar("Made", bound=Portable)
"""What a training computes on in one step."""

STREET_SEED_OFFSET = 1_000_000
"""Training streets use seeds from here up; smaller seeds stay unseen for demos and tests."""
STREET_FRAMES = 600
"""Frames of each training street among which one is drawn."""
STREET_TRIES = 3
"""Frames of each street from which one is taken."""
SHOWN_PIXELS = 30
"""Smallest area that shows a class."""
COUNTED = 500
"""Pictures that are looked at for the shares of the classes."""
AHEAD = 1
"""Batches that wait ready, beside those that the threads are at."""


@dataclass(frozen=True)
class Batch:
    """What one process computes on in one step.

    Attributes:
        images: uint8 [N, 3, h, w]; half the size of the labels where `low`.
        labels: int64 [N, H, W], 255 = void.
        soft: a teacher's probabilities, float [N, classes, H/4, W/4], 0 where unknown; or None.
        low: whether the images are halved.
        emphasis: factor of every sample's part in the loss, [N]; None for 1.

    """

    images: Tensor
    labels: Tensor
    soft: Tensor | None
    low: bool
    emphasis: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        soft = None if self.soft is None else self.soft.to(device)
        emphasis = None if self.emphasis is None else self.emphasis.to(device)
        return Batch(self.images.to(device), self.labels.to(device), soft, self.low, emphasis)


def render_streets(count: int, seed: int) -> list[Picture]:
    """Render one frame of each of `count` streets; about 60 ms of one core each.

    Of three random frames the one with the most classes is taken: fences and cyclists are rare
    on the street, and what is never seen is never learned.
    """
    rng = np.random.default_rng((seed, 2))
    frames = rng.integers(STREET_FRAMES, size=(count, STREET_TRIES))
    made = []
    for index, tries in enumerate(frames):
        street = Street(STREET_SEED_OFFSET + index)
        pictures = [Picture(*street.picture(int(frame))) for frame in tries]
        made.append(max(pictures, key=shown_classes))
    return made


def shown_classes(picture: Picture) -> int:
    """Return how many classes cover at least `SHOWN_PIXELS` of a picture."""
    counts = np.bincount(picture.labels[picture.labels != IGNORE_LABEL])
    return int((counts >= SHOWN_PIXELS).sum())


def halve(images: Tensor) -> Tensor:
    """Halve uint8 images [N, 3, H, W] by averaging 2x2 pixels, as `input.scale` 0.5 does."""
    return avg_pool2d(images.float(), 2).round().to(torch.uint8)


@dataclass(frozen=True)
class Pools:
    """What samples are drawn from.

    Attributes:
        labelled: frames with labels.
        streets: rendered streets.
        unlabelled: frames with soft labels only.
        soft_classes: classes of the soft labels that pictures carry; 0 without a teacher.

    """

    labelled: Sequence[Picture]
    streets: Sequence[Picture] = ()
    unlabelled: Sequence[Picture] = ()
    soft_classes: int = 0

    def loose_shares(self, config: Training) -> tuple[float, float]:
        """Return the shares of samples that are streets, and that are unlabelled."""
        streets = config.street_share if self.streets else 0.0
        return streets, config.unlabelled_share if self.unlabelled else 0.0


class Maker(ABC, Generic[Settings, Made]):
    """Makes what any step of a run computes on.

    Args:
        config: batch size, seed and threads.
        share: part of every batch that is made here.

    Raises:
        ConfigError: more processes than samples in a batch.

    """

    def __init__(self, config: Settings, share: Share | None = None) -> None:
        """Keep the settings."""
        self.config = config
        self.share = share or Share()
        if config.batch < self.share.world:
            msg = f"batch is {config.batch} for {self.share.world} processes; give one each"
            raise ConfigError(msg)

    @abstractmethod
    def __call__(self, step: int) -> Made:
        """Return what one step computes on."""

    def run(self, first: int, last: int) -> Generator[tuple[int, Made], None, None]:
        """Yield (step, batch) for first <= step < last, in order, prepared ahead in threads."""
        workers = self.config.workers
        with ThreadPoolExecutor(workers, "batches") as pool:
            ahead: deque[tuple[int, Future[Made]]] = deque()
            for step in range(first, last):
                ahead.append((step, pool.submit(self, step)))
                if len(ahead) > workers + AHEAD:
                    ready, batch = ahead.popleft()
                    yield ready, batch.result()
            for ready, batch in ahead:
                yield ready, batch.result()


class BatchMaker(Maker[Settings, Batch]):
    """Makes the batch of any step of a run.

    Args:
        pools: what samples are drawn from.
        config: batch size, shares, augmentation and seed.
        share: part of every batch that is made here.

    Raises:
        ConfigError: more processes than samples in a batch.

    """

    def __init__(self, pools: Pools, config: Settings, share: Share | None = None) -> None:
        """Keep the pools."""
        super().__init__(config, share)
        self.pools = pools
        self.street_share, self.unlabelled_share = pools.loose_shares(config)

    def __call__(self, step: int) -> Batch:
        """Return the batch of one step."""
        config = self.config
        low = np.random.default_rng((config.seed, step, 3)).random() < config.halved_share
        mine = self.slots(step)
        made = [self._sample(step, slot) for slot in mine]
        images = _stack([picture.image.transpose(2, 0, 1) for picture in made])
        labels = _stack([picture.labels for picture in made]).long()
        seen = halve(images) if low else images
        soft = self._stack_soft(made)
        return Batch(seen, labels, soft, bool(low), self.emphasis(step, mine))

    def slots(self, step: int) -> Sequence[int]:  # noqa: ARG002 - subclasses may leave some out
        """Return which samples of a step's batch this process makes."""
        return range(self.share.rank, self.config.batch, self.share.world)

    def emphasis(self, step: int, slots: Sequence[int]) -> Tensor | None:  # noqa: ARG002 - subclasses may weigh
        """Return the factors of the samples in the loss; None for 1."""
        return None

    def look(self, step: int) -> tuple[Settings, tuple[int, int]]:
        """Return how pictures are augmented at a step, and (width, height) of the crop."""
        return self.config, self.config.crop_at(step)

    def _stack_soft(self, made: Sequence[Picture]) -> Tensor | None:
        """Stack soft labels; samples without any count as unknown everywhere.

        Whether there is a teacher decides, and not what was drawn: all processes must agree.
        """
        if not self.pools.soft_classes:
            return None
        height, width = (-(-side // SOFT_STRIDE) for side in made[0].labels.shape)
        blank = np.zeros((height, width, self.pools.soft_classes), np.uint8)
        soft = _stack([blank if picture.soft is None else picture.soft for picture in made])
        return soft.permute(0, 3, 1, 2).float() / 255.0

    def _sample(self, step: int, slot: int) -> Picture:
        rng = np.random.default_rng((self.config.seed, step, slot, 4))
        picture, pool = self._draw(step, slot, rng)
        how, crop = self.look(step)
        made = augment(picture, how, crop, rng)
        if pool is not self.pools.unlabelled and rng.random() < self.config.paste:
            other = pool[int(rng.integers(len(pool)))]
            made = paste(made, augment(other, how, crop, rng), rng)
        return made

    def _draw(
        self, step: int, slot: int, rng: np.random.Generator
    ) -> tuple[Picture, Sequence[Picture]]:
        """Return a picture and the pool that it comes from."""
        pools, dice = self.pools, rng.random()
        if dice < self.street_share:
            return pools.streets[int(rng.integers(len(pools.streets)))], pools.streets
        if dice < self.street_share + self.unlabelled_share:
            return pools.unlabelled[int(rng.integers(len(pools.unlabelled)))], pools.unlabelled
        return pools.labelled[self.frame(step, slot)], pools.labelled

    def frame(self, step: int, slot: int) -> int:
        """Return which labelled frame is next."""
        return self.index(step * self.config.batch + slot)

    def index(self, position: int) -> int:
        """Walk the labelled frames in a new order every epoch."""
        return walk(position, len(self.pools.labelled), self.config.seed)


def walk(position: int, count: int, seed: int) -> int:
    """Return which of `count` samples is the next one: all of them, in a new order every epoch."""
    epoch, offset = divmod(position, count)
    return int(np.random.default_rng((seed, epoch, 1)).permutation(count)[offset])


def _stack(arrays: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def label_counts(pictures: Sequence[Picture], classes: int) -> Tensor:
    """Return labelled pixels per class [classes] over the pictures, at least 1 each.

    Of more than `COUNTED` pictures, as many are counted, spread evenly.
    """
    total = np.ones(classes, np.int64)
    for picture in pictures[:: -(-len(pictures) // COUNTED) or 1]:
        known = picture.labels[picture.labels != IGNORE_LABEL]
        total += np.bincount(known, minlength=classes)
    return torch.from_numpy(total)
