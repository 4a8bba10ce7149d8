"""Block-sparse execution: networks run on the blocks of a `BlockLayout` instead of whole planes.

`BlockTensor` stands for a feature map of which only some blocks are held, HIGH ones at full and
LOW ones at half resolution. It answers the torch functions that convolutional networks use, so a
plain `nn.Module` of `nets/`, or a user's own, runs on it as it is. Each operation that looks at
neighbours first gathers its blocks with a halo and then works without padding, so that

- all blocks HIGH is exactly the dense network, and all LOW exactly the dense network on the image
  at half resolution, through encoder and decoder (SegBlocks, papers.md section 3A, clamps at
  block borders where it upsamples);
- a halo comes from a block of the same set; else from the other set (a LOW pixel repeated, or
  the average of four HIGH pixels, as in SegBlocks); else, around REUSE blocks, from a
  `Background`;
- what concerns the whole frame (pooled context) is computed from the whole, put together at the
  finest resolution that is present.

This is the plain torch reference. It works on any device, and gradients flow through it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast, TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from seg_node.core.background import Shown
from seg_node.core.blocks import scale_of, scaled, Window
from seg_node.core.tiles import (
    as_rows,
    bounded,
    convolved_as_matrix,
    enlarged,
    follow,
    halved,
    none_like,
)
from seg_node.core.types import Action, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from seg_node.core.background import Background, Plane
    from seg_node.core.blocks import BlockLayout

MATRIX_SIDE = 4
"""Blocks of at most so many output pixels a side may be convolved as one matrix product.

