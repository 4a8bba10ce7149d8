"""Operations on feature maps that are deferred (`core/deferred.py`), with the arguments of torch.

Inside `Deferring` plain modules run on them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seg_node.core.deferred import Area, arguments, Deferred
from seg_node.core.forms import convolution, enlargement, pooling
from seg_node.core.sparse import POINTWISE
from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seg_node.core.forms import Reading


class Deferring(TorchFunctionMode):
    """Operations on feature maps that are deferred are deferred, too, inside `with`.

    Others compute what they read as a whole.

    Args:
        strict: they raise ModelError instead, unless all that they read is computed already.

    """

    def __init__(self, *, strict: bool = False) -> None:
        """Start with nothing."""
        super().__init__()
        self._strict = strict

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Defer an operation, or run it.

        Raises:
            ModelError: it would have to be computed as a whole, and is not to be.

        """
        kwargs = kwargs or {}
        if Deferred not in types:
            return func(*args, **kwargs)
        made = _deferred(func, args, kwargs)
        if made is not None:
            return made
        if func in QUESTIONS:
            return func(*args, **kwargs)
        read = [x for x in _flat((*args, *kwargs.values())) if isinstance(x, Deferred)]
        if self._strict and not all(x.is_known for x in read):
            name = getattr(func, "__name__", str(func))
            msg = f"{name} reads a whole plane; of bins alone there is none"
            raise ModelError(msg)
        found = func(*arguments(args), **arguments(kwargs))
        return Deferred.known(found) if _is_plane(found) else found


def _flat(values: Sequence[Any]) -> list[Any]:
    """Return values, and those in lists and tuples among them."""
    return [
        x for value in values for x in (value if isinstance(value, list | tuple) else (value,))
    ]


