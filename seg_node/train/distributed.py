"""Several processes as one: what `torchrun` started descends the curve of a single process."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
import os
import time
from typing import Any, TYPE_CHECKING

import torch
from torch import distributed, nn

from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = timedelta(hours=12)
"""How long a process waits for the others: a teacher may take hours over its frames."""

LAST_TENSORS_S = 0.5
"""How long a process that has left the group waits before it may end."""


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process computes.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
        neighbours: number of processes on this host, which share its memory.

    """

    rank: int = 0
    world: int = 1
    neighbours: int = 1


def join() -> Share:
    """Join the processes that `torchrun` started; a process on its own is a whole."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Share()
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Share(distributed.get_rank(), distributed.get_world_size(), neighbours)


def join_alone(work: str) -> Share:
    """Return the share of the only process.

    Args:
        work: what it does, such as "a policy is trained", for the error.

    Raises:
        ConfigError: `torchrun` started several.

    """
    share = join()
    if share.world > 1:
        msg = f"{work} by one process, not {share.world}; leave torchrun"
        raise ConfigError(msg)
    return share


def leave() -> None:
    """Leave the group, if there is one, and give its threads time to let go of their tensors.

    Gloo's threads outlive a group that `DistributedDataParallel` was in. One that lets go of its
    last tensors while the interpreter ends aborts the process (pytorch/pytorch#179291), and
    `torchrun` the others with it. There is nothing that says when they have.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(LAST_TENSORS_S)


def choose_device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none.

    Raises:
        ConfigError: more processes than GPUs on this host.

    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index, have = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= have:
        msg = f"process {index} of this host has no GPU: torch sees {have}; start {have} processes"
        raise ConfigError(msg)
    return torch.device("cuda", index)


def is_shared() -> bool:
    """Return whether there is more than one process."""
    return distributed.is_initialized() and distributed.get_world_size() > 1


def worst(code: int) -> int:
    """Return the largest code of all processes."""
    if not is_shared():
        return code
    codes = torch.tensor(code)
    distributed.all_reduce(codes, distributed.ReduceOp.MAX)
    return int(codes)


def everyones(value: int) -> list[int]:
    """Return the value of every process, by rank."""
    if not is_shared():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return [int(v) for v in values]


class _Total(torch.autograd.Function):
    """Sum over all processes; the gradient of a sum is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        result = value.detach().clone()
        distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        result = grads[0].clone()
        distributed.all_reduce(result)
        return result


def total(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; gradients flow back to every part."""
    if not is_shared():
        return value
    result: Tensor = _Total.apply(value)  # type: ignore[no-untyped-call]  # torch's stub
    return result


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics are those of the whole batch of all processes, on any device.

    torch's own SyncBatchNorm runs on GPUs only. Parameters and buffers have the names and
    meaning of `nn.BatchNorm2d`; statistics are computed in the parameters' precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [N, C, h, w] over N, h and w of all processes."""
        if not self.training or not is_shared():
            return super().forward(x)
        channels = x.shape[1]
        wide = x.to(self.weight.dtype)
        count = wide.new_tensor([x.numel() / channels])
        sums = total(torch.cat((wide.sum((0, 2, 3)), count)))
        number = sums[channels]
        mean = sums[:channels] / number
        centred = wide - mean.view(1, -1, 1, 1)
        variance = total(centred.square().sum((0, 2, 3))) / number
        self._track(mean.detach(), variance.detach(), float(number.detach()))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)

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