A batch of tiny images costs the convolutions of CPU backends more than the product does; larger
blocks, and few channels, cost more to lay out as a matrix than that gains
(benchmarks/sparse_layer.py).
"""

MATRIX_CHANNELS = 128
"""And only with at least so many input channels."""


@dataclass(frozen=True)
class BlockTensor:
    """A feature map of which only the HIGH and LOW blocks of a layout are held.

    Attributes:
        layout: where the blocks lie.
        stride: image pixels per feature pixel at full resolution.
        full: height and width of the whole plane at full resolution, in feature pixels.
        high: features of the HIGH blocks, [K, C, b, b]; of the whole plane while `whole`.
        low: features of the LOW blocks, [L, C, b/2, b/2]; of the whole plane while `whole`.
        whole: the network's input: planes of both resolutions that are not cut yet, [N, C, h, w].
        pending: what is still to be done to the pixels of uncut planes, in order.
        background: planes still to be read for REUSE blocks; None if there are none.

    """

    layout: BlockLayout
    stride: int
    full: tuple[int, int]
    high: Tensor
    low: Tensor
    whole: bool = False
    pending: tuple[Callable[[Tensor], Tensor], ...] = ()
    background: Iterator[Plane] | None = None
    _context: list[Tensor] = field(default_factory=list, init=False, repr=False)

    # ---- the face of a tensor --------------------------------------------------------------

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
        if func in POINTWISE:
            return _pointwise(func, args, kwargs or {})
        if func not in FUNCTIONS:
            name = getattr(func, "__name__", str(func))
            msg = f"{name} has no block-sparse form; known are {', '.join(known_functions())}"
            raise ModelError(msg)
        return FUNCTIONS[func](*args, **(kwargs or {}))

    @property
    def shape(self) -> torch.Size:
        """Size [N, C, h, w] of the whole plane, at the finest resolution that is present."""
        return torch.Size(
            (self.layout.images, self.high.shape[1], *scaled(self.full, self.layout.finest))
        )

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the features."""
        return self.high.dtype

    @property
    def device(self) -> torch.device:
        """Device of the features."""
        return self.high.device

    def dim(self) -> int:
        """Return 4, as for any batch of feature maps."""
        return 4

    def __add__(self, other: Any) -> BlockTensor:
        """Add a number, a tensor that broadcasts, or another BlockTensor."""
        # Through torch, so that whoever watches sees it.
        added: BlockTensor = torch.add(self, other)  # type: ignore[call-overload]  # it is no Tensor
        return added

    def __radd__(self, other: Any) -> BlockTensor:
        """Add to something."""
        return _pointwise(torch.add, (other, self), {})

    def __sub__(self, other: Any) -> BlockTensor:
        """Subtract."""
        return _pointwise(torch.sub, (self, other), {})

    def __mul__(self, other: Any) -> BlockTensor:
        """Multiply pixel by pixel."""
        return _pointwise(torch.mul, (self, other), {})

    def __rmul__(self, other: Any) -> BlockTensor:
        """Multiply pixel by pixel."""
        return _pointwise(torch.mul, (other, self), {})

    def __truediv__(self, other: Any) -> BlockTensor:
        """Divide pixel by pixel."""
        return _pointwise(torch.div, (self, other), {})

    def to(self, *args: Any, **kwargs: Any) -> BlockTensor:
        """Convert the number format, as `Tensor.to`."""
        if self.whole:
            steps = (*self.pending, lambda pixels: pixels.to(*args, **kwargs))
            return replace(self, pending=steps)
        return self.mapped(lambda action: self.of(action).to(*args, **kwargs))

    def mean(self, dim: tuple[int, ...], *, keepdim: bool = False) -> Tensor:
        """Average over the whole plane: dims (2, 3), kept; [N, C, 1, 1].

        Raises:
            ModelError: other dims were asked for.

        """
        if not keepdim or tuple(d % 4 for d in dim) != (2, 3):
            msg = f"mean over {dim} has no block-sparse form; use (2, 3) with keepdim=True"
            raise ModelError(msg)
        return self.context().mean((2, 3), keepdim=True)

    def __getitem__(self, key: Any) -> BlockTensor:
        """Cut the plane to [..., :h, :w]; what lies beyond is no longer read by anything.

        Raises:
            ModelError: any other way of indexing.

        """
        match key:
            case (
                builtin_ellipsis,
                slice(start=None, step=None),
                slice(start=None, step=None),
            ) if builtin_ellipsis is Ellipsis:
                finest = self.layout.finest
                cut = [
                    side if stop.stop is None else min(side, stop.stop * finest)
                    for side, stop in zip(self.full, key[1:], strict=True)
                ]
                if min(cut) < 1:
                    msg = f"indexing with {key} has no block-sparse form; count from the start"
                    raise ModelError(msg)
                return replace(self, full=(cut[0], cut[1]))
        msg = f"indexing with {key} has no block-sparse form; use [..., :height, :width]"
        raise ModelError(msg)

    # ---- blocks and their neighbourhoods ---------------------------------------------------

    def of(self, action: Action) -> Tensor:
        """Return the features of one set."""
        return self.high if action == Action.HIGH else self.low

    def mapped(
        self,
        change: Callable[[Action], Tensor],
        stride: int | None = None,
        full: tuple[int, int] | None = None,
        background: Iterator[Plane] | None = None,
    ) -> BlockTensor:
        """Return a BlockTensor with the features that `change` gives for each set.

        Where there are no LOW blocks, nothing stands for them, of however many channels.

        Args:
            change: features of a set.
            stride: of these; None for that of `self`. Likewise `full` and `background`.
            full: see above.
            background: see above.

        """
        high = change(Action.HIGH)
        low = change(Action.LOW) if self.layout.count(Action.LOW) else self.low
        stride, full, planes = (
            stride or self.stride,
            full or self.full,
            background or self.background,
        )
        return BlockTensor(self.layout, stride, full, high, low, background=planes)

    def cut(self) -> BlockTensor:
        """Return the blocks, if these are still whole planes."""
        if not self.whole:
            return self
        window = Window(self.stride, self.full)
        return self.mapped(lambda action: self._cut(action, window))

    def around(
        self, before: int, after: int, *, fill: float = 0.0, clamp: bool = False
    ) -> BlockTensor:
        """Return the blocks with the pixels around them.

        Args:
            before: pixels above and left.
            after: pixels below and right.
            fill: value outside the image.
            clamp: outside the image take the nearest pixel inside instead.

        """
        plane = self._next_plane()
        outside = None if clamp else fill
        window = Window(self.stride, self.full, before, after)
        if self.whole:
            return self.mapped(lambda action: self._cut(action, window, outside))
        around = self.mapped(lambda action: self._gathered(action, window, outside, plane))
        _show(plane, around.high, window)
        return around

    def _next_plane(self) -> Plane | None:
        """Return the background of this operation, if there is one."""
        return None if self.background is None else next(self.background)

    def _cut(self, action: Action, window: Window, outside: float | None = 0.0) -> Tensor:
        """Cut the blocks of one set out of its plane, and do what is pending to their pixels."""
        plane, layout = self.of(action), self.layout
        if not layout.count(action):
            return self._done(none_like(plane))
        span = window.before + layout.block_side(action, window.stride) + window.after
        rows = as_rows(plane).index_select(0, layout.pixels(action, window))
        done = self._done(rows.view(layout.count(action), span, span, -1).permute(0, 3, 1, 2))
        if done.requires_grad:  # a step may need its result for its gradient
            done = done.clone()
        return bounded(done, layout.beyond(action, window), outside)

    def _done(self, pixels: Tensor) -> Tensor:
        """Do what is pending."""
        for step in self.pending:
            pixels = step(pixels)
        return pixels

    def _gathered(
        self, action: Action, window: Window, outside: float | None, plane: Plane | None
    ) -> Tensor:
        """Gather the pixels of a window around each block of one set.

        Args:
            action: the set.
            window: which pixels.
            outside: value outside the image; None for that of the nearest pixel inside.
            plane: what REUSE blocks show.

        """
        tiles = self.of(action)
        if not tiles.shape[0]:
            return none_like(tiles)
        rows = self.layout.rows(action, window)
        out = as_rows(tiles).index_select(0, rows.own)
        if rows.other_at.shape[0]:
            out.index_copy_(0, rows.other_at, self._other_rows(action, rows.other))
        if rows.plane_at.shape[0]:
            shown = self._plane_rows(action, window, plane)
            out.index_copy_(0, rows.plane_at, shown.to(out.dtype))
        around = out.view(tiles.shape[0], rows.span, rows.span, -1).permute(0, 3, 1, 2)
        return bounded(around, self.layout.beyond(action, window), outside)

    def _other_rows(self, action: Action, rows: Tensor) -> Tensor:
        """Return pixels of the other set, averaged over those that fall into one pixel."""
        other = as_rows(self.of(Action.LOW if action == Action.HIGH else Action.HIGH))
        found = other.index_select(0, rows.flatten())
        return found if rows.shape[1] == 1 else found.view(*rows.shape, -1).mean(1)

    def _plane_rows(self, action: Action, window: Window, plane: Plane | None) -> Tensor:
        """Return the pixels of a window that the background shows, [k, C]."""
        if plane is None:
            msg = "the grid has REUSE blocks, but there is no background for them"
            raise ModelError(msg)
        halve = scale_of(action) > self.layout.background
        return plane.rows(self.layout.rows(action, window).plane, window, halve=halve)

    # ---- the whole -------------------------------------------------------------------------

    def combined(self, *, smooth: bool = True, base: Tensor | None = None) -> Tensor:
        """Put the blocks together, [N, C, h, w], at the finest resolution that is present.

        Args:
            smooth: LOW blocks are upsampled bilinearly across their borders; otherwise repeated,
                which keeps averages.
            base: plane of the finest resolution that shows in REUSE blocks; zeros if None.

        """
        if self.whole:
            return self.cut().combined(smooth=smooth, base=base)
        layout = self.layout
        finest = Action.LOW if layout.finest == scale_of(Action.LOW) else Action.HIGH
        b = layout.block_side(finest, self.stride)
        gh, gw = layout.grids.shape[1:]
        canvas = self.high.new_zeros((layout.images, gh, gw, self.high.shape[1], b, b))
        for action in (Action.HIGH, Action.LOW):
            if layout.count(action):
                doubled = action != finest
                tiles = self._doubled(base, smooth=smooth) if doubled else self.of(action)
                canvas[layout.places(action)] = tiles
        plane = canvas.permute(0, 3, 1, 4, 2, 5).reshape(layout.images, -1, gh * b, gw * b)
        size = scaled(self.full, layout.finest)
        plane = plane[..., : size[0], : size[1]]
        if base is None or not layout.count(Action.REUSE):
            return plane
        stride = self.stride * layout.finest
        return torch.where(layout.where(Action.REUSE, stride, size), base, plane)

    def _doubled(self, base: Tensor | None, *, smooth: bool) -> Tensor:
        """Return the LOW blocks at full resolution."""
        if not smooth:
            return self.low.repeat_interleave(2, 2).repeat_interleave(2, 3)
        window = Window(self.stride, self.full, 1, 1)
        if base is None and self.layout.count(Action.REUSE):
            base = self.low.new_zeros((self.layout.images, self.low.shape[1], *self.full))
        if base is not None and self.layout.background == scale_of(Action.LOW):
            base = halved(base)
        plane = None if base is None else Shown(base)
        return enlarged(self._gathered(Action.LOW, window, None, plane), 2)

    def context(self) -> Tensor:
        """Return the whole plane [N, C, h, w] from which pooled context is computed.

        It is put together once, for however many operations pool the same features.
        """
        plane = self._next_plane()
        if not self._context:
            self._context.append(self._put_together(plane))
        return self._context[0]

    def _put_together(self, plane: Plane | None) -> Tensor:
        """Return the whole plane, with what REUSE blocks show."""
        x, window = self.cut(), Window(self.stride, self.full)
        base = None if plane is None else plane.whole(window)
        if base is not None and self.layout.background > self.layout.finest:
            base = base.repeat_interleave(2, 2).repeat_interleave(2, 3)
            base = base[..., : self.full[0], : self.full[1]]
        elif base is not None and self.layout.background < self.layout.finest:
            base = halved(base)
        _show(plane, x.high, window)
        return x.combined(smooth=False, base=base)


