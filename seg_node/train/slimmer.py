"""Training of a network that gets smaller on data that are slimmed, resumable at any step."""

from __future__ import annotations

import copy
from typing import Any, TYPE_CHECKING

import torch
from torch import nn

from seg_node.nets.manifest import Slimming
from seg_node.nets.slim import resize, slimming_of
from seg_node.train.batches import Batch
from seg_node.train.channels import ChannelGraph, trace_channels
from seg_node.train.learner import Learner, placed
from seg_node.train.losses import segmentation_loss
from seg_node.train.network_slimming import (
    Chooser,
    Importance,
    limits_of,
    press,
    refuse_too_small,
)
from seg_node.train.optimizers import make_optimizer, parameter_names
from seg_node.train.slim_settings import SlimTraining
from seg_node.train.surgery import Cut, cut_moments, cut_out, cut_values, refuse_unfaithful
from seg_node.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from seg_node.train.slim_batches import SlimBatchMaker
    from seg_node.train.slim_schedule import Schedule
    from seg_node.train.trainer import Run

    Validate = Callable[[nn.Module], Mapping[str, float]]

PASSES = 3
"""Cost of a training step in forward passes: one forward, about two backward."""


class SlimTrainer(Trainer[SlimTraining, Batch, nn.Module]):
    """Trains one network and makes it smaller; `run` continues from the checkpoint.

    Args:
        net: whole network with the weights to start from.
        batches: makes the batch of every step; knows the settings.
        weights: loss weight per class, [classes].
        place: where it happens.
        schedule: when the network gets smaller.
        size: (width, height) of the frames for which the network is slimmed, in pixels.
        validate: called with the averaged network now and then; its scores are logged.

    Attributes:
        training_macs: multiply-accumulates of all steps so far: forward passes times `PASSES`.

    Raises:
        ConfigError: the folder holds a run with other settings, or the network cannot become as
            small as the schedule wants.
        ModelError: the network has operations on which slimming is not exact.
        DataError: the disk has no room for checkpoints, or the checkpoint is damaged.

    """

    batches: SlimBatchMaker

    def __init__(  # noqa: PLR0913, PLR0917 - what a training is made of
        self,
        net: nn.Module,
        batches: SlimBatchMaker,
        weights: Tensor,
        place: Run,
        schedule: Schedule,
        size: tuple[int, int],
        validate: Validate | None = None,
    ) -> None:
        """Look at the network, and load the checkpoint if there is one."""
        super().__init__(batches, place, validate)
        self._weights = weights.to(place.device)
        self._schedule = schedule
        self._size = size
        self._whole = net
        self._graph = trace_channels(net, size[1], size[0])
        self._crops: dict[tuple[int, int], ChannelGraph] = {}
        self._whole_macs = self._graph.macs(self._graph.sizes)
        self._limits = limits_of(net, self._graph, self.config)
        if schedule.cuts:
            refuse_too_small(self._graph, self._limits, schedule.cuts[-1].share)
            refuse_unfaithful(net, _trial(self._graph))
        self._importance = Importance(self.config.criterion)
        self._learner = self._learner_of(copy.deepcopy(net))
        self.training_macs = 0
        self._resume()

    @property
    def slimming(self) -> Slimming:
        """Return what the network lacks by now."""
        return slimming_of(self._learner.net, self._whole)

    @property
    def inference_macs(self) -> int:
        """Return the MACs of the network by now on one frame."""
        return self._graph.macs(self._graph.sizes)

    @property
    def whole_macs(self) -> int:
        """Return the MACs of the whole network on one frame."""
        return self._whole_macs

    @property
    def normal_macs(self) -> int:
        """Return the MACs of as many steps of normal training."""
        width, height = self.config.crop
        whole = self._crop(height, width)
        return PASSES * self.config.batch * whole.macs(whole.sizes) * self.config.steps

    def averaged(self) -> nn.Module:
        """Return the exponential moving average of the network, in eval mode."""
        return self._learner.averaged()

    # ---- steps -----------------------------------------------------------------------------

    def _begin(self) -> None:
        self._learner.net.train()

    def _learn(self, step: int, batch: Batch) -> Mapping[str, float]:
        for cut in self._schedule.cuts:
            if cut.step == step:
                self._shrink(cut.share)
        loss = self._update(step, batch)
        count, _, height, width = batch.images.shape
        forward = self._crop(height, width).macs(self._graph.sizes, self.slimming.removed)
        self.training_macs += PASSES * count * forward
        return {
            "loss": loss,
            "rate": self.config.rate(step),
            "scale": self.batches.scale(step),
            "samples": count,
            "training_macs": self.training_macs,
            "inference_macs": self.inference_macs,
        }

    def _update(self, step: int, batch: Batch) -> float:
        net = self._learner.net
        with self._autocast():
            logits = net(batch.images.contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(logits.float(), batch, self._weights, self.config, phase=step)
        value = float(loss.detach())
        self._refuse_infinite("loss", value, step)
        self._learner.find_gradient(loss)
        if self._schedule.cuts and step < self._schedule.cuts[-1].step:
            self._importance.observe(net, self._graph)
            press(net, self._graph, self.config.sparsity)
        self._follow(self._learner, self.config.rate(step), step)
        return value

    def _crop(self, height: int, width: int) -> ChannelGraph:
        """Return the groups of the whole network on a crop; their numbers do not depend on it."""
        if (height, width) not in self._crops:
            self._crops[height, width] = trace_channels(self._whole, height, width)
        return self._crops[height, width]

    # ---- getting smaller -------------------------------------------------------------------

    def _shrink(self, share: float) -> None:
        """Cut the network, its average and the optimiser's moments down to a share of the MACs."""
        net = self._learner.net
        vectors = self._importance.vectors(net, self._graph)
        cut = Chooser(self._graph, vectors, self._limits).cut(share * self._whole_macs)
        small = cut_out(net, cut)
        state = self._learner.state()
        names = (parameter_names(net), parameter_names(small))
        self._learner = self._learner_of(small)
        self._learner.load(
            {
                "net": cut_values(state["net"], cut),
                "average": cut_values(state["average"], cut, "module."),
                "optimizer": cut_moments(state["optimizer"], names, cut),
            }
        )
        self._graph = self._graph.shrunk(cut.sizes, cut.removed)
        self._importance.forget()
        self._begin()

    def _learner_of(self, net: nn.Module) -> Learner:
        there = placed(net, self.place.device)
        return Learner(there, make_optimizer(there, self.config), self.config.average)

    # ---- checkpoints -----------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        slim = self.slimming
        return {
            "learner": self._learner.state(),
            "channels": {name: list(sizes) for name, sizes in slim.channels.items()},
            "removed": list(slim.removed),
            "sizes": list(self._graph.sizes),
            "importance": self._importance.state(),
            "training_macs": self.training_macs,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        slim = Slimming.parse({"channels": state["channels"], "removed": state["removed"]})
        self._learner = self._learner_of(resize(copy.deepcopy(self._whole), slim))
        self._learner.load(state["learner"])
        self._graph = self._graph.shrunk(state["sizes"], slim.removed)
        self._importance.load(state["importance"])
        self.training_macs = int(state["training_macs"])

    def _bytes(self) -> int:
        return self._learner.nbytes()


def _trial(graph: ChannelGraph) -> Cut:
    """Return a cut that takes every second channel of all that can be slimmed."""
    free = graph.normed()
    return Cut(graph, {group: torch.arange(0, graph.sizes[group], 2) for group in free})
