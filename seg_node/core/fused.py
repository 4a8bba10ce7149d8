"""Networks on blocks through the kernels of a backend: nothing is gathered for its own sake.

`KernelBlocks` is a `BlockTensor` that hands what `core.backend` names to a backend and leaves the
rest to the reference. A convolution waits, as a `Deferred`, for what the network does with it: an
addition and a ReLU then cost no pass of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from seg_node.core.backend import Layer, Source
from seg_node.core.blocks import scaled, SETS, Window
from seg_node.core.forms import enlargement
from seg_node.core.halos import done, other_rows, plane_rows
from seg_node.core.lists import inside, Lists, numbers, ring
from seg_node.core.sparse import BlockTensor, FUNCTIONS, split
from seg_node.core.tiles import as_rows, filled
from seg_node.core.types import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from seg_node.core.backend import BlockKernels
    from seg_node.core.background import Background, Found, Plane
    from seg_node.core.blocks import BlockLayout

KERNELS = (1, 3)
"""Sides of the kernels of convolutions that backends run; others are the reference's."""

RELUS = {torch.relu, functional.relu}
SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}


@dataclass(frozen=True)
class KernelBlocks(BlockTensor):
    """A feature map of which only some blocks are held, computed by a backend.

    Attributes:
        kernels: the backend; `on_kernels` sets it.
        lists: what `listed` has made.

    """

    kernels: BlockKernels = field(kw_only=True)
    lists: Lists = field(kw_only=True)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a torch function on the blocks.

        Raises:
            ModelError: the function has no block-sparse form.

        """
        args, kwargs = _settled(args), dict(kwargs or {})
        if "inplace" in kwargs:  # a convolution that waits may still have to read the blocks
            kwargs["inplace"] = False
        if func in FORMS and not any(any(x.margin) for x in args if isinstance(x, BlockTensor)):
            return FORMS[func](*args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)

    def __add__(self, other: Any) -> Any:
        """Add a number, a tensor that broadcasts, or blocks."""
        return other + self if isinstance(other, Deferred) else super().__add__(other)

    def __sub__(self, other: Any) -> BlockTensor:
        """Subtract."""
        return super().__sub__(_settled(other))

    def __mul__(self, other: Any) -> BlockTensor:
        """Multiply pixel by pixel."""
        return super().__mul__(_settled(other))

    def __truediv__(self, other: Any) -> BlockTensor:
        """Divide pixel by pixel."""
        return super().__truediv__(_settled(other))

    def sources(
        self, window: Window, *, looks_around: bool = True, clamp: bool = False
    ) -> Sources:
        """Return where the pixels of a window are, for each set that has blocks.

        Args:
            window: which pixels.
            looks_around: whether this counts as an operation that reads the background.
            clamp: outside the image take the nearest pixel inside instead of none.

        """
        plane = self._next_plane() if looks_around else None
        found = {
            action: self._source(action, window, plane, clamp=clamp)
            for action in SETS
            if self.layout.count(action)
        }
        return Sources(found, window, plane)

    def _source(
        self, action: Action, window: Window, plane: Plane | None, *, clamp: bool
    ) -> Source:
        tiles, length = self.of(action), ring(self.layout, action, window)
        other = Action.LOW if action == Action.HIGH else Action.HIGH
        more = []
        if length and self.layout.count(other):
            more.append(self._rows_of_other(action, window, length))
        if length and self.layout.count(Action.REUSE):
            more.append(plane_rows(self, action, window, plane, length).to(tiles.dtype))
        (rows,) = self.listed(
            ("rows", action, window, clamp),
            lambda layout: (numbers(layout, action, window, clamp=clamp),),
        )
        return Source(as_rows(tiles), rows, torch.cat(more) if more else None)

    def _rows_of_other(self, action: Action, window: Window, length: int) -> Tensor:
        """Return pixels of the other set that a window reads, and some that nobody reads."""
        rows = self.listed(
            ("other", action, window),
            lambda layout: (filled(layout.rows(action, window).other, length),),
        )
        return other_rows(self, action, *rows)

    def listed(self, key: Hashable, make: Callable[[BlockLayout], Found]) -> Found:
        """Return lists that depend on where the blocks lie, made once for all layers."""
        return self.lists.get(key, make)

    def cut_out(self, action: Action, window: Window, outside: float | None = 0.0) -> Tensor:
        """Cut the blocks of one set out of its uncut plane, and do what is pending."""
        if not self.layout.count(action):
            return super().cut_out(action, window, outside)
        (pixels,) = self.listed(
            ("pixels", action, window), lambda layout: (layout.pixels(action, window),)
        )
        (seen,) = self.listed(
            ("inside", action, window), lambda layout: (inside(layout, action, window),)
        )
        span, rows = seen.shape[-1], as_rows(self.of(action)).index_select(0, pixels)
        tiles = done(self, rows.view(len(seen), span, span, -1).permute(0, 3, 1, 2))
        return tiles if outside is None else torch.where(seen, tiles, outside)

    def gathered(
        self, action: Action, window: Window, outside: float | None, plane: Plane | None
    ) -> Tensor:
        """Gather the pixels of a window around each block of one set."""
        if not self.layout.count(action):
            return super().gathered(action, window, outside, plane)
        source = self._source(action, window, plane, clamp=outside is None)
        return self.kernels.gather(source, outside or 0.0)

    def mapped(
        self,
        change: Callable[[Action], Tensor],
        stride: int | None = None,
        full: tuple[int, int] | None = None,
        background: Iterator[Plane] | None = None,
    ) -> KernelBlocks:
        """Return blocks of the same backend with the features that `change` gives."""
        new = super().mapped(change, stride, full, background)
        return KernelBlocks(
            new.layout,
            new.stride,
            new.full,
            new.high,
            new.low,
            background=new.background,
            kernels=self.kernels,
            lists=self.lists,
        )

    def made(
        self,
        sources: Sources,
        change: Callable[[Action, Source], Tensor],
        stride: int,
        full: tuple[int, int],
    ) -> KernelBlocks:
        """Return the blocks that `change` makes of each set."""

        def changed(action: Action) -> Tensor:
            if action in sources.found:
                return change(action, sources.found[action])
            return like.new_empty((0, like.shape[1], 1, 1))

        first = next(iter(sources.found), Action.HIGH)
        like = changed(first) if sources.found else self.of(first)
        tiles = {action: like if action is first else changed(action) for action in SETS}
        return self.mapped(tiles.__getitem__, stride, full)


@dataclass(frozen=True)
class Sources:
    """Where the pixels of an operation are.

    Attributes:
        found: the pixels of each set that has blocks.
        window: which pixels around the blocks they are.
        plane: what the operation reads for REUSE blocks; None if there are none.

    """

    found: Mapping[Action, Source]
    window: Window
    plane: Plane | None

    def show(self, x: KernelBlocks, fill: float = 0.0) -> None:
        """Have the background take note of what the HIGH blocks show, and what is around them."""
        if self.plane is not None and Action.HIGH in self.found:
            x.show(self.plane, x.kernels.gather(self.found[Action.HIGH], fill), self.window)


class Deferred:
    """Blocks that a convolution will make, as soon as anything but `+` and ReLU needs them.

    Args:
        x: what is convolved.
        layer: the convolution.
        sources: its pixels.
        residual: what will be added to the result; None for nothing.

    """

    def __init__(
        self,
        x: KernelBlocks,
        layer: Layer,
        sources: Sources,
        residual: KernelBlocks | None = None,
    ) -> None:
        """Note what is to be done."""
        self._x, self._layer, self._sources, self._residual = x, layer, sources, residual
        self._made: KernelBlocks | None = None
        self.stride, self.full = x.stride * layer.step, scaled(x.full, layer.step)
        self.layout = x.layout

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Take a ReLU or a sum along; run anything else on what was made."""
        if func in RELUS and isinstance(args[0], Deferred):
            return args[0].done(relu=True)
        if func in SUMS and not kwargs:
            return args[0] + args[1]
        named = {name: _settled(value) for name, value in (kwargs or {}).items()}
        return func(*_settled(args), **named)

    @property
    def shape(self) -> torch.Size:
        """Size [N, C, h, w] of the whole plane, at the finest resolution that is present."""
        size = scaled(self.full, self.layout.finest)
        return torch.Size((self.layout.images, len(self._layer.weight), *size))

    def numel(self) -> int:
        """Return how many numbers are computed, for the account of multiply-accumulates."""
        sides = [
            len(source.rows) * self._layer.side(source.rows.shape[1]) ** 2
            for source in self._sources.found.values()
        ]
        return sum(sides) * len(self._layer.weight)

    def done(self, *, relu: bool = False) -> KernelBlocks:
        """Convolve, add what waits, and set what is negative to zero."""
        if relu:
            return self._make(relu=True)
        self._made = self._made or self._make(relu=False)
        return self._made

    def _make(self, *, relu: bool) -> KernelBlocks:
        def change(action: Action, source: Source) -> Tensor:
            added = None if self._residual is None else as_rows(self._residual.of(action))
            return self._x.kernels.convolve(source, self._layer, residual=added, relu=relu)

        return self._x.made(self._sources, change, self.stride, self.full)

    def __add__(self, other: Any) -> Any:
        """Take blocks of the same kind along; add anything else to what was made."""
        other = _settled(other)
        joins = (
            isinstance(other, KernelBlocks)
            and other.layout is self.layout
            and not other.whole
            and (other.stride, other.shape) == (self.stride, self.shape)
        )
        if not joins or self._residual is not None or self._made is not None:
            return self.done() + other
        return Deferred(self._x, self._layer, self._sources, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        """Subtract."""
        return self.done() - _settled(other)

    def __mul__(self, other: Any) -> Any:
        """Multiply pixel by pixel."""
        return self.done() * _settled(other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        """Divide pixel by pixel."""
        return self.done() / _settled(other)

    def __getitem__(self, key: Any) -> Any:
        """Cut the plane, as `BlockTensor` does."""
        return self.done()[key]

    def __getattr__(self, name: str) -> Any:
        """Return what only the blocks know."""
        return getattr(self.done(), name)


def on_kernels(
    image: Tensor,
    layout: BlockLayout,
    background: Background | None,
    kernels: BlockKernels,
    lists: Lists | None = None,
) -> KernelBlocks:
    """Return an image as the input of a network that runs on blocks by kernels.

    Args:
        image: RGB 0..255, [N, 3, H, W], uint8 or float.
        layout: what is computed; of the image's size.
        background: what REUSE blocks show.
        kernels: what computes.
        lists: of the layout, to be kept by the caller; None for some of this run alone.

    Raises:
        ModelError: the layout is for an image of another size or batch.

    """
    x = split(image, layout, background)
    return KernelBlocks(
        layout,
        x.stride,
        x.full,
        x.high,
        x.low,
        whole=True,
        background=x.background,
        kernels=kernels,
        lists=lists or Lists(layout),
    )


def _settled(value: Any) -> Any:
    """Return a value, or each of several, with blocks made that wait."""
    if isinstance(value, Deferred):
        return value.done()
    if type(value) in {list, tuple}:
        return type(value)(_settled(item) for item in value)
    return value


# ---- torch functions ---------------------------------------------------------------------------


def _conv2d(  # noqa: PLR0913, PLR0917 - the arguments of torch.conv2d
    x: KernelBlocks,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Any:
    """Convolve the blocks as soon as it is known what follows."""
    layer = Layer(weight, bias, stride[0], dilation[0])
    square = weight.shape[-1] == weight.shape[-2] and weight.shape[-1] in KERNELS
    even = len(set(stride)) == len(set(dilation)) == 1 and groups == 1
    if x.whole or not square or not even or any(p != layer.reach for p in padding):
        return FUNCTIONS[torch.conv2d](x, weight, bias, stride, padding, dilation, groups)
    window = Window(x.stride, x.full, layer.reach, layer.reach)
    sources = x.sources(window, looks_around=layer.reach > 0)
    sources.show(x)
    return Deferred(x, layer, sources)


def _max_pool2d(  # noqa: PLR0913, PLR0917 - the arguments of torch's max_pool2d
    x: KernelBlocks,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002 - as in torch
    return_indices: bool = False,  # noqa: FBT001, FBT002 - as in torch
) -> Any:
    """Take the maximum around each pixel."""
    step = stride or kernel_size
    same = kernel_size % 2 == 1 and padding == kernel_size // 2 and dilation == 1
    if x.whole or not same or ceil_mode or return_indices:
        more = (dilation, ceil_mode, return_indices)
        return FUNCTIONS[functional.max_pool2d](x, kernel_size, stride, padding, *more)
    sources = x.sources(Window(x.stride, x.full, padding, padding))
    sources.show(x, float("-inf"))

    def change(_: Action, source: Source) -> Tensor:
        return x.kernels.max_pool(source, kernel_size, step)

    return x.made(sources, change, x.stride * step, scaled(x.full, step))


def _interpolate(  # noqa: PLR0913, PLR0917 - the arguments of torch's interpolate
    x: KernelBlocks,
    size: Any = None,
    scale_factor: float | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,  # noqa: FBT001 - as in torch
    recompute_scale_factor: bool | None = None,  # noqa: FBT001 - as in torch
    antialias: bool = False,  # noqa: FBT001, FBT002 - as in torch
) -> Any:
    """Upsample bilinearly by a whole factor."""
    factor = enlargement((x.shape[-2], x.shape[-1]), size, scale_factor)
    exact = factor > 1 and x.stride % factor == 0
    if x.whole or mode != "bilinear" or not exact or align_corners or antialias:
        more = (align_corners, recompute_scale_factor, antialias)
        return FUNCTIONS[functional.interpolate](x, size, scale_factor, mode, *more)
    sources = x.sources(Window(x.stride, x.full, 1, 1), clamp=True)
    sources.show(x)

    def change(_: Action, source: Source) -> Tensor:
        return x.kernels.enlarge(source, factor)

    full = (x.full[0] * factor, x.full[1] * factor)
    return x.made(sources, change, x.stride // factor, full)


FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    functional.max_pool2d: _max_pool2d,
    functional.interpolate: _interpolate,
}
"""Functions that a backend runs; all others are the reference's."""
