"""Batches of frame pairs as a pure function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.types import Motion
from seg_node.train.batches import Batch, Maker, walk
from seg_node.train.low_settings import LowTraining
from seg_node.train.pair_motion import disturbed, estimated
from seg_node.train.pairs import augment_pair, FramePair, inside
from seg_node.train.still_pairs import still_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from seg_node.train.augment import Picture
    from seg_node.train.distributed import Share
    from seg_node.train.rides import Ride

NEAR = 3
"""Distances up to which the motion of stills is estimated."""
DICE = 7
"""Number of the stream of random numbers that pairs are drawn from."""


@dataclass(frozen=True)
class PairBatch:
    """What one process computes on in one step.

    Attributes:
        images: present frames, uint8 [N, 3, H, W].
        labels: int64 [N, H, W], 255 = void.
        keys: remembered frames, uint8 [N, 3, H, W].
        flow: from the present frames to the remembered ones, in pixels, float32 [N, H, W, 2].
        valid: where the flow points at what is in the remembered frame, bool [N, H, W].

    """

    images: Tensor
    labels: Tensor
    keys: Tensor
    flow: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on a device."""
        parts = (self.images, self.labels, self.keys, self.flow, self.valid)
        return PairBatch(*(part.to(device) for part in parts))

    def task(self) -> Batch:
        """Return what the loss by the labels needs."""
        return Batch(self.images, self.labels, None, low=False)


@dataclass(frozen=True)
class PairPools:
    """What pairs are drawn from.

    Attributes:
        stills: labelled frames without neighbours.
        streets: rendered streets, with exact motion.
        clips: real clips without labels.

    """

    stills: Sequence[Picture]
    streets: Sequence[Ride] = field(default=())
    clips: Sequence[Ride] = field(default=())


class PairMaker(Maker[LowTraining, PairBatch]):
    """Makes the batch of pairs of any step of a run.

    Args:
        pools: what pairs are drawn from.
        config: batch size, shares, distances, augmentation and seed.
        share: part of every batch that is made here.

    Raises:
        ConfigError: more processes than samples in a batch.

    """

    def __init__(self, pools: PairPools, config: LowTraining, share: Share | None = None) -> None:
        """Keep the pools."""
        super().__init__(config, share)
        self.pools = pools
        self.street_share = config.street_share if pools.streets else 0.0
        self.unlabelled_share = config.unlabelled_share if pools.clips else 0.0

    def __call__(self, step: int) -> PairBatch:
        """Return the batch of one step."""
        mine = range(self.share.rank, self.config.batch, self.share.world)
        made = [self.sample(step, slot) for slot in mine]
        return PairBatch(
            torch.from_numpy(np.stack([p.picture.image for p in made])).permute(0, 3, 1, 2),
            torch.from_numpy(np.stack([p.picture.labels for p in made])).long(),
            torch.from_numpy(np.stack([p.key for p in made])).permute(0, 3, 1, 2),
            torch.from_numpy(np.stack([p.motion.flow for p in made])),
            torch.from_numpy(np.stack([p.motion.valid for p in made])),
        )

    def sample(self, step: int, slot: int) -> FramePair:
        """Return one pair of a step, augmented, with motion as it is known at run time."""
        config = self.config
        rng = np.random.default_rng((config.seed, step, slot, DICE))
        pair = augment_pair(self._draw(step, slot, rng), config, rng)
        if rng.random() >= config.motion_noise:
            return pair
        return FramePair(pair.picture, pair.key, disturbed(pair.motion, rng))

    def _draw(self, step: int, slot: int, rng: np.random.Generator) -> FramePair:
        pools, dice = self.pools, rng.random()
        if dice < self.street_share:
            return self._of_ride(pools.streets[int(rng.integers(len(pools.streets)))], rng)
        if dice < self.street_share + self.unlabelled_share:
            return self._of_ride(pools.clips[int(rng.integers(len(pools.clips)))], rng)
        position = step * self.config.batch + slot
        return self._of_still(walk(position, len(pools.stills), self.config.seed), rng)

    def _of_ride(self, ride: Ride, rng: np.random.Generator) -> FramePair:
        distance = int(rng.integers(1, min(self.config.distance_max, len(ride) - 1) + 1))
        now = int(rng.integers(distance, len(ride)))
        estimate = rng.random() < self.config.estimated_share
        pair = ride.pair(now, distance, estimate=estimate)
        return pair if estimate else self._known(pair, rng)

    def _of_still(self, index: int, rng: np.random.Generator) -> FramePair:
        stills, config = self.pools.stills, self.config
        distance = int(rng.integers(1, config.distance_max + 1))
        other = int(rng.integers(len(stills)))
        things = stills[other] if rng.random() < config.paste else None
        pair = still_pair(stills[index], things, distance, rng)
        # Farther ones are not: there are no frames between, over which the node goes step by step.
        if distance <= NEAR and rng.random() < config.estimated_share:
            return FramePair(pair.picture, pair.key, estimated(pair.key, pair.picture.image))
        return self._known(pair, rng)

    def _known(self, pair: FramePair, rng: np.random.Generator) -> FramePair:
        """Mark or do not mark what was hidden."""
        if rng.random() < self.config.hidden_known:
            return pair
        flow = pair.motion.flow
        return FramePair(pair.picture, pair.key, Motion(flow, inside(flow)))
