"""A network that learns, with all that its learning needs."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from seg_node.train.optimizers import warming_average

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.optim import Optimizer


class Learner:
    """A network, its optimiser, and the moving average of its weights that is shipped.

    Args:
        net: network, already on its device.
        optimizer: of the network's parameters.
        decay: of the average, per step; see `warming_average`.

    """

    def __init__(self, net: nn.Module, optimizer: Optimizer, decay: float) -> None:
        """Start the average at the network."""
        self.net = net
        self._optimizer = optimizer
        update = warming_average(decay)
        self._average = AveragedModel(net, multi_avg_fn=update, use_buffers=True)

    def averaged(self) -> nn.Module:
        """Return the average, in eval mode."""
        net: nn.Module = self._average.module
        return net.eval()

    def find_gradient(self, loss: Tensor) -> None:
        """Take a loss's gradient in place of that of the last step."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub

    def clip_gradient(self, largest: float) -> float:
        """Shorten the gradient to a largest norm, and return what its norm was."""
        return float(nn.utils.clip_grad_norm_(self.net.parameters(), largest))

    def descend(self, rate: float) -> None:
        """Take a step down the gradient, and move the average."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._average.update_parameters(self.net)

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint must hold."""
        return {
            "net": self.net.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.net.load_state_dict(state["net"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])

    def nbytes(self) -> int:
        """Return about how much a checkpoint holds: weights, average, two moments."""
        return 4 * sum(p.numel() * p.element_size() for p in self.net.parameters())


def placed(net: nn.Module, device: torch.device) -> nn.Module:
    """Return a network on its device, with weights in `channels_last`."""
    there: nn.Module = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
    return there