def _is_plane(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4  # noqa: PLR2004 - [N, C, h, w]


# ---- operations --------------------------------------------------------------------------------


def _deferred(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Deferred | None:
    """Return the result of an operation, deferred; None if it cannot be."""
    if func in POINTWISE or func in METHODS:
        return _pointwise(func, args, kwargs)
    form = FORMS.get(func)
    return form(*args, **kwargs) if form is not None and args else None


def _pointwise(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Deferred | None:
    """Apply a function that treats every pixel alone."""
    planes = [x for x in args if isinstance(x, Deferred)]
    like = max(planes, key=lambda x: x.shape[-2:].numel(), default=None)
    named = any(isinstance(x, Tensor) and x.dim() > 1 for x in kwargs.values())
    if like is None or named or not all(_fits(x, like) for x in args):
        return None
    # What it is given may be a view of a plane that others read, too.
    in_place = kwargs.get("inplace", False)
    kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
    operands = [_reader(x, like) for x in args]

    def compute(area: Area) -> Tensor:
        made: Tensor = func(*(read(area) for read in operands), **kwargs)
        return made

    channels = max(x.shape[1] for x in args if _is_plane(x))
    made = like.made((like.shape[0], channels, *like.shape[-2:]), compute)
    return like.becomes(made) if in_place else made


def _fits(x: Any, like: Deferred) -> bool:
    """Return whether an operand is as large as a plane, or the same in all of its pixels."""
    plane = isinstance(x, Tensor) and x.dim() > 1
    return not plane or tuple(x.shape[-2:]) in {tuple(like.shape[-2:]), (1, 1)}


def _reader(x: Any, like: Deferred) -> Callable[[Area], Any]:
    """Return what gives an operand's pixels of an area; what has none is the same everywhere."""
    alike = isinstance(x, Tensor) and x.dim() > 1 and x.shape[-2:] == like.shape[-2:]
    if isinstance(x, Deferred):
        source = x.read()
        return source.at if alike else lambda _: source.whole()
    return (lambda area: area.of(x)) if alike else lambda _: x


def _batch_norm(x: Deferred, *args: Any, **kwargs: Any) -> Deferred | None:
    training = kwargs.get("training", args[4] if len(args) > 4 else False)  # noqa: PLR2004 - its place
    if training or not isinstance(x, Deferred):
        return None
    return _pointwise(functional.batch_norm, (x, *args), kwargs)


def _cat(tensors: Sequence[Any], dim: int = 0, **more: Any) -> Deferred | None:
    """Join channels."""
    like = next(x for x in tensors if isinstance(x, Deferred))
    if more or dim % 4 != 1 or any(x.shape[-2:] != like.shape[-2:] for x in tensors):
        return None
    readers = [_reader(x, like) for x in tensors]
    channels = sum(x.shape[1] for x in tensors)
    shape = (like.shape[0], channels, *like.shape[-2:])
    return like.made(shape, lambda area: torch.cat([read(area) for read in readers], 1))


@dataclass(frozen=True)
class _Axis:
    """What an operation reads of one axis.

    Attributes:
        first: the first pixel that it reads.
        end: that after the last.
        before: pixels beyond the plane before it.
        after: and behind.
        alike: whether as many may be put behind as before: what more that is, nothing reads.

    """

    first: int
    end: int
    before: int
    after: int
    alike: bool

    @staticmethod
    def span(reading: Reading, axis: int) -> int:
        """Return how many pixels lie from the first to the last that are read for one."""
        return reading.dilation[axis] * (reading.kernel[axis] - 1) + 1

    @staticmethod
    def of(reading: Reading, axis: int, start: int, stop: int, length: int) -> _Axis:
        """Say what it reads for pixels from `start` to `stop` of a plane of this length."""
        step = reading.step[axis]
        first = start * step - reading.padding[axis]
        end = (stop - 1) * step - reading.padding[axis] + _Axis.span(reading, axis)
        inside = max(first, 0), min(end, length)
        before, after = inside[0] - first, end - inside[1]
        return _Axis(*inside, before, after, after <= before < after + step)

    @staticmethod
    def written(reading: Reading, axis: int, length: int) -> int:
        """Return how many pixels it writes for a plane of this length."""
        spare = length + 2 * reading.padding[axis] - _Axis.span(reading, axis)
        return spare // reading.step[axis] + 1


def _windowed(
    x: Deferred,
    reading: Reading,
    channels: int,
    run: Callable[[Tensor, tuple[int, int]], Tensor],
    fill: float,
) -> Deferred | None:
    """Apply an operation that reads windows.

    Args:
        x: what it reads.
        reading: what of it.
        channels: how many it writes.
        run: does it, padding both ends of rows and columns by so many pixels.
        fill: what it reads beyond the plane.

    Returns:
        None where windows may lie beyond the plane altogether.

    """
    if any(_Axis.span(reading, axis) <= reading.padding[axis] for axis in (0, 1)):
        return None
    inner, (height, width) = x.read(), x.shape[-2:]

    def compute(area: Area) -> Tensor:
        rows = _Axis.of(reading, 0, area.top, area.bottom, height)
        columns = _Axis.of(reading, 1, area.left, area.right, width)
        values = inner.at(Area(rows.first, columns.first, rows.end, columns.end))
        if (rows.alike, columns.alike) == (True, True):
            return run(values, (rows.before, columns.before))
        around = columns.before, columns.after, rows.before, rows.after
        return run(torch.constant_pad_nd(values, around, fill), (0, 0))

    size = (_Axis.written(reading, axis, side) for axis, side in enumerate((height, width)))
    return x.made((x.shape[0], channels, *size), compute)


def _conv2d(
    x: Any, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Deferred | None:
    if not isinstance(x, Deferred):
        return None
    reading = convolution(weight, bias, *args, **kwargs)
    groups = kwargs.get("groups", args[3] if len(args) > 3 else 1)  # noqa: PLR2004 - its place

    def run(values: Tensor, padding: tuple[int, int]) -> Tensor:
        return torch.conv2d(values, weight, bias, reading.step, padding, reading.dilation, groups)

    return _windowed(x, reading, weight.shape[0], run, 0.0)


def _max_pool2d(x: Any, *args: Any, **kwargs: Any) -> Deferred | None:
    reading = pooling(*args, **kwargs)
    if reading.ceil or kwargs.get("return_indices"):
        return None

    def run(values: Tensor, padding: tuple[int, int]) -> Tensor:
        return functional.max_pool2d(
            values, reading.kernel, reading.step, padding, reading.dilation
        )

    return _windowed(x, reading, x.shape[1], run, float("-inf"))


def _interpolate(  # noqa: PLR0913, PLR0917 - the arguments of torch's interpolate
    x: Deferred,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,  # noqa: FBT001 - as in torch
    recompute_scale_factor: bool | None = None,  # noqa: FBT001 - as in torch
    antialias: bool = False,  # noqa: FBT001, FBT002 - as in torch
) -> Deferred | None:
    """Enlarge by a whole factor: so every part of the plane is enlarged alike."""
    factor = enlargement((x.shape[-2], x.shape[-1]), size, scale_factor)
    known = mode in {"nearest", "bilinear"} and not align_corners and not antialias
    if not known or recompute_scale_factor or not factor:
        return None
    inner, (height, width) = x.read(), x.shape[-2:]

    def compute(area: Area) -> Tensor:
        top, left = (max(0, start // factor - 1) for start in (area.top, area.left))
        bottom = min(height, (area.bottom - 1) // factor + 2)
        right = min(width, (area.right - 1) // factor + 2)
        values = inner.at(Area(top, left, bottom, right))
        wide = functional.interpolate(values, scale_factor=factor, mode=mode)
        first, start = area.top - top * factor, area.left - left * factor
        height_out, width_out = area.bottom - area.top, area.right - area.left
        return Area(first, start, first + height_out, start + width_out).of(wide)

    return x.made((*x.shape[:2], height * factor, width * factor), compute)


def _indexed(x: Deferred, key: Any) -> Deferred | None:
    """Cut to [..., :h, :w]."""
    match key:
        case (
            builtin_ellipsis,
            slice(start=None, step=None, stop=int() as height),
            slice(start=None, step=None, stop=int() as width),
        ) if builtin_ellipsis is Ellipsis and min(height, width) > 0:
            size = min(height, x.shape[2]), min(width, x.shape[3])
            return x.made((*x.shape[:2], *size), x.read().at)
    return None


def _added(x: Any, other: Any, **more: Any) -> Deferred | None:
    """Add in place."""
    made = _pointwise(torch.add, (x, other), more)
    return x.becomes(made) if isinstance(x, Deferred) and made is not None else None


def _dropout(
    x: Deferred,
    p: float = 0.5,  # noqa: ARG001 - as in torch
    training: bool = True,  # noqa: FBT001, FBT002 - as in torch
    inplace: bool = False,  # noqa: ARG001, FBT001, FBT002 - as in torch
) -> Deferred | None:
    """Drop nothing, as networks in use do."""
    return None if training else x


def _as_it_is(x: Deferred) -> Deferred:
    """Return it: how its pixels will lie in memory is nobody's business."""
    return x


FORMS: dict[Callable[..., Any], Callable[..., Deferred | None]] = {
    torch.conv2d: _conv2d,
    functional.max_pool2d: _max_pool2d,
    functional.interpolate: _interpolate,
    functional.batch_norm: _batch_norm,
    torch.cat: _cat,
    Tensor.__getitem__: _indexed,
    Tensor.contiguous: _as_it_is,
    **dict.fromkeys((Tensor.__iadd__, Tensor.add_), _added),
    **dict.fromkeys((functional.dropout, functional.dropout2d), _dropout),
}
METHODS = {
    *(Tensor.relu, Tensor.sigmoid, Tensor.tanh, Tensor.clamp, Tensor.neg),
    *(Tensor.__sub__, Tensor.__rsub__, Tensor.__truediv__, Tensor.__rtruediv__),
}
"""Methods of tensors that treat every pixel alone, besides those in POINTWISE."""

QUESTIONS = {
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point),
    *(
        getattr(Tensor, name).__get__
        for name in ("shape", "dtype", "device", "ndim", "is_cuda", "requires_grad")
    ),
}
"""What a tensor answers without being computed."""

"""Operations that are not pointwise, deferred; they return None for arguments that cannot be."""
