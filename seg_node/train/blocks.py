"""Training for mode adaptive: a network learns to compute blocks amid what is remembered.

Run on blocks, a network reads around each block what earlier frames left, moved by the flow: not
quite what it would compute there now. Here it meets that while it learns: in each pair of frames
the earlier one gives the surroundings and random blocks of the later one are computed. The
network that it starts from is the teacher, so that whole frames stay as good.
"""

from __future__ import annotations

from typing import Any, cast, TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from seg_node.core.background import Recorder, Recording
from seg_node.core.blocks import BlockLayout, grid_shape
from seg_node.core.sparse import split
from seg_node.core.tiles import as_rows
from seg_node.core.types import Action, IGNORE_LABEL, ModelError
from seg_node.train.batches import Batch
from seg_node.train.learner import Learner, placed
from seg_node.train.losses import segmentation_loss
from seg_node.train.low_settings import LowTraining
from seg_node.train.optimizers import make_optimizer
from seg_node.train.pair_batches import PairBatch
from seg_node.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.background import Found, Plane
    from seg_node.core.blocks import Window
    from seg_node.core.sparse import BlockTensor
    from seg_node.train.block_settings import BlockTraining
    from seg_node.train.pair_batches import PairMaker
    from seg_node.train.trainer import Run

    Validate = Callable[[nn.Module], Mapping[str, float]]

DICE = 11
"""Number of the stream of random numbers that blocks are drawn from."""


class MovedPlanes:
    """What a network's operations read in earlier frames, seen from later ones.

    Args:
        planes: what they read, in order, [N, C, h, w] each.
        flow: from the later frames to the earlier ones, in pixels, float32 [N, H, W, 2].

    """

    def __init__(self, planes: Sequence[Tensor], flow: Tensor) -> None:
        """Take planes and flow."""
        self._planes = planes
        self._flow = flow

    def planes(self) -> Iterator[Plane]:
        """Return the planes from the first on."""
        return (_Moved(plane, self._flow) for plane in self._planes)


