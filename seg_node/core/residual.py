"""Residual blocks of any network: which there are, and how each adds to its skip connection.

A residual block is found by what it does, not by its name. It is a module that

- takes one feature map, first, and returns one, once in a pass;
- adds two feature maps of one shape, its skip connection, and holds a convolution that looks
  around;
- leaves its input as it was, and holds no other such module;
- runs on bins, exactly: its operations are convolutions, what treats every pixel alone, and what
  reads the block's input.

So `BasicBlock` of `nets/` is one, and torchvision's and timm's basic, bottleneck and inverted
residual blocks are; blocks with pooled attention are not. Decoder steps that add lateral features
take two feature maps and are not.

What it adds is told apart by watching, too: the skip connection is the operand that stems from
the input through modules none of which looks around, if through any; the branch is the other one.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np
import torch
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode

from seg_node.core.bins import compute_bins
from seg_node.core.blocks import BlockLayout
from seg_node.core.sparse import POINTWISE
from seg_node.core.types import Action, ConfigError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PROBE_SIDE = 64
"""The image by which residual blocks are found is twice as wide as this, and as high."""

_TOLERANCE = 1e-3
"""Largest difference of a block run in another way, relative to the spread of its output."""

_IN_PLACE = {Tensor.add_, Tensor.__iadd__}
_ADDITIONS = {torch.add, Tensor.add, Tensor.__add__, *_IN_PLACE}


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
class ResidualBlock:
    """A residual block of a network.

    Attributes:
        name: of the module within its network.
        module: the module.
        stride_in: image pixels per feature pixel of its input.
        stride: image pixels per feature pixel of its output.
        channels: channels of its output.
        join: how it adds its branch to its skip connection; None where that cannot be told: what
            skips looks around or is made by other means than modules.
        more: what it is called with besides its input, by position.
        named: the same, by name.

    """

    name: str
    module: nn.Module
    stride_in: int
    stride: int
    channels: int
    join: Join | None = None
    more: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passes_input(self) -> bool:
        """Whether the skip connection is the input, as it is."""
        return self.join is not None and not self.join.skip


def find_residual_blocks(net: nn.Module) -> tuple[ResidualBlock, ...]:
    """Return the residual blocks of a network, in the order in which they run.

    Args:
        net: in eval mode, called with RGB images.

    """
    generator = torch.Generator().manual_seed(0)
    weight = next(net.parameters())
    image = torch.randint(0, 256, (1, 3, PROBE_SIDE, 2 * PROBE_SIDE), generator=generator)
    with torch.inference_mode(), _Watch(net) as watch:
        net(image.to(weight.device, torch.uint8))
    found = list(watch.blocks())
    with torch.inference_mode():
        described = [(_described(seen), seen.before) for seen in found]
        return tuple(block for block, x in described if _runs_on_bins(block, x))


def stages_of(blocks: Sequence[ResidualBlock]) -> tuple[tuple[ResidualBlock, ...], ...]:
    """Group residual blocks that run one after the other and have the same stride."""
    return tuple(tuple(stage) for _, stage in groupby(blocks, lambda block: block.stride))


# ---- running -----------------------------------------------------------------------------------


def plain(block: ResidualBlock) -> Callable[[Any], Any]:
    """Return what a residual block computes, whatever forward it has for now."""
    forward = partial(type(block.module).forward, block.module)
    return lambda x: forward(x, *block.more, **block.named)


def computed(block: ResidualBlock, x: Any) -> tuple[Any, Any]:
    """Run a residual block, and return its result and what of it is worth remembering.

    That is its branch, or the result where it is not known how the two are added.
    """
    if block.join is None:
        out = plain(block)(x)
        return out, out
    with _Taken(block.join) as taken:
        out = plain(block)(x)
    return out, taken.branch


def branch(block: ResidualBlock) -> Callable[[Any], Any]:
    """Return what computes that of a residual block which is worth remembering, and no more."""
    join = block.join
    if join is None:
        return plain(block)

    def run(x: Any) -> Any:
        with _Taken(join, last=True) as taken, suppress(_TakenError):
            plain(block)(x)
        return taken.branch

    return run


def joined(block: ResidualBlock, x: Tensor, made: Tensor) -> Tensor:
    """Return the result of a residual block whose branch is known.

    Args:
        block: the residual block.
        x: its input, [N, C, h, w].
        made: its branch or, where it is not known how that is added, the result.

    """
    if block.join is None:
        return made
    skip = x
    for module in block.join.skip:
        skip = module(skip)
    out = made + skip
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
        if func in _ADDITIONS:
            if self._count == self._join.number:
                operand = args[self._join.operand]
                if self._last:
                    self.branch = operand
                    raise _TakenError
                gone = func in _IN_PLACE and self._join.operand == 0
                self.branch = operand.clone() if gone else operand
            self._count += 1
        return func(*args, **(kwargs or {}))


def _only_input(forward: Callable[[Tensor], Tensor], x: Tensor, *_: Any, **__: Any) -> Tensor:
    return forward(x)


@contextmanager
def in_place_of(
    blocks: Sequence[ResidualBlock], forwards: Sequence[Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """Have residual blocks do something else, each maps its input to its output, inside `with`."""
    try:
        for block, forward in zip(blocks, forwards, strict=True):
            block.module.forward = partial(_only_input, forward)
        yield
    finally:
        for block in blocks:
            vars(block.module).pop("forward", None)


# ---- finding -----------------------------------------------------------------------------------


class _Pass(NamedTuple):
    """One call of a module."""

    name: str
    module: nn.Module
    before: Tensor
    after: Tensor
    more: tuple[Any, ...]
    named: dict[str, Any]
    join: Join | None = None


class _Step(NamedTuple):
    """A feature map, and the module without others inside that it went through."""

    x: Tensor
    module: nn.Module


class _Sum(NamedTuple):
    """What is being done to the sum of a module's branch and skip connection."""

    module: nn.Module
    join: Join


