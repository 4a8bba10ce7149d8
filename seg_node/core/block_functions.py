"""Torch functions on blocks, with the arguments of torch: convolution, pooling, resizing, norms.

Each operation that looks at neighbours first gathers its blocks with a halo and then works without
padding; what concerns the whole frame is computed from the whole. All raise ModelError for
arguments that have no block-sparse form.
"""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import torch
from torch.nn import functional

from seg_node.core.blocks import scaled
from seg_node.core.tiles import convolved_as_matrix, enlarged, follow
from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from seg_node.core.sparse import BlockTensor
    from seg_node.core.types import Action

MATRIX_SIDE = 4
"""Blocks of at most so many output pixels a side may be convolved as one matrix product.

A batch of tiny images costs the convolutions of CPU backends more than the product does; larger
blocks, and few channels, cost more to lay out as a matrix than that gains
(benchmarks/sparse_layer.py).
"""

MATRIX_CHANNELS = 128
"""And only with at least so many input channels."""


def conv2d(  # noqa: PLR0913, PLR0917 - the arguments of torch.conv2d
    x: BlockTensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = (1, 1),
    padding: int | tuple[int, ...] = (0, 0),
    dilation: int | tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> BlockTensor:
    """Convolve the blocks: gather with halo, convolve without padding."""
    kernel = weight.shape[-1]
    stride, padding, dilation = (
        (n, n) if isinstance(n, int) else n for n in (stride, padding, dilation)
    )
    step, reach = stride[0], dilation[0] * (kernel // 2)
    same = (kernel % 2 == 1, *(p == reach for p in padding), weight.shape[-2] == kernel)
    if not all(same) or len(set(stride)) > 1 or len(set(dilation)) > 1:
        msg = (
            f"conv2d with kernel {tuple(weight.shape[-2:])}, padding {tuple(padding)} and "
            f"dilation {tuple(dilation)} has no block-sparse form; pad square odd kernels by half"
        )
        raise ModelError(msg)
    # As many pixels after as before, though a stride may need fewer: so all layers share rows.
    around = x.around(reach, reach) if kernel > 1 else x.cut()
    full = scaled(x.full, step)

    def change(action: Action) -> Tensor:
        tiles = around.of(action)
        if not tiles.shape[0]:
            return tiles.new_empty((0, weight.shape[0], 1, 1))
        side = x.layout.block_side(action, x.stride * step)
        dense_enough = groups == 1 and weight.shape[1] >= MATRIX_CHANNELS
        if side <= MATRIX_SIDE and dense_enough and kernel > 1:
            return convolved_as_matrix(tiles, weight, bias, (step, dilation[0], side))
        return functional.conv2d(tiles, weight, bias, step, 0, dilation, groups)

    return around.mapped(change, stride=x.stride * step, full=full)


def max_pool2d(  # noqa: PLR0913, PLR0917 - the arguments of torch's max_pool2d
    x: BlockTensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002 - as in torch
    return_indices: bool = False,  # noqa: FBT001, FBT002 - as in torch
) -> BlockTensor:
    """Take the maximum around each pixel."""
    step = stride or kernel_size
    is_same = kernel_size % 2 == 1 and padding == kernel_size // 2
    if ceil_mode or return_indices or dilation != 1 or not is_same:
        msg = f"max_pool2d of {kernel_size} with padding {padding} has no block-sparse form"
        raise ModelError(msg)
    around = x.around(padding, padding, fill=float("-inf"))

    def change(action: Action) -> Tensor:
        tiles = around.of(action)
        return functional.max_pool2d(tiles, kernel_size, step) if tiles.shape[0] else tiles

    return around.mapped(change, stride=x.stride * step, full=scaled(x.full, step))


def interpolate(  # noqa: PLR0913, PLR0917 - the arguments of torch's interpolate
    x: BlockTensor,
    size: Any = None,
    scale_factor: float | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,  # noqa: FBT001 - as in torch
    recompute_scale_factor: bool | None = None,  # noqa: ARG001, FBT001 - as in torch
    antialias: bool = False,  # noqa: FBT001, FBT002 - as in torch
) -> BlockTensor:
    """Upsample bilinearly by a whole factor."""
    factor = int(scale_factor or 0)
    exact = factor == scale_factor and factor > 1 and x.stride % factor == 0
    if size is not None or mode != "bilinear" or align_corners or antialias or not exact:
        msg = f"interpolate to {size or scale_factor} ({mode}) has no block-sparse form"
        raise ModelError(msg)
    around = x.around(1, 1, clamp=True)

    def change(action: Action) -> Tensor:
        tiles = around.of(action)
        return enlarged(tiles, factor) if tiles.shape[0] else tiles

    full = (x.full[0] * factor, x.full[1] * factor)
    return around.mapped(change, stride=x.stride // factor, full=full)


def adaptive_avg_pool2d(x: BlockTensor, output_size: Any) -> Tensor:
    """Average parts of the whole plane."""
    return functional.adaptive_avg_pool2d(x.context(), output_size)


def batch_norm(  # noqa: PLR0913, PLR0917 - the arguments of torch's batch_norm
    x: BlockTensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002 - as in torch
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> BlockTensor:
    """Normalise; in training each set by its own statistics, as SegBlocks does.

    The running statistics then follow the average of both sets' means and variances, weighted by
    their numbers of pixels (papers.md section 3A, step 9).
    """
    x = x.cut()

    def change(action: Action) -> Tensor:
        tiles = x.of(action)
        if not tiles.shape[0]:
            return tiles
        if training:
            return functional.batch_norm(tiles, None, None, weight, bias, training=True, eps=eps)
        return functional.batch_norm(tiles, running_mean, running_var, weight, bias, eps=eps)

    if training and running_mean is not None and running_var is not None:
        follow((x.high, x.low), running_mean, running_var, momentum)
    return x.mapped(change)


def dropout2d(
    x: BlockTensor,
    p: float = 0.5,
    training: bool = True,  # noqa: FBT001, FBT002 - as in torch
    inplace: bool = False,  # noqa: ARG001, FBT001, FBT002 - as in torch
) -> BlockTensor:
    """Drop whole channels of each image, in all its blocks alike."""
    if not training or not p:
        return x
    images, channels = x.shape[:2]
    kept = torch.rand((images, channels, 1, 1), device=x.device) >= p
    return x * (kept.to(x.dtype) / (1 - p))
