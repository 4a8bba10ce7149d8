"""What REUSE blocks show to their neighbours: planes that a dense network has read."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Background:
    """What REUSE blocks show to their neighbours: the planes that operations read, in order.

    A network runs once on the whole frame under a `Recorder`, at full or half resolution; the
    same network, run on blocks, then finds for its n-th operation of this kind the n-th plane.
    """

    def __init__(self) -> None:
        """Start without planes."""
        self.planes: list[Tensor] = []


class Recorder(TorchFunctionMode):
    """Fills a `Background` while a dense network runs inside `with`.

    Args:
        background: where the planes go.

    """

    def __init__(self, background: Background) -> None:
        """Take the background."""
        super().__init__()
        self._background = background

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Note the input of every operation that looks beyond the pixel."""
        if _looks_around(func, args, kwargs or {}):
            self._background.planes.append(args[0])
        return func(*args, **(kwargs or {}))


def _looks_around(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an operation on a plane reads more than the pixel that it writes."""
    if func is torch.conv2d:
        return bool(args[1].shape[-1] > 1)
    if func is functional.interpolate:  # pooled context is resized to a size, planes by a factor
        return kwargs.get("scale_factor") is not None
    return func in {functional.max_pool2d, functional.adaptive_avg_pool2d, Tensor.mean}
