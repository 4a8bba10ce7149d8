"""Supervised training of a segmentation network, resumable at any step."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from seg_node.train.batches import Batch
from seg_node.train.distributed import share_batchnorm
from seg_node.train.losses import segmentation_loss
from seg_node.train.optimizers import make_optimizer, warming_average
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
        self.net: nn.Module = net.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
        self.optimizer = make_optimizer(self.net, config)
        self.average = AveragedModel(
            self.net, multi_avg_fn=warming_average(config.average), use_buffers=True
        )
        self._resume()
        self.model = self._parallel()

    def averaged(self) -> nn.Module:
        """Return the exponential moving average of the network, in eval mode."""
        net: nn.Module = self.average.module
        return net.eval()

    def _begin(self) -> None:
        self.model.train()

    def _learn(self, step: int, batch: Batch) -> Mapping[str, float]:
        return {"loss": self._update(step, batch), "rate": self.config.rate(step)}

    def _update(self, step: int, batch: Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(step)
        use_resolution(self.net, low=batch.low)
        with self._autocast():
            logits = self.model(batch.images.contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(logits.float(), batch, self.weights, self.config, phase=step)
        value = float(loss.detach())
        self._refuse_infinite("loss", value, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip_norm)
        self._refuse_infinite("gradient's norm", float(norm), step)
        self.optimizer.step()
        self.average.update_parameters(self.net)
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
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _bytes(self) -> int:
        weights = sum(p.numel() * p.element_size() for p in self.net.parameters())
        return (4 if self.config.optimizer == "adamw" else 3) * weights
