"""Modules of a network that gates may drop in bins, and how they run without their gates.

They are residual blocks and convolutions of the decoder; `core/residual.py` finds them. Of a
residual block the branch is dropped; its skip connection, to which that is added, always runs.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, TYPE_CHECKING

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

IN_PLACE = {Tensor.add_, Tensor.__iadd__}
ADDITIONS = {torch.add, Tensor.add, Tensor.__add__, *IN_PLACE}


@dataclass(frozen=True)
class Join:
    """How a residual block adds its branch to its skip connection.

    Attributes:
        number: of the addition among all of the block, from 0 on.
        operand: which operand of it the branch is, 0 or 1.
        skip: what the input runs through before it is added; nothing where it is passed on.
        after: what is done to the sum.

    """

    number: int
    operand: int
    skip: tuple[nn.Module, ...] = ()
    after: tuple[Callable[[Tensor], Tensor], ...] = ()


@dataclass(frozen=True, eq=False)
class GatedModule:
    """A residual block of a network, or a convolution of its decoder.

    Attributes:
        name: of the module within its network.
        module: the module.
        stride_in: image pixels per feature pixel of its input.
        stride: image pixels per feature pixel of its output.
        channels: channels of its output.
        join: how it adds its branch to its skip connection; None where it has none, or where that
            cannot be told: what skips looks around or is made by other means than modules.
        more: what it is called with besides its input, by position.
        named: the same, by name.
        ends: whether all that follows it can be computed in areas, and is as fine as its output:
            then what is remembered is not its output, but that of the network, of fewer channels.

    """

    name: str
    module: nn.Module
    stride_in: int
    stride: int
    channels: int
    join: Join | None = None
    more: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    ends: bool = False

    @property
    def passes_input(self) -> bool:
        """Whether the skip connection is the input, as it is."""
        return self.join is not None and not self.join.skip


def stages_of(blocks: Sequence[GatedModule]) -> tuple[tuple[GatedModule, ...], ...]:
    """Group modules that run one after the other and have the same stride."""
    return tuple(tuple(stage) for _, stage in groupby(blocks, lambda block: block.stride))


def plain(block: GatedModule) -> Callable[[Any], Any]:
    """Return what a module computes, whatever forward it has for now."""
    forward = partial(type(block.module).forward, block.module)
    return lambda x: forward(x, *block.more, **block.named)


def computed(block: GatedModule, x: Any) -> tuple[Any, Any]:
    """Run a module, and return its result and what of it is worth remembering.

    That is its branch, or the result where it has no `join`.
    """
    if block.join is None:
        out = plain(block)(x)
        return out, out
    with _Taken(block.join) as taken:
        out = plain(block)(x)
    return out, taken.branch


def branch(block: GatedModule) -> Callable[[Any], Any]:
    """Return what computes that of a module which is worth remembering, and no more."""
    join = block.join
    if join is None:
        return plain(block)

    def run(x: Any) -> Any:
        with _Taken(join, last=True) as taken, suppress(_TakenError):
            plain(block)(x)
        return taken.branch

    return run


def joined(block: GatedModule, x: Tensor, made: Tensor, *, overwrite: bool = False) -> Tensor:
    """Return the result of a module whose branch is known.

    Args:
        block: the module.
        x: its input, [N, C, h, w].
        made: its branch or, where it has no `join`, the result.
        overwrite: whether `made` is of no more use: the sum may take its place.

    """
    if block.join is None:
        return made
    skip = x
    for module in block.join.skip:
        skip = module(skip)
    out = made.add_(skip) if overwrite else made + skip
    for step in block.join.after:
        out = step(out)
    return out


class _TakenError(Exception):
    """Ends the pass of a block: its branch is known, and what follows is of no use."""


class _Taken(TorchFunctionMode):
    """Takes note of what is added to the skip connection while a block runs inside `with`.

    Args:
        join: which addition, and which operand of it.
        last: whether the pass ends there, with a `_TakenError`.

    """

    def __init__(self, join: Join, *, last: bool = False) -> None:
        """Wait for the addition."""
        super().__init__()
        self._join, self._last, self._count = join, last, 0
        self.branch: Any = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Look at additions."""
        if func in ADDITIONS:
            if self._count == self._join.number:
                operand = args[self._join.operand]
                if self._last:
                    self.branch = operand
                    raise _TakenError
                gone = func in IN_PLACE and self._join.operand == 0
                self.branch = operand.clone() if gone else operand
            self._count += 1
        return func(*args, **(kwargs or {}))


def _only_input(forward: Callable[[Tensor], Tensor], x: Tensor, *_: Any, **__: Any) -> Tensor:
    return forward(x)


@contextmanager
def in_place_of(
    blocks: Sequence[GatedModule], forwards: Sequence[Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """Have modules do something else, each maps its input to its output, inside `with`."""
    try:
        for block, forward in zip(blocks, forwards, strict=True):
            block.module.forward = partial(_only_input, forward)
        yield
    finally:
        for block in blocks:
            vars(block.module).pop("forward", None)
