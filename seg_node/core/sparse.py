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

from seg_node.core.block_functions import (
    adaptive_avg_pool2d,
    avg_pool2d,
    batch_norm,
    conv2d,
    dropout2d,
    interpolate,
    max_pool2d,
    mean,
    pad,
)
from seg_node.core.blocks import scale_of, scaled, SETS, Window
from seg_node.core.channels import channels, chunk_channels, split_channels
from seg_node.core.forms import Margin, NO_MARGIN
from seg_node.core.halos import cut_out, done, gathered
from seg_node.core.scattering import scattered
from seg_node.core.threads import look
from seg_node.core.tiles import halved, none_like
from seg_node.core.types import Action, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from seg_node.core.background import Background, Found, Plane
    from seg_node.core.blocks import BlockLayout


@dataclass(frozen=True)
class BlockTensor:
    """A feature map of which only the HIGH and LOW blocks of a layout are held.

    Attributes:
        layout: where the blocks lie.
        stride: image pixels per feature pixel at full resolution.
        full: height and width of the whole plane at full resolution, in feature pixels.
        high: features of the HIGH blocks, [K, C, b, b]; of the whole plane while `whole`.
        low: features of the LOW blocks, [L, C, b/2, b/2]; of the whole plane while `whole`.
        margin: zeros around the plane, from a step of its own, for the operation that comes next.
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
    margin: Margin = NO_MARGIN
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
        look()
        name = getattr(func, "__name__", str(func))
        if func not in READ_MARGINS:
            args = _settled(args, name)
        if func in POINTWISE:
            return _pointwise(func, args, kwargs or {})
        if func not in FUNCTIONS:
            msg = f"{name} has no block-sparse form; known are {', '.join(known_functions())}"
            raise ModelError(msg)
        return FUNCTIONS[func](*args, **(kwargs or {}))

    @property
    def shape(self) -> torch.Size:
        """Size [N, C, h, w] of the whole plane, at the finest resolution that is present."""
        height, width = scaled(self.full, self.layout.finest)
        left, right, top, bottom = self.margin
        size = height + top + bottom, width + left + right
        return torch.Size((self.layout.images, self.high.shape[1], *size))

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one number of it."""
        return self.shape if dim is None else self.shape[dim]

    def contiguous(self) -> BlockTensor:
        """Return it as it is: how blocks lie in memory is nobody's business."""
        return self

    @property
    def ndim(self) -> int:
        """Return 4, as for any batch of feature maps."""
        return self.dim()

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
        """Choose channels by [:, a:b], or cut the plane to [..., :h, :w].

        What lies beyond is no longer read by anything.

        Raises:
            ModelError: any other way of indexing.

        """
        if any(self.margin):
            return self.settled("indexing")[key]
        match key:
            case (whole, slice() as chosen, *rest) if all(x == EVERY for x in (whole, *rest)):
                return channels(self, chosen)
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
        msg = (
            f"indexing with {key} has no block-sparse form; use [..., :height, :width] or "
            "[:, first:last]"
        )
        raise ModelError(msg)

    def __getattr__(self, name: str) -> Any:
        """Refuse what a tensor has and blocks do not.

        Raises:
            ModelError: always, but for names that Python itself looks for.

        """
        if name.startswith("_"):
            raise AttributeError(name)
        msg = (
            f"Tensor.{name} has no block-sparse form; known are {', '.join(known_functions())}, "
            "arithmetic, mean, split, chunk, and cutting by [..., :height, :width]"
        )
        raise ModelError(msg)

    def split(self, size: int | Sequence[int], dim: int = 0) -> tuple[BlockTensor, ...]:
        """Return parts of the channels; see `split_channels`."""
        return split_channels(self, size, dim)

    def chunk(self, chunks: int, dim: int = 0) -> tuple[BlockTensor, ...]:
        """Return at most so many parts of the channels; see `chunk_channels`."""
        return chunk_channels(self, chunks, dim)

    # ---- blocks and their neighbourhoods ---------------------------------------------------

    def listed(self, key: Hashable, make: Callable[[BlockLayout], Found]) -> Found:  # noqa: ARG002 - for those who keep them
        """Return lists that depend on where the blocks lie.

        Args:
            key: one key always means the same lists.
            make: makes them of a layout.

        """
        return make(self.layout)

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

    def settled(self, name: str) -> BlockTensor:
        """Return a feature map without a margin: zeros at the end of an image become a part of it.

        Args:
            name: of the operation that needs it so.

        Raises:
            ModelError: there is a margin elsewhere.

        """
        if not any(self.margin):
            return self
        left, right, top, bottom = self.margin
        full = self.full[0] + bottom, self.full[1] + right
        room = [count * self.layout.side for count in self.layout.grids.shape[1:]]
        if not self.whole or left or top or full[0] > room[0] or full[1] > room[1]:
            msg = (
                f"{name} after pad by {tuple(self.margin)} has no block-sparse form on a plane of "
                f"{self.full}; pad the image at the right and bottom, inside its last blocks, or "
                "right before a convolution or pooling"
            )
            raise ModelError(msg)
        planes = {
            action: _extended(done(self, self.of(action)), scaled(full, scale_of(action)))
            for action in SETS
        }
        high, low = planes[Action.HIGH], planes[Action.LOW]
        return replace(self, full=full, high=high, low=low, margin=NO_MARGIN, pending=())

    def bounded(self) -> BlockTensor:
        """Return the blocks with the nearest pixels in place of those outside the image."""
        window = Window(self.stride, self.full)
        return self.mapped(lambda action: self.gathered(action, window, None, None))

    def cut(self) -> BlockTensor:
        """Return the blocks, if these are still whole planes."""
        if any(self.margin):
            return self.settled("an operation").cut()
        if not self.whole:
            return self
        window = Window(self.stride, self.full)
        return self.mapped(lambda action: self.cut_out(action, window))

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
            return self.mapped(lambda action: self.cut_out(action, window, outside))
        around = self.mapped(lambda action: self.gathered(action, window, outside, plane))
        self.show(plane, around.high, window)
        return around

    def _next_plane(self) -> Plane | None:
        """Return the background of this operation, if there is one."""
        return None if self.background is None else next(self.background)

    def gathered(
        self, action: Action, window: Window, outside: float | None, plane: Plane | None
    ) -> Tensor:
        """Gather the pixels of a window around each block of one set; see `halos.gathered`."""
        return gathered(self, action, window, outside, plane)

    def cut_out(self, action: Action, window: Window, outside: float | None = 0.0) -> Tensor:
        """Cut the blocks of one set out of its uncut plane; see `halos.cut_out`."""
        return cut_out(self, action, window, outside)

    def show(self, plane: Plane | None, tiles: Tensor, window: Window) -> None:
        """Have the background take note of what the HIGH blocks show, and what is around them."""
        if plane is not None and tiles.shape[0]:
            room = self.listed("room", lambda layout: plane.room(layout.count(Action.HIGH)))
            plane.keep(tiles, window, room)

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
        return scattered(self, base, smooth=smooth)

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
        base = None
        if plane is not None:
            found = self.listed(("whole", window), lambda _: plane.find(None, window))
            base = plane.whole(found, window)
        if base is not None and self.layout.background > self.layout.finest:
            base = base.repeat_interleave(2, 2).repeat_interleave(2, 3)
            base = base[..., : self.full[0], : self.full[1]]
        elif base is not None and self.layout.background < self.layout.finest:
            base = halved(base)
        self.show(plane, x.high, window)
        return x.combined(smooth=False, base=base)


