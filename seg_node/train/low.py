"""Training of the half-resolution branch of mode arseg: AR-Seg's feature similarity training.

The network whose features are remembered stays as it is, and is the teacher: the branch learns to
make from half of the resolution, and from remembered features that were moved, what the network
makes of the whole image (papers.md section 2, steps 9 to 13). Its last layer is the network's. A
branch that blends results learns the network's result instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast, TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from seg_node.core.fusion import enlarge
from seg_node.core.tiles import halved
from seg_node.core.warp import move
from seg_node.nets.low import AnyBranch
from seg_node.train.learner import Learner, placed
from seg_node.train.losses import segmentation_loss
from seg_node.train.low_settings import LowTraining
from seg_node.train.optimizers import make_optimizer
from seg_node.train.pair_batches import PairBatch
from seg_node.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from seg_node.core.execution import SegmentationNetwork
    from seg_node.train.pair_batches import PairMaker
    from seg_node.train.trainer import Run

    Validate = Callable[[AnyBranch], Mapping[str, float]]


@dataclass(frozen=True)
class Resolutions:
    """A network and its half-resolution branch.

    Attributes:
        high: the network, in eval mode; it stays as it is.
        low: its branch; where that makes features, its head is the network's.

    """

    high: nn.Module
    low: AnyBranch


class LowTrainer(Trainer[LowTraining, PairBatch, AnyBranch]):
    """Trains a half-resolution branch; `run` continues from the checkpoint in the folder.

    Args:
        nets: the network, and the branch with the weights to start from.
        batches: makes the pairs of every step; all of them in this process.
        weights: loss weight per class, [classes].
        place: where it happens.
        validate: called with the averaged branch now and then; its scores are logged.

    Raises:
        ConfigError: the folder holds a run with other settings.
        DataError: the disk has no room for checkpoints, or the checkpoint is damaged.

    """

    batches: PairMaker

    def __init__(
        self,
        nets: Resolutions,
        batches: PairMaker,
        weights: Tensor,
        place: Run,
        validate: Validate | None = None,
    ) -> None:
        """Prepare what learns, and load the checkpoint if there is one."""
        super().__init__(batches, place, validate)
        self.weights = weights.to(place.device)
        self.high = placed(nets.high, place.device).eval().requires_grad_(requires_grad=False)
        self.branch = cast("AnyBranch", placed(nets.low, place.device))
        choose_learners(self.branch, self.config.weights)
        optimizer = make_optimizer(self.branch, self.config)
        self.learner = Learner(self.branch, optimizer, self.config.average)
        self._resume()

    def averaged(self) -> AnyBranch:
        """Return the moving average of the branch, in eval mode."""
        return cast("AnyBranch", self.learner.averaged())

    def _begin(self) -> None:
        self.branch.train()
        if self.config.weights == "none":
            self.branch.net.eval()

    def _learn(self, step: int, batch: PairBatch) -> Mapping[str, float]:
        config = self.config
        images = batch.images.contiguous(memory_format=torch.channels_last)
        wanted = self._made(images)
        memory = self._memory(batch) if step >= config.fusion_after else None
        size = (wanted[1].shape[-2], wanted[1].shape[-1])
        with self._autocast():
            features, logits = made_by(self.branch, halved(images), size, memory)
        if features is None:
            similarity = divergence(logits.float(), wanted[1])
        else:
            similarity = functional.mse_loss(features.float(), wanted[0])
        task = segmentation_loss(logits.float(), batch.task(), self.weights, config, phase=step)
        loss = config.similarity * similarity + config.task * task
        figures = {
            "loss": float(loss.detach()),
            "similarity": float(similarity.detach()),
            "task": float(task.detach()),
            "rate": config.rate(step),
        }
        self._refuse_infinite("loss", figures["loss"], step)
        self._descend(self.learner, loss, figures["rate"], step)
        return figures

    def _made(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of whole images."""
        net = cast("SegmentationNetwork", self.high)
        with torch.no_grad(), self._autocast():
            features = net.features(images)
            return features.float(), net.head(features).float()

    def _memory(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Return what is remembered, moved, and where it is valid."""
        keys = batch.keys.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            remembered = self.branch.remembered(keys, *self._made(keys))
        return move(remembered, batch.flow, batch.valid)

    def _state(self) -> dict[str, Any]:
        return {"branch": self.learner.state()}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state["branch"])

    def _bytes(self) -> int:
        return self.learner.nbytes()


def choose_learners(branch: AnyBranch, weights: str) -> None:
    """Let learn what is to learn: the fusion, and of the network what `weights` says.

    Args:
        branch: the branch; changed in place.
        weights: `own` for all weights but the head, `norms` for BatchNorms alone, `none` for none.

    """
    branch.requires_grad_(requires_grad=weights == "own")
    branch.fusion.requires_grad_(requires_grad=True)
    if weights == "norms":
        for module in branch.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(requires_grad=True)
    if branch.of_features:
        branch.net.get_submodule("head").requires_grad_(requires_grad=False)


def made_by(
    branch: AnyBranch,
    image: Tensor,
    size: tuple[int, int],
    memory: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor | None, Tensor]:
    """Return what a branch makes of an image at half resolution.

    Args:
        branch: the branch.
        image: RGB 0..255, [N, 3, H/2, W/2].
        size: of the result at full resolution (h, w).
        memory: what is remembered, moved, and where it is valid; None to do without.

    Returns:
        features [N, C, h, w], or None of a branch that makes results; and logits
        [N, classes, h, w].

    """
    net = cast("SegmentationNetwork", branch.net)
    made: Tensor
    if memory is not None:
        made = branch(image, *memory)
    else:
        made = enlarge(net.features(image) if branch.of_features else branch.net(image), size)
    return (made, net.head(made)) if branch.of_features else (None, made)


def divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return how far results are from those wanted: Kullback-Leibler, in nats, mean over pixels.

    Args:
        logits: [N, classes, h, w].
        wanted: the same at full resolution.

    """
    made, aim = logits.log_softmax(1), wanted.log_softmax(1)
    return (aim.exp() * (aim - made)).sum(1).mean()