def _show(plane: Plane | None, tiles: Tensor, window: Window) -> None:
    """Have the background take note of what the HIGH blocks show, and what is around them."""
    if plane is not None and tiles.shape[0]:
        plane.keep(tiles, window)


def split(image: Tensor, layout: BlockLayout, background: Background | None = None) -> BlockTensor:
    """Return an image as the input of a network that runs on blocks.

    Args:
        image: RGB 0..255, [N, 3, H, W], uint8 or float.
        layout: what is computed; of the image's size.
        background: what REUSE blocks show.

    Raises:
        ModelError: the layout is for an image of another size or batch.

    """
    if tuple(image.shape) != (layout.images, image.shape[1], *layout.size):
        msg = f"the layout is for {layout.images} images of {layout.size}, not {list(image.shape)}"
        raise ModelError(msg)
    planes = None if background is None else background.planes()
    low = halved(image) if layout.count(Action.LOW) else none_like(image)
    return BlockTensor(layout, 1, layout.size, image, low, whole=True, background=planes)


# ---- torch functions ---------------------------------------------------------------------------


def _pointwise(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> BlockTensor:
    """Apply a function that treats every pixel alone to each set of blocks."""
    operands = [arg for arg in args if isinstance(arg, BlockTensor)]
    if len(operands) == 1 and operands[0].whole and not any(map(_is_plane, args)):
        at = next(i for i, arg in enumerate(args) if arg is operands[0])  # == is for pixels
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}

        def step(pixels: Tensor) -> Tensor:
            done: Tensor = func(*args[:at], pixels, *args[at + 1 :], **kwargs)
            return done

        return replace(operands[0], pending=(*operands[0].pending, step))
    operands = [x.cut() for x in operands]
    like = operands[0]
    for x in operands[1:]:
        _check_joins(like, x)

    def change(action: Action) -> Tensor:
        values = [
            arg.cut().of(action) if isinstance(arg, BlockTensor) else _for_set(arg, like, action)
            for arg in args
        ]
        return cast("Tensor", func(*values, **kwargs))

    return like.mapped(change)


