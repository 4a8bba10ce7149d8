"""Modules computed in some bins alone, exactly, amid a whole plane of their input.

What the second convolution reads in bins that are not computed is computed, too, but for these
pixels alone, as a product of matrices: so the result is exactly the module's, and nothing in
between has to be remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import Any, cast, NamedTuple, NoReturn, TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seg_node.core.blocks import Window
from seg_node.core.sparse import BlockTensor, POINTWISE
from seg_node.core.tiles import as_rows, none_like
from seg_node.core.transfers import to_device
from seg_node.core.types import Action, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seg_node.core.background import Found
    from seg_node.core.blocks import BlockLayout


def compute_bins(
    block: Callable[[Any], Any], x: Tensor, layout: BlockLayout, stride: int
) -> Tensor:
    """Compute a module in the HIGH bins of a layout, exactly.

    Args:
        block: what it computes, such as `branch` of a residual block.
        x: its whole input, [1, C, h, w].
        layout: HIGH and REUSE bins.
        stride: image pixels per pixel of x.

    Returns:
        float [K, C, b, b]; pixels of bins beyond the image are of no meaning.

    Raises:
        ModelError: the block has an operation that cannot be computed in bins alone.

    """
    size = (x.shape[-2], x.shape[-1])
    blocks = BlockTensor(layout, stride, size, x, none_like(x), whole=True)
    with _Surroundings():
        computed = cast("BlockTensor", block(blocks))
    return computed.cut().high


class _Made(NamedTuple):
    """How a result on bins came to be; with the result, so that no other has its identity."""

    result: BlockTensor
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Computed:
    """A plane that is known at the pixels that an operation reads."""

    def __init__(self, rows: Tensor) -> None:
        """Take the values of these pixels, [k, C]."""
        self._rows = rows

    def find(self, pixels: Tensor | None, window: Window, *, halve: bool = False) -> Found:  # noqa: ARG002 - they were computed for them
        """Return nothing: the pixels are there.

        Raises:
            ModelError: all pixels are asked for, and only some are known.

        """
        if pixels is None:
            msg = f"an operation reads the whole plane of {window.size}; bins alone do not have it"
            raise ModelError(msg)
        return ()

    def rows(self, found: Found, window: Window, *, halve: bool = False) -> Tensor:  # noqa: ARG002 - they were computed for them
        """Return the pixels."""
        return self._rows

    def whole(self, found: Found, window: Window) -> NoReturn:  # noqa: ARG002 - none is found
        """Refuse, as `find` does."""
        raise AssertionError

    def room(self, count: int) -> Found:  # noqa: ARG002 - nothing is kept
        """Return nothing: there is no room."""
        return ()

    def keep(self, tiles: Tensor, window: Window, room: Found) -> None:
        """Forget: the next frame computes what it needs."""


class _Surroundings(TorchFunctionMode):
    """Computes what convolutions on bins read around them; runs inside `with`.

    It notes how every result came to be. Where a convolution looks beyond the bins, what it reads
    there is computed from the whole input by the same operations, for these pixels alone.
    """

    def __init__(self) -> None:
        """Start without results."""
        super().__init__()
        self._made: dict[int, _Made] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation with its surroundings."""
        kwargs, given = kwargs or {}, args
        if func is torch.conv2d and isinstance(args[0], BlockTensor) and not args[0].whole:
            given = (self._surrounded(_Form.of(*args, **kwargs)), *args[1:])
        result = func(*given, **kwargs)
        if isinstance(result, BlockTensor):
            self._made[id(result)] = _Made(result, func, args, kwargs)
        return result

    def _surrounded(self, form: _Form) -> BlockTensor:
        """Return the input of a convolution with what it reads in other bins."""
        x = form.x
        if form.reach == 0:
            return x
        window = Window(x.stride, x.full, form.reach, form.reach)
        found = torch.unique(x.layout.rows(Action.HIGH, window).plane, return_inverse=True)
        once, place = (to_device(part, x.device) for part in found)
        rows = self._rows(x, once).index_select(0, place)
        return _with_background(x, rows)

    def _rows(self, x: BlockTensor, pixels: Tensor) -> Tensor:
        """Compute some pixels of a result, [k, C]; they are counted row by row."""
        if x.whole:
            rows = as_rows(x.high).index_select(0, pixels)[:, :, None, None]
            for step in x.pending:
                rows = step(rows)
            return rows.flatten(1)
        made = self._made.get(id(x))
        if made is not None and made.func is torch.conv2d:
            return self._convolved(_Form.of(*made.args, **made.kwargs), x.full[1], pixels)
        known = made is not None and (made.func in POINTWISE or made.func is functional.batch_norm)
        if made is None or not known:
            name = getattr(made.func, "__name__", "an operator") if made else "an operator"
            msg = f"what {name} returns in other bins cannot be computed for single pixels"
            raise ModelError(msg)
        values = [
            self._rows(arg, pixels)[:, :, None, None] if isinstance(arg, BlockTensor) else arg
            for arg in made.args
        ]
        return cast("Tensor", made.func(*values, **made.kwargs)).flatten(1)

    def _convolved(self, form: _Form, width: int, pixels: Tensor) -> Tensor:
        """Convolve at some pixels, [k, C]."""
        height_in, width_in = form.x.full
        taps = torch.arange(form.kernel, device=pixels.device) * form.dilation - form.reach
        y = ((pixels // width) * form.step)[:, None] + taps
        x = ((pixels % width) * form.step)[:, None] + taps
        inside = ((y >= 0) & (y < height_in))[:, :, None] & ((x >= 0) & (x < width_in))[:, None]
        at = y.clamp(0, height_in - 1)[:, :, None] * width_in + x.clamp(0, width_in - 1)[:, None]
        patches = self._patches(form.x, at.flatten()) * inside.flatten()[:, None]
        if form.groups == 1:
            matrix = form.weight.permute(0, 2, 3, 1).flatten(1)
            return functional.linear(patches.view(-1, matrix.shape[1]), matrix, form.bias)
        span = (form.kernel, form.kernel, patches.shape[1])
        images = patches.view(len(pixels), *span).permute(0, 3, 1, 2)
        made = functional.conv2d(images, form.weight, form.bias, groups=form.groups)
        return made.flatten(1)

    def _patches(self, x: BlockTensor, pixels: Tensor) -> Tensor:
        if x.whole:
            return self._rows(x, pixels)
        once, place = torch.unique(pixels, return_inverse=True)
        return self._rows(x, once).index_select(0, place)


def _with_background(x: BlockTensor, rows: Tensor) -> BlockTensor:
    return x.mapped(x.of, background=repeat(_Computed(rows)))


@dataclass(frozen=True)
class _Form:
    """A convolution on bins."""

    x: BlockTensor
    weight: Tensor
    bias: Tensor | None
    step: int
    dilation: int
    groups: int

    @staticmethod
    def of(  # noqa: PLR0913, PLR0917 - the arguments of torch.conv2d
        x: BlockTensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = (1, 1),
        padding: int | Sequence[int] = (0, 0),  # noqa: ARG004 - half the kernel, as bins need anyway
        dilation: int | Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> _Form:
        """Read the arguments of torch.conv2d."""
        step, apart = (n if isinstance(n, int) else n[0] for n in (stride, dilation))
        return _Form(x, weight, bias, step, apart, groups)

    @property
    def kernel(self) -> int:
        """Side of the kernel."""
        return int(self.weight.shape[-1])

    @property
    def reach(self) -> int:
        """How many pixels it looks to each side."""
        return self.dilation * (self.kernel // 2)
