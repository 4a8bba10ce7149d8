"""Torch functions on blocks, with the arguments of torch: convolution, pooling, resizing, norms.

Each operation that looks at neighbours first gathers its blocks with a halo and then works without
padding; what concerns the whole frame is computed from the whole. All raise ModelError for
arguments that have no block-sparse form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TYPE_CHECKING

import torch
from torch.nn import functional

from seg_node.core.blocks import scaled
from seg_node.core.forms import (
    convolution,
    enlargement,
    looks_around,
    Margin,
    mean_pooling,
    NO_MARGIN,
    pooling,
)
from seg_node.core.tiles import convolved_as_matrix, enlarged, follow
from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from seg_node.core.forms import Reading
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


def conv2d(
    x: BlockTensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> BlockTensor:
    """Convolve the blocks: gather with halo, convolve without padding."""
    reading = convolution(weight, bias, *args, **kwargs)
    groups = kwargs.get("groups", args[_GROUPS] if len(args) > _GROUPS else 1)
    kernel, step, dilation = reading.kernel[0], reading.step[0], reading.dilation
    x, before, after = _placed(x, reading, "conv2d")
    around = x.around(before, after) if kernel > 1 else x.cut()
    full = scaled(x.full, step)

    def change(action: Action) -> Tensor:
        tiles = around.of(action)
        if not tiles.shape[0]:
            return tiles.new_empty((0, weight.shape[0], 1, 1))
        side = x.layout.block_side(action, x.stride * step)
        dense_enough = groups == 1 and weight.shape[1] >= MATRIX_CHANNELS and before == after
        if side <= MATRIX_SIDE and dense_enough and kernel > 1:
            return convolved_as_matrix(tiles, weight, bias, (step, dilation[0], side))
        return functional.conv2d(tiles, weight, bias, step, 0, dilation, groups)

    return around.mapped(change, stride=x.stride * step, full=full)


_GROUPS = 3
"""Place of `groups` among the arguments of torch.conv2d after the bias."""


def _placed(x: BlockTensor, reading: Reading, name: str) -> tuple[BlockTensor, int, int]:
    """Return blocks, and how many pixels around them an operation reads.

    A margin that is not a part of its reading belongs to the image.
    """
    found = reading.around(x.full, x.margin)
    if found is not None:
        return replace(x, margin=NO_MARGIN), *found
    x = x.settled(name)
    found = reading.around(x.full, x.margin)
    if found is None:
        msg = (
            f"{name} with kernel {reading.kernel}, stride {reading.step}, padding "
            f"{reading.padding} and dilation {reading.dilation} has no block-sparse form on a "
            f"plane of {x.full}: it has to write one pixel for each stride, rounded up; pad by "
            "half the kernel, or pad the image to a multiple of the largest stride"
        )
        raise ModelError(msg)
    return x, *found


def pad(
    x: BlockTensor,
    pad: Sequence[int],  # as in torch
    mode: str = "constant",
    value: float | None = None,
) -> BlockTensor:
    """Put zeros around the plane: for the next operation, or at the image's right and bottom."""
    if mode != "constant" or value or len(pad) != len(NO_MARGIN) or min(pad) < 0:
        msg = f"pad by {tuple(pad)} ({mode}, {value}) has no block-sparse form; use four and zeros"
        raise ModelError(msg)
    return replace(x.settled("pad"), margin=Margin(*pad))


def max_pool2d(x: BlockTensor, *args: Any, **kwargs: Any) -> BlockTensor:
    """Take the maximum around each pixel."""
    reading = pooling(*args, **kwargs)
    kernel, step, dilation = reading.kernel[0], reading.step[0], reading.dilation[0]
    fill = 0.0 if any(x.margin) else float("-inf")
    mixed = fill == 0.0 and any(reading.padding)
    if kwargs.get("return_indices") or dilation != 1 or mixed:
        msg = f"max_pool2d of {args} {kwargs} has no block-sparse form"
        raise ModelError(msg)
    x, before, after = _placed(x, reading, "max_pool2d")
    around = x.around(before, after, fill=fill)

    def change(action: Action) -> Tensor:
        tiles = around.of(action)
        return functional.max_pool2d(tiles, kernel, step) if tiles.shape[0] else tiles

    return around.mapped(change, stride=x.stride * step, full=scaled(x.full, step))


def avg_pool2d(  # noqa: PLR0913, PLR0917 - the arguments of torch's avg_pool2d
    x: BlockTensor,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002 - as in torch
    count_include_pad: bool = True,  # noqa: FBT001, FBT002 - as in torch
    divisor_override: int | None = None,
) -> BlockTensor:
    """Average around each pixel, or each two by two pixels."""
    reading = mean_pooling(kernel_size, stride, padding, ceil_mode)
    kernel, step = reading.kernel[0], reading.step[0]
    x, before, after = _placed(x, reading, "avg_pool2d")
    # Where a last pair is cut by the border, torch averages what is there: the nearest again.
    tiled = (kernel, step, before) == (_PAIR, _PAIR, 0)
    counted = count_include_pad and not ceil_mode
    if divisor_override or not (tiled or counted):
        msg = (
            f"avg_pool2d of {kernel} with ceil_mode {ceil_mode}, count_include_pad "
            f"{count_include_pad} and divisor {divisor_override} has no block-sparse form"
        )
        raise ModelError(msg)
    around = x.around(before, after) if looks_around(reading) else x.cut().bounded()

    def change(action: Action) -> Tensor:
        tiles = around.of(action)
        return functional.avg_pool2d(tiles, kernel, step) if tiles.shape[0] else tiles

    return around.mapped(change, stride=x.stride * step, full=scaled(x.full, step))


_PAIR = 2


def interpolate(  # noqa: PLR0913, PLR0917 - the arguments of torch's interpolate
    x: BlockTensor,
    size: Any = None,
    scale_factor: float | tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,  # noqa: FBT001 - as in torch
    recompute_scale_factor: bool | None = None,  # noqa: ARG001, FBT001 - as in torch
    antialias: bool = False,  # noqa: FBT001, FBT002 - as in torch
) -> BlockTensor:
    """Upsample by a whole factor, bilinearly or to the nearest pixel."""
    factor = enlargement((x.shape[-2], x.shape[-1]), size, scale_factor)
    known = mode in {"bilinear", "nearest"} and not align_corners and not antialias
    if not known or not factor or x.stride % factor:
        msg = (
            f"interpolate from {tuple(x.shape[-2:])} to {size or scale_factor} ({mode}) has no "
            "block-sparse form; enlarge by a whole factor, bilinearly without align_corners or to "
            "the nearest pixel, and pad the image to a multiple of the largest stride"
        )
        raise ModelError(msg)
    if factor == 1:
        return x
    around = x.around(1, 1, clamp=True) if mode == "bilinear" else x.cut()

    def change(action: Action) -> Tensor:
        tiles = around.of(action)
        if not tiles.shape[0]:
            return tiles
        if mode == "bilinear":
            return enlarged(tiles, factor)
        return functional.interpolate(tiles, scale_factor=factor)

    full = (x.full[0] * factor, x.full[1] * factor)
    return around.mapped(change, stride=x.stride // factor, full=full)


def mean(x: BlockTensor, dim: tuple[int, ...], keepdim: bool = False) -> Tensor:  # noqa: FBT001, FBT002 - as in torch
    """Average the whole plane."""
    return x.mean(dim, keepdim=keepdim)


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
