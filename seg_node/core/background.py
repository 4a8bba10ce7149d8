"""What REUSE blocks show to their neighbours: the planes that a network's operations read."""

from __future__ import annotations

from typing import Any, Protocol, TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seg_node.core.tiles import as_rows, halved
from seg_node.core.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from seg_node.core.blocks import Window


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

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Note the input of every operation that looks beyond the pixel."""
        if _looks_around(func, args, kwargs or {}):
            self._recording.tensors.append(args[0])
        return func(*args, **(kwargs or {}))


def _looks_around(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether an operation on a plane reads more than the pixel that it writes."""
    if func is torch.conv2d:
        return bool(args[1].shape[-1] > 1)
    if func is functional.interpolate:  # pooled context is resized to a size, planes by a factor
        return kwargs.get("scale_factor") is not None
    return func in {functional.max_pool2d, functional.adaptive_avg_pool2d, Tensor.mean}
