"""The Triton kernels behind the face that the block engine knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.core.types import ConfigError
from seg_node.kernels import attention, borders, convolution, frames, pooling
from seg_node.kernels.matching import TritonMatcher
from seg_node.kernels.tuning import INTERPRETED

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from seg_node.core.backend import Layer, Source, Target
    from seg_node.core.borders import Moved
    from seg_node.core.masks import Planes


class TritonKernels(TritonMatcher):
    """The operations as Triton kernels; see `core.backend.BlockKernels` for each.

    Args:
        device: where they will run.

    Raises:
        ConfigError: the device is a CPU, and the kernels are not interpreted.

    """

    name = "triton"

    def __init__(self, device: torch.device) -> None:
        """Refuse a device that they do not run on."""
        if device.type != "cuda" and not INTERPRETED:
            msg = (
                f"kernels is {self.name!r}, which needs a CUDA device, not {device}; choose auto "
                "or torch"
            )
            raise ConfigError(msg)

    def gather(self, source: Source, fill: float = 0.0) -> Tensor:
        """Copy blocks with what is around them together."""
        return pooling.gather(source, fill)

    def convolve(
        self,
        source: Source,
        layer: Layer,
        *,
        residual: Tensor | None = None,
        relu: bool = False,
        target: Target | None = None,
    ) -> Tensor:
        """Convolve blocks, add a residual, and set what is negative to zero."""
        return convolution.convolve(source, layer, residual=residual, relu=relu, target=target)

    def max_pool(self, source: Source, kernel: int, step: int) -> Tensor:
        """Return the maximum around each pixel."""
        return pooling.max_pool(source, kernel, step)

    def enlarge(self, source: Source, factor: int) -> Tensor:
        """Upsample blocks bilinearly by a whole factor."""
        return pooling.enlarge(source, factor)

    def attend(
        self,
        base: Tensor,
        operands: tuple[Tensor, Tensor, Tensor],
        valid: Tensor | None,
        window: int,
    ) -> Tensor:
        """Add what each pixel finds around it."""
        return attention.attend(base, operands, valid, window)

    def decide(self, logits: Tensor, stride: int, size: tuple[int, int]) -> Planes:
        """Make logits a mask on the device."""
        return frames.decide_planes(logits, stride, size)

    def read_tiles(self, planes: Planes, moved: Moved, stride: int, classes: int) -> Planes:
        """Decide pixels anew where classes meet."""
        return borders.read_tiles(planes, moved, stride, classes)