def _check_joins(like: BlockTensor, x: BlockTensor | Tensor) -> None:
    """Refuse a feature map or plane that lies elsewhere than another's blocks."""
    same = not isinstance(x, BlockTensor) or x.layout is like.layout
    if not same or x.shape[-2:] != like.shape[-2:]:
        layouts = "" if same else ", of two layouts"
        msg = f"cannot join features of shapes {list(like.shape)} and {list(x.shape)}{layouts}"
        raise ModelError(msg)


def _is_plane(value: Any) -> bool:
    """Return whether a plain operand has another value for each pixel or image."""
    return isinstance(value, Tensor) and value.dim() > 1 and value.numel() != value.shape[1]


def _for_set(value: Any, like: BlockTensor, action: Action) -> Any:
    """Return a plain operand in the form in which it meets the blocks of a set."""
    if not isinstance(value, Tensor) or value.dim() != like.dim():
        return value
    if value.shape[-2:] == like.shape[-2:] != (1, 1):
        return sampled(value, like).of(action)
    return value if len(value) == 1 else value[like.layout.places(action)[0]]


def sampled(plane: Tensor, like: BlockTensor) -> BlockTensor:
    """Cut a plain plane [N, C, h, w], of the finest resolution, into blocks like another's."""
    layout = like.layout
    if layout.finest == scale_of(Action.LOW):
        high, low = none_like(plane), plane
    else:
        high, low = plane, halved(plane) if layout.count(Action.LOW) else none_like(plane)
    return replace(like, high=high, low=low, whole=True).cut()


