"""Scores of a half-resolution branch during training, by the distance to the remembered frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.tiles import halved
from seg_node.core.types import DataError
from seg_node.core.warp import move
from seg_node.train.low import made_by
from seg_node.train.rides import estimated_steps, Ride, SLOWEST_HZ
from seg_node.train.validation import confusion, mean_iou

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.execution import SegmentationNetwork
    from seg_node.data.sources import FrameRef, Source
    from seg_node.nets.low import AnyBranch
    from seg_node.train.low import Resolutions

DISTANCES = (1, 5, 11)
"""Ages of the remembered frame that are scored, in frames; what is trained for."""
SCORED = 20
"""Labelled frames, spread over the clips, that are scored."""


@dataclass(frozen=True)
class _Scored:
    """A labelled frame with what does not change during training.

    Attributes:
        image: at half resolution, float [1, 3, H/2, W/2].
        labels: uint8 [1, H, W].
        memories: for each distance, what is remembered, moved, float16 [1, K, h, w], and where it
            is valid, bool [1, 1, h, w].

    """

    image: Tensor
    labels: Tensor
    memories: Mapping[int, tuple[Tensor, Tensor]]


class LowScores:
    """Scores a branch on labelled frames of a clip; the motion is estimated, as in the node.

    Args:
        nets: the network, in eval mode, on its device; and a branch, of which no weights are used
            before the first call.
        source: data with labelled frames in clips.
        classes: number of classes.
        distance_max: no older frame is remembered.

    Raises:
        DataError: no labelled frame has so many frames before it.

    """

    def __init__(self, nets: Resolutions, source: Source, classes: int, distance_max: int) -> None:
        """Compute what stays the same, and the scores that do not depend on the branch."""
        self.high = cast("SegmentationNetwork", nets.high)
        self.remembered = nets.low.remembered
        self.classes = classes
        self.device = next(nets.high.parameters()).device
        self.distances = tuple(d for d in DISTANCES if d <= distance_max)
        names = ("dense", *(f"warp_{d}" for d in self.distances))
        counts = {f"val_{name}_miou": _zeros(classes) for name in names}
        self._frames = []
        with torch.inference_mode():
            for run in scored_frames(source, self.distances[-1]):
                self._frames.append(self._prepared(run, counts))
        self.fixed = {name: mean_iou(count) for name, count in counts.items()}

    def __call__(self, branch: AnyBranch) -> dict[str, float]:
        """Return mean IoU (0..1) without and with fusion, beside dense and moved features."""
        counts = {"val_low_miou": _zeros(self.classes)}
        counts |= {f"val_arseg_{d}_miou": _zeros(self.classes) for d in self.distances}
        with torch.inference_mode():
            for frame in self._frames:
                image = frame.image.to(self.device, memory_format=torch.channels_last)
                size = frame.memories[1][0].shape[-2:]
                alone = made_by(branch, image, (size[0], size[1]), None)
                counts["val_low_miou"] += self._count(alone[1], frame.labels)
                for distance, (memory, valid) in frame.memories.items():
                    moved = memory.to(self.device, torch.float32), valid
                    fused = made_by(branch, image, (size[0], size[1]), moved)
                    counts[f"val_arseg_{distance}_miou"] += self._count(fused[1], frame.labels)
        return {**self.fixed, **{name: mean_iou(count) for name, count in counts.items()}}

    def _prepared(self, run: Sequence[FrameRef], counts: Mapping[str, Tensor]) -> _Scored:
        samples = [ref.load() for ref in run]
        now, labels = samples[-1].frame.image, samples[-1].labels
        if labels is None:
            msg = f"frame {samples[-1].name} has lost its labels"
            raise DataError(msg)
        target = torch.from_numpy(labels)[None]
        counts["val_dense_miou"].add_(self._count(self._made(now)[2], target))
        images = [sample.frame.image for sample in samples]
        ride = Ride(images, estimated_steps(images))
        memories = {}
        for distance in self.distances:
            pair = ride.pair(len(images) - 1, distance)
            flow, valid = (
                torch.from_numpy(x)[None].to(self.device)
                for x in (pair.motion.flow, pair.motion.valid)
            )
            image, features, logits = self._made(pair.key)
            moved, _ = move(logits, flow, valid)
            counts[f"val_warp_{distance}_miou"].add_(self._count(moved, target))
            memory, seen = move(self.remembered(image, features, logits), flow, valid)
            memories[distance] = memory.half().cpu(), seen
        return _Scored(halved(_tensor(now)), target, memories)

    def _made(self, image: NDArray[np.uint8]) -> tuple[Tensor, Tensor, Tensor]:
        """Return an image with its features and logits in full resolution."""
        whole = _tensor(image).to(self.device)
        features = self.high.features(whole)
        return whole, features, self.high.head(features)

    def _count(self, logits: Tensor, labels: Tensor) -> Tensor:
        return confusion(logits.float().cpu(), labels, self.classes)


def scored_frames(source: Source, distance: int) -> list[tuple[FrameRef, ...]]:
    """Return labelled frames spread over the clips, each after its `distance` frames before.

    Raises:
        DataError: there is none.

    """
    runs = [
        (*clip.preceding(index, distance), frame)
        for clip in source.clips()
        if clip.rate_hz >= SLOWEST_HZ
        for index, frame in enumerate(clip.frames)
        if frame.labelled and index >= distance
    ]
    if not runs:
        msg = (
            f"no labelled frame of {source.spec} has {distance} frames before it at "
            f"{SLOWEST_HZ:g} Hz or more; name a clip, or lower distance_max"
        )
        raise DataError(msg)
    chosen = np.linspace(0, len(runs) - 1, min(SCORED, len(runs))).round().astype(int)
    return [runs[int(index)] for index in chosen]


def _tensor(image: NDArray[np.uint8]) -> Tensor:
    """Return an image as uint8 [1, 3, H, W], in channels_last."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def _zeros(classes: int) -> Tensor:
    return torch.zeros(classes, classes, dtype=torch.int64)
