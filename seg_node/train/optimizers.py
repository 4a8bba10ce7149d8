"""Optimisers and the moving average of the weights that is shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn, Tensor

    from seg_node.train.settings import Training

    Tensors = tuple[Tensor, ...] | list[Tensor]
    Average = Callable[[Tensors, Tensors, Tensor | int], None]


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split parameters into decayed (convolution weights) and plain (the rest)."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def parameter_names(net: nn.Module) -> list[str]:
    """Return the names of a network's parameters in the order of `parameter_groups`."""
    named = list(net.named_parameters())
    return [n for n, p in named if p.ndim > 1] + [n for n, p in named if p.ndim <= 1]


def warming_average(decay: float) -> Average:
    """Return the update of a moving average that forgets the start of the run faster.

    The decay of update n is the smaller of `decay` and (1 + n) / (10 + n): a short run does not
    ship the weights that it began with.
    """

    def update(averages: Tensors, currents: Tensors, count: Tensor | int) -> None:
        now = min(decay, (1.0 + float(count)) / (10.0 + float(count)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1.0 - now)
            else:
                average.copy_(current)

    return update


def make_optimizer(net: nn.Module, config: Training) -> torch.optim.Optimizer:
    """Return the optimiser that the settings ask for."""
    groups = parameter_groups(net, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, config.learning_rate)
