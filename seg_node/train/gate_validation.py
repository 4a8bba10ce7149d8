"""Scores of gates during training: accuracy and share dropped, at some thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.residual import find_gated_modules
from seg_node.core.types import DataError
from seg_node.train.gate_pairs import GatedPairs
from seg_node.train.low_validation import scored_frames
from seg_node.train.rides import estimated_steps, Ride
from seg_node.train.validation import confusion, mean_iou

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn, Tensor

    from seg_node.data.sources import Source
    from seg_node.nets.decision import GateNet
    from seg_node.train.pairs import FramePair

DISTANCE = 3
"""Age of the remembered frame that is scored, in frames."""
THRESHOLDS = (0.3, 0.5, 0.7)


class GateScores:
    """Scores gates on labelled frames of a clip; the motion is estimated, as in the node.

    Args:
        net: the network, in eval mode, on its device.
        source: data with labelled frames in clips.
        classes: number of classes.
        side: side of a bin, in pixels.

    Raises:
        DataError: no labelled frame has so many frames before it.

    """

    def __init__(self, net: nn.Module, source: Source, classes: int, side: int) -> None:
        """Read the frames."""
        self._net, self._classes, self._side = net, classes, side
        self._pairs: list[FramePair] = []
        for run in scored_frames(source, DISTANCE):
            samples = [ref.load() for ref in run]
            labels = samples[-1].labels
            if labels is None:
                msg = f"frame {samples[-1].name} has lost its labels"
                raise DataError(msg)
            images = [sample.frame.image for sample in samples]
            masks = [labels] * len(images)
            ride = Ride(images, estimated_steps(images), masks)
            self._pairs.append(ride.pair(DISTANCE, DISTANCE))

    def __call__(self, gate: GateNet) -> dict[str, float]:
        """Return mean IoU (0..1) and the share of gates that is shut, by threshold."""
        counts = {
            t: torch.zeros(self._classes, self._classes, dtype=torch.int64) for t in THRESHOLDS
        }
        shut: dict[float, list[float]] = {t: [] for t in THRESHOLDS}
        with torch.inference_mode():
            for pair in self._pairs:
                self._score(pair, gate, counts, shut)
        scores = {f"val_miou_{t}": mean_iou(count) for t, count in counts.items()}
        return scores | {f"val_shut_{t}": float(np.mean(x)) for t, x in shut.items()}

    def _score(
        self,
        pair: FramePair,
        gate: GateNet,
        counts: Mapping[float, Tensor],
        shut: Mapping[float, list[float]],
    ) -> None:
        device = next(self._net.parameters()).device
        image, key = (
            torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None].to(device)
            for x in (pair.picture.image, pair.key)
        )
        flow, valid = (
            torch.from_numpy(x)[None].to(device) for x in (pair.motion.flow, pair.motion.valid)
        )
        pairs = GatedPairs(self._net, find_gated_modules(self._net), key, flow, valid)
        seen = pairs.seen(image, self._side)
        score = torch.sigmoid(gate(seen.distortion, seen.doubt))
        labels = torch.from_numpy(pair.picture.labels)[None]
        for threshold, count in counts.items():
            gates = (score >= threshold).float()
            logits = pairs.logits(image, gates)
            count.add_(confusion(logits.float().cpu(), labels, self._classes))
            shut[threshold].append(float(1 - gates.mean()))
