"""Several processes as one: what `torchrun` started descends the curve of a single process."""

from __future__ import annotations

from dataclasses import dataclass
import os
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process computes.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.

    """

    rank: int = 0
    world: int = 1


def join() -> Share:
    """Join the processes that `torchrun` started; a process on its own is a whole."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Share()
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Share(distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    """Leave the group, if there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def total(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; gradients flow back to every part."""
    if not (distributed.is_initialized() and distributed.get_world_size() > 1):
        return value
    result: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]  # torch's stub
    return result


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics are those of the whole batch of all processes, on any device.

    torch's own SyncBatchNorm runs on GPUs only. Parameters and buffers have the names and
    meaning of `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [N, C, h, w] over N, h and w of all processes."""
        if not self.training or not distributed.is_initialized():
            return super().forward(x)
        channels = x.shape[1]
        count = x.new_tensor([x.numel() / channels])
        sums = total(torch.cat((x.sum((0, 2, 3)), count)))
        number = sums[channels]
        mean = sums[:channels] / number
        centred = x - mean.view(1, -1, 1, 1)
        variance = total(centred.square().sum((0, 2, 3))) / number
        self._track(mean.detach(), variance.detach(), float(number))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)

    def _track(self, mean: Tensor, variance: Tensor, number: float) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        unbiased = variance * number / max(number - 1.0, 1.0)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def share_batchnorm(net: nn.Module) -> nn.Module:
    """Let every BatchNorm2d of a network share its statistics; works in place."""
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm
    return net