def _conv2d(  # noqa: PLR0913, PLR0917 - the arguments of torch.conv2d
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


def _max_pool2d(  # noqa: PLR0913, PLR0917 - the arguments of torch's max_pool2d
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


def _interpolate(  # noqa: PLR0913, PLR0917 - the arguments of torch's interpolate
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


def _adaptive_avg_pool2d(x: BlockTensor, output_size: Any) -> Tensor:
    """Average parts of the whole plane."""
    return functional.adaptive_avg_pool2d(x.context(), output_size)


def _cat(tensors: Sequence[Any], dim: int = 0) -> BlockTensor:
    """Join channels."""
    if dim % 4 != 1:
        msg = f"cat along {dim} has no block-sparse form; use 1, the channels"
        raise ModelError(msg)
    like = next(x for x in tensors if isinstance(x, BlockTensor)).cut()
    for x in tensors:
        _check_joins(like, x)
    parts = [x.cut() if isinstance(x, BlockTensor) else sampled(x, like) for x in tensors]
    return like.mapped(lambda action: torch.cat([x.of(action) for x in parts], 1))


def _batch_norm(  # noqa: PLR0913, PLR0917 - the arguments of torch's batch_norm
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


def _dropout2d(
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


POINTWISE = {
    *(functional.relu, functional.relu6, functional.hardtanh, functional.leaky_relu),
    *(functional.silu, functional.hardswish, functional.hardsigmoid, functional.gelu),
    *(torch.relu, torch.sigmoid, torch.tanh, torch.prelu, torch.clamp),
    *(torch.add, torch.sub, torch.mul, torch.div),
    *(Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
    *(Tensor.sub, Tensor.div),
}
"""Functions that treat every pixel alone."""

FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    functional.max_pool2d: _max_pool2d,
    functional.interpolate: _interpolate,
    functional.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    functional.batch_norm: _batch_norm,
    functional.dropout2d: _dropout2d,
    torch.cat: _cat,
}
"""Functions of other kinds, with their block-sparse form."""


def known_functions() -> list[str]:
    """Return the names of the torch functions that have a block-sparse form."""
    return sorted({getattr(func, "__name__", "") for func in (*POINTWISE, *FUNCTIONS)})
