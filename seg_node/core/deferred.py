"""Feature maps that are computed where they are read, exactly, and nowhere else.

A `Deferred` stands for the result of an operation on a whole plane. Asked for an area of it, it
asks what it was made of for what the operation reads, so a chain of operations runs on that area
and the pixels around it alone. `core/deferring.py` has the operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Area(NamedTuple):
    """A rectangle of pixels of a plane; the last row and column are those before the ends."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, plane: Tensor) -> Tensor:
        """Cut it out of a plane [N, C, h, w]; a view."""
        return plane[..., self.top : self.bottom, self.left : self.right]


class Source:
    """What a feature map is made of.

    Args:
        compute: computes an area of it, [N, C, rows, columns].
        whole: all of it, [N, C, h, w], where that is computed already.

    Attributes:
        shape: of the whole, [N, C, h, w].
        readers: operations that read it.

    """

    def __init__(
        self,
        shape: Sequence[int],
        compute: Callable[[Area], Tensor] | None = None,
        whole: Tensor | None = None,
    ) -> None:
        """Compute nothing."""
        self.shape, self.readers = torch.Size(shape), 0
        self._compute, self._whole = compute, whole

    @property
    def is_known(self) -> bool:
        """Whether all of it is computed already."""
        return self._whole is not None

    def at(self, area: Area) -> Tensor:
        """Return an area of it, [N, C, rows, columns].

        What several operations read is computed as a whole, once.
        """
        if self._compute is None or self.is_known or self.readers > 1:
            return area.of(self.whole())
        return self._compute(area)

    def whole(self) -> Tensor:
        """Return all of it, [N, C, h, w]; it is computed once."""
        if self._whole is None:
            assert self._compute is not None
            self._whole = self._compute(Area(0, 0, *self.shape[-2:]))
        return self._whole


class Deferred(Tensor):
    """A feature map that is computed where it is read.

    It is a tensor without memory, for whoever asks what it is; what is no operation that can be
    deferred computes all of it.

    Args:
        source: what it is made of; an operation in place makes it of something else.
        dtype: its number format.
        device: where it will be.

    """

    _source: Source

    def __new__(cls, source: Source, dtype: torch.dtype, device: torch.device) -> Deferred:  # noqa: PYI034 - nothing inherits from it; Self needs Python 3.11
        """Compute nothing."""
        made = cls._make_wrapper_subclass(cls, source.shape, dtype=dtype, device=device)
        made._source = source  # noqa: SLF001 - its own class
        return made

    @staticmethod
    def known(plane: Tensor) -> Deferred:
        """Return a plane [N, C, h, w] that is computed already."""
        return Deferred(Source(plane.shape, whole=plane), plane.dtype, plane.device)

    def made(self, shape: Sequence[int], compute: Callable[[Area], Tensor]) -> Deferred:
        """Return one like it that is made in another way, [N, C, h, w]."""
        return Deferred(Source(shape, compute), self.dtype, self.device)

    def becomes(self, other: Tensor) -> Deferred:
        """Be what another feature map is, for all who read it from now on."""
        self._source = deferred(other)._source  # noqa: SLF001 - its own class
        return self

    @property
    def is_known(self) -> bool:
        """Whether all of it is computed already."""
        return self._source.is_known

    def at(self, area: Area) -> Tensor:
        """Return an area of it, [N, C, rows, columns]."""
        return self._source.at(area)

    def whole(self) -> Tensor:
        """Return all of it, [N, C, h, w]."""
        return self._source.whole()

    def read(self) -> Source:
        """Return what it is made of now, and take note that one more operation reads it."""
        self._source.readers += 1
        return self._source

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function as on any tensor; it is here so that modes are told of the type."""
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - as torch's documentation has it
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch types what it disables
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation on all of it: nothing defers any more."""
        return func(*arguments(args), **arguments(kwargs or {}))


def deferred(x: Tensor) -> Deferred:
    """Return a feature map as one that operations are deferred on."""
    return x if isinstance(x, Deferred) else Deferred.known(x)


def complete(x: Tensor) -> Tensor:
    """Return all of a feature map."""
    return x.whole() if isinstance(x, Deferred) else x


def arguments(values: Any) -> Any:
    """Return arguments with all of what is deferred."""
    if isinstance(values, dict):
        return {name: arguments(value) for name, value in values.items()}
    if type(values) in {list, tuple}:
        return type(values)(map(arguments, values))
    return complete(values)