class _Watch(TorchFunctionMode):
    """Takes note of the modules that add feature maps, while a network runs inside `with`."""

    def __init__(self, net: nn.Module) -> None:
        """Watch every module."""
        super().__init__()
        self._names = {module: name for name, module in net.named_modules()}
        self._handles: list[Any] = []
        self._running: list[nn.Module] = []
        self._calls: Counter[nn.Module] = Counter()
        self._additions: Counter[nn.Module] = Counter()
        self._add: set[nn.Module] = set()
        self._passes: dict[nn.Module, _Pass] = {}
        # By identity of feature maps, which are held, so that no other can be taken for them.
        self._ways: dict[int, tuple[_Step, ...]] = {}
        self._sums: dict[int, _Sum] = {}
        self._held: list[Tensor] = []

    def __enter__(self) -> _Watch:  # noqa: PYI034 - nothing inherits from it; Self needs Python 3.11
        """Hang on to the modules."""
        for module in self._names:
            before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
            after = module.register_forward_hook(self._leave, with_kwargs=True)
            self._handles += [before, after]
        super().__enter__()  # type: ignore[no-untyped-call]  # torch's stub
        return self

    def __exit__(self, *args: object) -> None:
        """Let go of them."""
        super().__exit__(*args)  # type: ignore[no-untyped-call]  # torch's stub
        for handle in self._handles:
            handle.remove()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Note which module adds, and what it does to the sum."""
        kwargs = kwargs or {}
        found = self._added(args, kwargs) if func in _ADDITIONS else None
        if found is None and func in POINTWISE and args:
            found = self._changed(func, args, kwargs)
        result = func(*args, **kwargs)
        if found is not None:
            self._sums[id(result)] = found
            self._held.append(result)
        return result

    def _added(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Sum | None:
        """Note an addition, and return it if one operand is the skip connection of a block."""
        number = self._additions[self._running[-1]] if self._running else 0
        self._additions.update(self._running)
        if not (_is_feature_map(args[0]) and _is_feature_map(args[1]) and self._running):
            return None
        module = self._running[-1]
        self._add.add(module)
        if module not in self._passes or kwargs:
            return None
        x = self._passes[module].after  # while it runs: its input
        skips = {at: self._skip(x, operand) for at, operand in enumerate(args)}
        found = [(at, skip) for at, skip in skips.items() if skip is not None]
        if len(found) != 1:
            return None
        ((at, skip),) = found
        return _Sum(module, Join(number, 1 - at, skip))

    def _skip(self, x: Tensor, operand: Tensor) -> tuple[nn.Module, ...] | None:
        """Return the modules that x went through to an operand; None if they look around."""
        if operand is x:
            return ()
        way = self._ways.get(id(operand), ())
        starts = [at for at, step in enumerate(way) if step.x is x]
        if not starts:
            return None
        modules = tuple(step.module for step in way[starts[-1] :])
        return None if any(map(_looks_around, modules)) else modules

    def _changed(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Sum | None:
        """Return what has been done to a sum, with a function that treats every pixel alone."""
        known = self._sums.get(id(args[0]))
        if known is None or any(isinstance(x, Tensor) for x in (*args[1:], *kwargs.values())):
            return None

        def step(x: Tensor) -> Tensor:
            changed: Tensor = func(x, *args[1:], **kwargs)
            return changed

        join = known.join
        return known._replace(join=replace(join, after=(*join.after, step)))

    def _enter(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._running.append(module)
        self._calls[module] += 1
        others = (*args[1:], *named.values())
        if args and _is_feature_map(args[0]) and not any(isinstance(x, Tensor) for x in others):
            x = args[0]
            self._passes[module] = _Pass(
                self._names[module], module, x.clone(), x, args[1:], named
            )

    def _leave(
        self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], result: Any
    ) -> None:
        self._running.pop()
        if isinstance(result, Tensor) and len(args) == 1 and not named:
            self._follow(module, args[0], result)
        seen = self._passes.pop(module, None)
        if seen is None or not torch.equal(args[0], seen.before):  # it overwrites its input
            return
        if isinstance(result, Tensor) and result.ndim == seen.before.ndim:
            end = self._sums.get(id(result))
            join = end.join if end is not None and end.module is module else None
            self._passes[module] = seen._replace(after=result.clone(), join=join)

    def _follow(self, module: nn.Module, x: Any, result: Tensor) -> None:
        """Note the way through a module that holds no others."""
        if next(module.children(), None) is None:
            self._ways[id(result)] = (*self._ways.get(id(x), ()), _Step(x, module))
            self._held.append(result)

    def blocks(self) -> Iterator[_Pass]:
        """Yield the calls of modules that may be residual blocks, in order."""
        able = {
            module
            for module in self._passes
            if module in self._add and self._calls[module] == 1 and _looks_around(module)
        }
        for module, seen in self._passes.items():
            inner = any(other in able for other in module.modules() if other is not module)
            if module in able and not inner:
                yield seen


def _is_feature_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and min(value.shape[-2:]) > 1  # noqa: PLR2004 - [N, C, h, w]


def _looks_around(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1 for m in module.modules())


def _described(seen: _Pass) -> ResidualBlock:
    before, after = seen.before, seen.after
    block = ResidualBlock(
        seen.name,
        seen.module,
        PROBE_SIDE // before.shape[-2],
        PROBE_SIDE // after.shape[-2],
        after.shape[1],
        seen.join,
        seen.more,
        seen.named,
    )
    _, made = computed(block, before.clone())
    same = _alike(joined(block, before, made), after)
    return block if same else replace(block, join=None)


def _alike(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.float().std())


def _runs_on_bins(block: ResidualBlock, x: Tensor) -> bool:
    """Return whether a block computes one of two bins as it computes the whole."""
    grid = np.array([[[Action.HIGH, Action.REUSE]]], np.uint8)
    layout = BlockLayout(grid, PROBE_SIDE, (PROBE_SIDE, 2 * PROBE_SIDE), device=x.device)
    try:
        tiles = compute_bins(branch(block), x, layout, block.stride_in)
    except (ModelError, ConfigError):
        return False
    whole = branch(block)(x)
    return _alike(tiles, whole[..., : whole.shape[-1] // 2])