class _Moved:
    """One plane; every pixel is the one nearest to where its content was."""

    def __init__(self, plane: Tensor, flow: Tensor) -> None:
        """Take the plane."""
        self._plane = plane
        self._flow = flow

    def find(self, pixels: Tensor | None, window: Window, *, halve: bool = False) -> Found:
        """Look up where pixels were.

        Raises:
            ModelError: pixels of half the resolution were asked for.

        """
        if halve:
            msg = "LOW blocks cannot be trained beside REUSE blocks"
            raise ModelError(msg)
        (h, w), stride = window.size, window.stride
        if pixels is None:
            pixels = torch.arange(len(self._plane) * h * w)
        pixels = pixels.to(self._plane.device)
        column = pixels % w
        row = pixels // w % h
        image = pixels // (w * h)
        height, width = self._flow.shape[1:3]
        middle_y = (row * stride + stride // 2).clamp_(max=height - 1)
        middle_x = (column * stride + stride // 2).clamp_(max=width - 1)
        flow = self._flow[image, middle_y, middle_x]
        was_y = ((middle_y + flow[:, 1] + 0.5) / stride).floor().long().clamp_(0, h - 1)
        was_x = ((middle_x + flow[:, 0] + 0.5) / stride).floor().long().clamp_(0, w - 1)
        return ((image * h + was_y) * w + was_x,)

    def rows(self, found: Found, window: Window, *, halve: bool = False) -> Tensor:  # noqa: ARG002 - their numbers say it
        """Return some pixels, [k, C]."""
        return as_rows(self._plane).index_select(0, found[0])

    def whole(self, found: Found, window: Window) -> Tensor:
        """Return all pixels, [N, C, h, w]."""
        rows = self.rows(found, window)
        return rows.view(len(self._plane), *window.size, -1).permute(0, 3, 1, 2)

    def room(self, count: int) -> Found:  # noqa: ARG002 - nothing is kept
        """Return nothing: there is no room."""
        return ()

    def keep(self, tiles: Tensor, window: Window, room: Found) -> None:
        """Forget: each pair of frames stands alone."""


class BlockTrainer(Trainer[LowTraining, PairBatch, nn.Module]):
    """Trains a network for its blocks; `run` continues from the checkpoint in the folder.

    Its BatchNorms keep their statistics, as at run time.

    Args:
        net: the network with the weights to start from.
        teacher: a copy of it in eval mode, which stays as it is.
        batches: makes the pairs of every step; all of them in this process.
        weights: loss weight per class, [classes].
        place: where it happens.
        validate: called with the averaged network now and then; its scores are logged.

    Raises:
        ConfigError: the folder holds a run with other settings.
        DataError: the disk has no room for checkpoints, or the checkpoint is damaged.

    """

    batches: PairMaker

    def __init__(  # noqa: PLR0913, PLR0917 - as its sisters, with a teacher
        self,
        net: nn.Module,
        teacher: nn.Module,
        batches: PairMaker,
        weights: Tensor,
        place: Run,
        validate: Validate | None = None,
    ) -> None:
        """Prepare what learns, and load the checkpoint if there is one."""
        super().__init__(batches, place, validate)
        self.choice = cast("BlockTraining", batches.config)
        self.weights = weights.to(place.device)
        self.teacher = placed(teacher, place.device).eval().requires_grad_(requires_grad=False)
        self.net = placed(net, place.device)
        optimizer = make_optimizer(self.net, self.config)
        self.learner = Learner(self.net, optimizer, self.config.average)
        self._resume()

    def averaged(self) -> nn.Module:
        """Return the moving average of the network, in eval mode."""
        return self.learner.averaged()

    def _begin(self) -> None:
        self.net.eval()

    def _learn(self, step: int, batch: PairBatch) -> Mapping[str, float]:
        config = self.config
        images = batch.images.contiguous(memory_format=torch.channels_last)
        recording = Recording()
        with torch.no_grad(), self._autocast():
            soft = self.teacher(images).float().softmax(1)
            with Recorder(recording):
                self.net(batch.keys.contiguous(memory_format=torch.channels_last))
        background = MovedPlanes(recording.tensors, batch.flow)
        grids = self._grids(step, batch)
        size = (images.shape[-2], images.shape[-1])
        layout = BlockLayout(grids, self.choice.block_side, size, device=images.device)
        with self._autocast():
            computed = cast("BlockTensor", self.net(split(images, layout, background)))
            of_blocks = computed.combined().float()
            whole = self.net(images).float()
        high = layout.where(Action.HIGH, 1, size)[:, 0]
        labels = torch.where(high, batch.labels, IGNORE_LABEL)
        inside = layout.where(Action.HIGH, 4, (soft.shape[-2], soft.shape[-1]))
        blocks = Batch(images, labels, soft * inside, low=False)
        loss_blocks = segmentation_loss(of_blocks, blocks, self.weights, config, phase=step)
        dense = Batch(images, batch.labels, soft, low=False)
        loss_whole = segmentation_loss(whole, dense, self.weights, config, phase=step)
        loss = loss_blocks + loss_whole
        figures = {
            "loss": float(loss.detach()),
            "blocks": float(loss_blocks.detach()),
            "whole": float(loss_whole.detach()),
            "rate": config.rate(step),
        }
        self._refuse_infinite("loss", figures["loss"], step)
        self._descend(self.learner, loss, figures["rate"], step)
        return figures

    def _grids(self, step: int, batch: PairBatch) -> NDArray[np.uint8]:
        """Return which blocks of each image are computed, at least one, uint8 [N, gh, gw]."""
        config = self.choice
        rng = np.random.default_rng((config.seed, step, DICE))
        height, width = batch.images.shape[-2:]
        shape = grid_shape(height, width, config.block_side)
        grids = []
        for _ in batch.images:
            dice = rng.random(shape)
            share = rng.uniform(config.share_min, config.share_max)
            count = max(1, round(share * dice.size))
            high = dice <= np.sort(dice, axis=None)[count - 1]
            grids.append(np.where(high, Action.HIGH, Action.REUSE).astype(np.uint8))
        return np.stack(grids)

    def _state(self) -> dict[str, Any]:
        return {"network": self.learner.state()}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state["network"])

    def _bytes(self) -> int:
        return self.learner.nbytes()
