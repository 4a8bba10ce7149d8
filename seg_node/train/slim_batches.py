"""Batches of slimmed data: a pure function of (seed, step) and the list of frames.

All samples of a step have one scale, that of a frame drawn for the step, so that a step with
small frames is a small step: crop and augmentation shrink together, and the crop shows as much
of the scene as the whole one. Samples are then drawn from the frames of that scale, and dropped
with their frame's probability: a step may be narrower, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.types import ConfigError
from seg_node.train.batches import BatchMaker, walk
from seg_node.train.slim_settings import SlimTraining

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from seg_node.train.batches import Pools
    from seg_node.train.data_slimming import DataManifest

LEAST_SAMPLES = 2
"""Samples that a step has at least: BatchNorm of pooled features needs two."""


class SlimBatchMaker(BatchMaker[SlimTraining]):
    """Makes the batch of any step of a run on slimmed data.

    Args:
        pools: what samples are drawn from.
        config: batch size, shares, augmentation and seed.
        data: how the labelled frames are shown, in their order.
        until: first and last step, exclusive, in which they are shown so; else they are whole.

    Raises:
        ConfigError: the list is one of other frames.

    """

    def __init__(
        self, pools: Pools, config: SlimTraining, data: DataManifest, until: tuple[int, int]
    ) -> None:
        """Sort the frames by their scale."""
        super().__init__(pools, config)
        if len(data.frames) != len(pools.labelled):
            msg = f"slimmed data have {len(data.frames)} frames, the data {len(pools.labelled)}"
            raise ConfigError(msg)
        self._frames = data.frames
        self._until = until
        self._by_scale: dict[float, list[int]] = {}
        for index, frame in enumerate(data.frames):
            self._by_scale.setdefault(frame.scale, []).append(index)
        self._how = {scale: shown_at(config, scale) for scale in (1.0, *self._by_scale)}

    def is_slim(self, step: int) -> bool:
        """Return whether frames are slimmed at a step."""
        return self._until[0] <= step < self._until[1]

    def scale(self, step: int) -> float:
        """Return the scale of a step's samples."""
        if not self.is_slim(step):
            return 1.0
        rng = np.random.default_rng((self.config.seed, step, 5))
        return self._frames[int(rng.integers(len(self._frames)))].scale

    def look(self, step: int) -> tuple[SlimTraining, tuple[int, int]]:
        """Return how pictures are augmented at a step, and (width, height) of the crop."""
        scale = self.scale(step)
        return self._how[scale], self.config.crop_of(scale)

    def slots(self, step: int) -> Sequence[int]:
        """Return which samples of a step are made: those that are not dropped."""
        everyone = range(self.config.batch)
        if not self.is_slim(step):
            return everyone
        luck = {slot: self._luck(step, slot) for slot in everyone}
        kept = [slot for slot in everyone if luck[slot] >= 0.0]
        if len(kept) < LEAST_SAMPLES:
            kept = sorted(everyone, key=lambda slot: -luck[slot])[:LEAST_SAMPLES]
        return sorted(kept)

    def emphasis(self, step: int, slots: Sequence[int]) -> Tensor | None:
        """Return the factors of the samples in the loss; None for 1."""
        if not self.is_slim(step):
            return None
        frames = [self._listed(step, slot) for slot in slots]
        weights = [1.0 if index is None else self._frames[index].weight for index in frames]
        return torch.tensor(weights, dtype=torch.float32)

    def frame(self, step: int, slot: int) -> int:
        """Return which labelled frame is next: of those of the step's scale, in random order."""
        if not self.is_slim(step):
            return super().frame(step, slot)
        alike = self._by_scale[self.scale(step)]
        return alike[walk(step * self.config.batch + slot, len(alike), self.config.seed)]

    def _listed(self, step: int, slot: int) -> int | None:
        """Return which labelled frame a sample is; None if it is a street or unlabelled."""
        # The first draw of a sample's own generator, as in `BatchMaker`, decides its pool.
        dice = np.random.default_rng((self.config.seed, step, slot, 4)).random()
        if dice < self.street_share + self.unlabelled_share:
            return None
        return self.frame(step, slot)

    def _luck(self, step: int, slot: int) -> float:
        """Return a number that is negative if a sample is dropped, and less if more surely so."""
        index = self._listed(step, slot)
        if index is None:
            return 1.0
        dice = np.random.default_rng((self.config.seed, step, slot, 6)).random()
        return self._frames[index].keep - float(dice)


def shown_at(config: SlimTraining, scale: float) -> SlimTraining:
    """Return settings whose augmentation shrinks pictures to a scale on top of what it does."""
    if scale == 1.0:
        return config
    return replace(config, scale_min=config.scale_min * scale, scale_max=config.scale_max * scale)
