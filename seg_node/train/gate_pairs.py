"""A network with gates on pairs of frames: what the gates see, and what comes out, differentiable.

The earlier frame of a pair is computed in full and stands for what is remembered. In the later
one every gated module is computed everywhere and mixed, bin by bin, with what the memory would
show: the same as `core/gated.py` computes where gates are open or shut, and it has a gradient
with regard to the gates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from seg_node.core.gate_memory import STRIDE
from seg_node.core.gated_modules import branch, computed, in_place_of, joined, stages_of
from seg_node.core.motion import UNKNOWN_DISTORTION
from seg_node.core.warp import move

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn, Tensor

    from seg_node.core.gated_modules import GatedModule

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, as OpenCV's."""


@dataclass(frozen=True)
class Seen:
    """What gates see of a batch of pairs.

    Attributes:
        distortion: in grey levels, by stage, [N, G, gh, gw].
        doubt: how uncertain the result of the earlier frame is, 0..1, [N, 1, gh, gw].

    """

    distortion: Tensor
    doubt: Tensor


class GatedPairs:
    """What is remembered of the earlier frames of pairs, and the network on the later ones.

    Args:
        net: the network, in eval mode.
        blocks: its gated modules.
        keys: the earlier frames, uint8 [N, 3, H, W].
        flow: from the later frames to them, in pixels, float32 [N, H, W, 2].
        valid: where it is known, bool [N, H, W].

    """

    def __init__(
        self,
        net: nn.Module,
        blocks: Sequence[GatedModule],
        keys: Tensor,
        flow: Tensor,
        valid: Tensor,
    ) -> None:
        """Compute the earlier frames."""
        self._net, self._blocks, self._stages = net, blocks, stages_of(blocks)
        self._stage_of = [i for i, stage in enumerate(self._stages) for _ in stage]
        self._keys, self._flow, self._valid = keys, flow, valid
        self._made: list[Tensor] = []
        with torch.no_grad(), in_place_of(blocks, [partial(self._record, b) for b in blocks]):
            self.key_logits: Tensor = net(keys)

    def _record(self, block: GatedModule, x: Tensor) -> Tensor:
        out: Tensor
        out, made = computed(block, x)
        self._made.append(move(made, self._flow, self._valid)[0])
        return out

    def seen(self, images: Tensor, side: int) -> Seen:
        """Return what the gates see.

        Args:
            images: the later frames, uint8 [N, 3, H, W].
            side: side of a bin, in image pixels.

        """
        distortion = self._distortion(images, STRIDE, side)
        stride = images.shape[-1] // self.key_logits.shape[-1]
        logits, _ = move(self.key_logits.float(), self._flow, self._valid)
        doubt = 1 - logits.softmax(1).amax(1, keepdim=True)
        return Seen(
            distortion.expand(-1, len(self._stages), -1, -1), _bin_means(doubt, side // stride)
        )

    def _distortion(self, images: Tensor, stride: int, side: int) -> Tensor:
        grey, key = (_grey(x, stride) for x in (images, self._keys))
        moved, known = move(key, self._flow, self._valid)
        difference = torch.where(known, (moved - grey).abs(), UNKNOWN_DISTORTION)
        return _bin_means(difference, side // stride)

    def logits(self, images: Tensor, gates: Tensor) -> Tensor:
        """Run the network on the later frames, with gates.

        The node mixes what comes out with what it showed before (`seg_node.core.shown`).

        Args:
            images: uint8 [N, 3, H, W].
            gates: 1 where a stage's modules are computed, 0 where not, float
                [N, G, gh, gw].

        Returns:
            [N, classes, h, w].

        """
        forwards = [
            partial(self._mixed, index, gate=gates[:, stage, None])
            for index, stage in enumerate(self._stage_of)
        ]
        with in_place_of(self._blocks, forwards):
            found: Tensor = self._net(images)
        return found

    def _mixed(self, index: int, x: Tensor, *, gate: Tensor) -> Tensor:
        block, reused = self._blocks[index], self._made[index]
        h, w = reused.shape[-2:]
        rows, columns = -(-h // gate.shape[-2]), -(-w // gate.shape[-1])
        wide = gate.repeat_interleave(rows, 2).repeat_interleave(columns, 3)[..., :h, :w]
        return joined(block, x, wide * branch(block)(x) + (1 - wide) * reused)


def _grey(images: Tensor, stride: int) -> Tensor:
    """Return RGB images in grey, shrunk by averaging, float32 [N, 1, h, w]."""
    weights = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
    grey = (images.float() * weights).sum(1, keepdim=True)
    return functional.avg_pool2d(grey, stride, ceil_mode=True)


def _bin_means(plane: Tensor, side: int) -> Tensor:
    """Average a plane [N, C, h, w] over bins of a side, [N, C, gh, gw]."""
    return functional.avg_pool2d(plane, side, ceil_mode=True)
