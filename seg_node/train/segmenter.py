"""Supervised training of a segmentation network, resumable at any step."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from seg_node.train.batches import Batch
from seg_node.train.distributed import share_batchnorm
from seg_node.train.learner import Learner, placed
from seg_node.train.losses import segmentation_loss
from seg_node.train.optimizers import make_optimizer
from seg_node.train.resolution import split_norms, use_resolution
from seg_node.train.settings import SegmentTraining
from seg_node.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from seg_node.train.batches import BatchMaker
    from seg_node.train.trainer import Run

    Validate = Callable[[nn.Module], Mapping[str, float]]


class SegmentTrainer(Trainer[SegmentTraining, Batch, nn.Module]):
    """Trains one network; `run` continues from the checkpoint in the folder.

    Args:
        net: network with the weights to start from, called as net(image) -> logits.
        batches: makes the batch of every step; knows the settings and which process this is.
        weights: loss weight per class, [classes].
        place: where it happens.
        validate: called with the averaged network now and then; its scores are logged.

    Raises:
        ConfigError: the folder holds a run with other settings.
        DataError: the disk has no room for checkpoints, or the checkpoint is damaged.

    """

    batches: BatchMaker[SegmentTraining]

    def __init__(
        self,
        net: nn.Module,
        batches: BatchMaker[SegmentTraining],
        weights: Tensor,
        place: Run,
        validate: Validate | None = None,
    ) -> None:
        """Prepare optimiser and average, and load the checkpoint if there is one."""
        super().__init__(batches, place, validate)
        config = self.config
        self.weights = weights.to(place.device)
        if config.low_norms:
            split_norms(net)
        if batches.share.world > 1:
            share_batchnorm(net)
        self.net = placed(net, place.device)
        self.learner = Learner(self.net, make_optimizer(self.net, config), config.average)
        self._resume()
        self.model = self._parallel()

    def averaged(self) -> nn.Module:
        """Return the exponential moving average of the network, in eval mode."""
        return self.learner.averaged()

    def _begin(self) -> None:
        self.model.train()

    def _learn(self, step: int, batch: Batch) -> Mapping[str, float]:
        return {"loss": self._update(step, batch), "rate": self.config.rate(step)}

    def _update(self, step: int, batch: Batch) -> float:
        use_resolution(self.net, low=batch.low)
        with self._autocast():
            logits = self.model(batch.images.contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(logits.float(), batch, self.weights, self.config, phase=step)
        value = float(loss.detach())
        self._refuse_infinite("loss", value, step)
        self._descend(self.learner, loss, self.config.rate(step), step)
        return value

    def _parallel(self) -> nn.Module:
        if self.batches.share.world == 1:
            return self.net
        ids = [self.place.device.index] if self.place.device.type == "cuda" else None
        # Of resolution-specific norms, half rest in every step.
        model: nn.Module = DistributedDataParallel(
            self.net,
            device_ids=ids,
            find_unused_parameters=self.config.low_norms,
        )
        return model

    def _state(self) -> dict[str, Any]:
        return self.learner.state()

    def _load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state)

    def _bytes(self) -> int:
        weights = sum(p.numel() * p.element_size() for p in self.net.parameters())
        return (4 if self.config.optimizer == "adamw" else 3) * weights
