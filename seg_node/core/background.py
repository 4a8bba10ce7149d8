"""What REUSE blocks show to their neighbours: the planes that a network's operations read."""

from __future__ import annotations

from typing import Any, Protocol, TYPE_CHECKING
from weakref import ref

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seg_node.core.forms import (
    convolution,
    enlargement,
    looks_around,
    Margin,
    mean_pooling,
    NO_MARGIN,
    pooling,
)
from seg_node.core.tiles import as_rows, halved
from seg_node.core.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from seg_node.core.blocks import Window
    from seg_node.core.forms import Reading


Found = tuple[Tensor, ...]
"""What a plane has looked up: lists on the device, each with one entry a pixel or a block."""


class Plane(Protocol):
    """What one operation may read beyond the blocks that are computed.

    What is decided on the host, `find` and `room`, is apart from what the device does: all planes
    of a background give the same answer there, and the rest can be recorded (`core/lists.py`).
    """

    def find(self, pixels: Tensor | None, window: Window, *, halve: bool = False) -> Found:
        """Look up where pixels are.

        Args:
            pixels: their numbers in the plane, counted row by row through all images, int64 [k],
                on the host; None for all pixels.
            window: of the operation, with stride and size of the plane.
            halve: whether they are pixels of the plane at half its resolution.

        """
        ...

    def rows(self, found: Found, window: Window, *, halve: bool = False) -> Tensor:
        """Return the pixels that were found, float [k, C]."""
        ...

    def whole(self, found: Found, window: Window) -> Tensor:
        """Return all pixels, [N, C, h, w]; they were found."""
        ...

    def room(self, count: int) -> Found:
        """Look up where `keep` is to put so many blocks; the last may be there several times."""
        ...

    def keep(self, tiles: Tensor, window: Window, room: Found) -> None:
        """Take note of the plane's pixels in the HIGH blocks and, by the window, around them.

        Args:
            tiles: float [K, C, span, span]; what lies beyond the image is what padding put there.
            window: of the operation, with the pixels before and after the blocks.
            room: for as many blocks.

        """
        ...


class Background(Protocol):
    """The planes that a network's operations read, in order."""

    def planes(self) -> Iterator[Plane]:
        """Return them from the first on."""
        ...


class Recording:
    """A background of planes that a dense network has read.

    A network runs once on the whole frame under a `Recorder`, at full or half resolution; the
    same network, run on blocks, then finds for its n-th operation of this kind the n-th plane.

    Attributes:
        tensors: the planes, [N, C, h, w] each.

    """

    def __init__(self) -> None:
        """Start without planes."""
        self.tensors: list[Tensor] = []

    def planes(self) -> Iterator[Plane]:
        """Return the planes from the first on."""
        return map(Shown, self.tensors)


class Shown:
    """A plane of a whole tensor.

    Args:
        tensor: [N, C, h, w].

    """

    def __init__(self, tensor: Tensor) -> None:
        """Take the tensor."""
        self._tensor = tensor

    def find(self, pixels: Tensor | None, window: Window, *, halve: bool = False) -> Found:  # noqa: ARG002 - its size is known
        """Return where pixels are: at their numbers."""
        return () if pixels is None else (to_device(pixels, self._tensor.device),)

    def rows(self, found: Found, window: Window, *, halve: bool = False) -> Tensor:  # noqa: ARG002 - its size is known
        """Return some pixels, [k, C]."""
        plane = halved(self._tensor) if halve else self._tensor
        return as_rows(plane).index_select(0, found[0])

    def whole(self, found: Found, window: Window) -> Tensor:  # noqa: ARG002 - it is all there
        """Return all pixels."""
        return self._tensor

    def room(self, count: int) -> Found:  # noqa: ARG002 - nothing is kept
        """Return nothing: there is no room."""
        return ()

    def keep(self, tiles: Tensor, window: Window, room: Found) -> None:
        """Forget: the tensor stays as it is."""


class Recorder(TorchFunctionMode):
    """Fills a `Recording` while a dense network runs inside `with`.

    Args:
        recording: where the planes go.

    """

    def __init__(self, recording: Recording) -> None:
        """Take the recording."""
        super().__init__()
        self._recording = recording
        # By identity, for as long as they live.
        self._pooled: dict[int, ref[Tensor]] = {}
        self._padded: dict[int, tuple[ref[Tensor], Tensor, Margin]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Note the input of every operation that looks beyond the pixel."""
        kwargs = kwargs or {}
        pooled = self._stems_from_pooled(func, args)
        if not pooled and _looks_around(func, args, kwargs):
            self._recording.tensors.append(self._read(func, args, kwargs))
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and (pooled or func in POOLS):
            self._pooled[id(result)] = ref(result)
        if func is functional.pad and len(args[1]) == len(NO_MARGIN):
            self._padded[id(result)] = ref(result), args[0], Margin(*args[1])
        return result

    def _stems_from_pooled(self, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        """Return whether an operation sees nothing of the planes but what was pooled of them.

        On blocks that is a plain tensor, which needs no plane, whatever becomes of it.
        """
        seen = args[:1] if func is torch.conv2d else args
        parts = [x for arg in seen for x in (arg if isinstance(arg, list | tuple) else [arg])]
        tensors = [x for x in parts if isinstance(x, Tensor)]
        pooled = [x for x in tensors if self._is_pooled(x)]
        planes = [x for x in tensors if x.dim() == _DIMS and x.shape[-2:] != (1, 1)]
        return bool(pooled) and all(self._is_pooled(x) for x in planes)

    def _is_pooled(self, x: Tensor) -> bool:
        kept = self._pooled.get(id(x))
        return kept is not None and kept() is x

    def _read(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """Return the plane that an operation reads, without zeros that it takes for padding."""
        x: Tensor = args[0]
        kept = self._padded.get(id(x))
        if kept is None or kept[0]() is not x or func not in READINGS:
            return x
        _, source, margin = kept
        size = source.shape[-2], source.shape[-1]
        around = READINGS[func](*args[1:], **kwargs).around(size, margin)
        return x if around is None else source


_DIMS = 4

READINGS: dict[Callable[..., Any], Callable[..., Reading]] = {
    torch.conv2d: convolution,
    functional.max_pool2d: pooling,
    functional.avg_pool2d: mean_pooling,
}
"""Functions that may read the zeros of a step before, and what they read."""

POOLS = {functional.adaptive_avg_pool2d, Tensor.mean, torch.mean}
"""Functions that make a few numbers of a whole plane."""


def _looks_around(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an operation on a plane reads more than the pixel that it writes."""
    if func is torch.conv2d:
        return bool(args[1].shape[-1] > 1)
    if func is functional.avg_pool2d:
        return looks_around(mean_pooling(*args[1:], **kwargs))
    if func is functional.interpolate:
        size = args[0].shape[-2], args[0].shape[-1]
        factor = enlargement(size, kwargs.get("size"), kwargs.get("scale_factor"))
        return factor > 1 and kwargs.get("mode") == "bilinear"
    return func is functional.max_pool2d or func in POOLS