def _extended(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Put zeros at the right and bottom of a plane, up to a size; no plane stays none."""
    if not plane.shape[0]:
        return plane
    h, w = plane.shape[-2:]
    return functional.pad(plane, (0, size[1] - w, 0, size[0] - h))


def _settled(args: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """Return arguments whose margins are a part of the image."""
    return tuple(
        arg.settled(name)
        if isinstance(arg, BlockTensor)
        else type(arg)(_settled(tuple(arg), name))
        if type(arg) in {list, tuple}
        else arg
        for arg in args
    )


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


EVERY = slice(None)
"""All of an axis."""

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
    torch.conv2d: conv2d,
    functional.max_pool2d: max_pool2d,
    functional.avg_pool2d: avg_pool2d,
    functional.pad: pad,
    functional.interpolate: interpolate,
    functional.adaptive_avg_pool2d: adaptive_avg_pool2d,
    functional.batch_norm: batch_norm,
    functional.dropout2d: dropout2d,
    torch.cat: _cat,
    torch.mean: mean,
    torch.split: split_channels,
    torch.chunk: chunk_channels,
}
"""Functions of other kinds, with their block-sparse form."""

READ_MARGINS = {torch.conv2d, functional.max_pool2d, functional.avg_pool2d}
"""Functions that may read zeros of a step before."""


def known_functions() -> list[str]:
    """Return the names of the torch functions that have a block-sparse form."""
    return sorted({getattr(func, "__name__", "") for func in (*POINTWISE, *FUNCTIONS)})
