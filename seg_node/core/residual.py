"""What gates may drop of any network: its residual blocks, and convolutions of its decoder.

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

The decoder is what runs after the last residual block. Its convolutions that look around hold most
of its multiply-accumulates. They have no skip connection of their own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple, TYPE_CHECKING

import torch
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode

from seg_node.core.bins import runs_in_part
from seg_node.core.deferred import Area, Deferred, deferred
from seg_node.core.deferring import Deferring
from seg_node.core.gated_modules import (
    ADDITIONS,
    branch,
    computed,
    GatedModule,
    in_place_of,
    Join,
    joined,
)
from seg_node.core.sparse import POINTWISE
from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROBE_SIDE = 64
"""The image by which modules are found is twice as wide as this, and as high."""

_TOLERANCE = 1e-3
"""Largest difference of a block run in another way, relative to the spread of its output."""


def find_gated_modules(net: nn.Module) -> tuple[GatedModule, ...]:
    """Return what of a network gates may drop, in the order in which it runs.

    Args:
        net: in eval mode, called with RGB images.

    Returns:
        its residual blocks and the convolutions after the last of them that look around; nothing
        if it has no residual blocks.

    """
    with torch.inference_mode():
        watch = _watched(net)
        blocks = _residual_blocks(watch)
        if not blocks:
            return ()
        found = ((_sized(seen), seen.before) for seen in watch.convolutions(blocks))
        modules = (*blocks, *(module for module, x in found if _runs_on_bins(module, x)))
        return (*modules[:-1], replace(modules[-1], ends=_ends(modules[-1], net)))


def find_residual_blocks(net: nn.Module) -> tuple[GatedModule, ...]:
    """Return the residual blocks of a network, in the order in which they run.

    Args:
        net: in eval mode, called with RGB images.

    """
    with torch.inference_mode():
        return _residual_blocks(_watched(net))


def _watched(net: nn.Module) -> _Watch:
    with _Watch(net) as watch:
        net(_image(net))
    return watch


def _image(net: nn.Module) -> Tensor:
    """Return the image by which modules are found."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, PROBE_SIDE, 2 * PROBE_SIDE), generator=generator)
    return image.to(next(net.parameters()).device, torch.uint8)


def _ends(last: GatedModule, net: nn.Module) -> bool:
    """Return whether what follows the last module of a network can be computed in areas."""
    if last.join is not None:
        return False
    try:
        with Deferring(strict=True), in_place_of([last], [lambda x: branch(last)(deferred(x))]):
            result = net(_image(net))
    except ModelError:
        return False
    size = (PROBE_SIDE // last.stride, 2 * PROBE_SIDE // last.stride)
    return isinstance(result, Deferred) and result.shape[-2:] == size


def _residual_blocks(watch: _Watch) -> tuple[GatedModule, ...]:
    described = [(_described(seen), seen.before) for seen in watch.blocks()]
    return tuple(block for block, x in described if _runs_on_bins(block, x))


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
        found = self._added(args, kwargs) if func in ADDITIONS else None
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

    def convolutions(self, blocks: Sequence[GatedModule]) -> Iterator[_Pass]:
        """Yield the calls of convolutions after residual blocks that look around, in order."""
        order = list(self._passes)
        for module in order[order.index(blocks[-1].module) + 1 :]:
            seen = self._passes[module]
            once = isinstance(module, nn.Conv2d) and self._calls[module] == 1
            if once and _looks_around(module) and all(map(_is_plane, (seen.before, seen.after))):
                yield seen


def _is_feature_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and min(value.shape[-2:]) > 1  # noqa: PLR2004 - [N, C, h, w]


def _is_plane(x: Tensor) -> bool:
    """Return whether a feature map of the image by which modules are found shows all of it."""
    h, w = x.shape[-2:]
    return PROBE_SIDE % h == 0 and w == 2 * h


def _looks_around(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1 for m in module.modules())


def _sized(seen: _Pass) -> GatedModule:
    before, after = seen.before, seen.after
    return GatedModule(
        seen.name,
        seen.module,
        PROBE_SIDE // before.shape[-2],
        PROBE_SIDE // after.shape[-2],
        after.shape[1],
        seen.join,
        seen.more,
        seen.named,
    )


def _described(seen: _Pass) -> GatedModule:
    block = _sized(seen)
    _, made = computed(block, seen.before.clone())
    same = _alike(joined(block, seen.before, made), seen.after)
    return block if same else replace(block, join=None)


def _alike(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.float().std())


def _runs_on_bins(block: GatedModule, x: Tensor) -> bool:
    """Return whether a block computes areas of its result as it computes the whole."""
    try:
        made = runs_in_part(branch(block), x)
    except ModelError:
        return False
    whole = branch(block)(x)
    height, width = whole.shape[-2:]
    # Off the middle, so that it begins and ends amid the plane, and at its border.
    areas = (
        Area(height // 3, width // 3, height // 2 + 1, width // 2 + 1),
        Area(0, width // 2, height, width),
    )
    return all(_alike(made.at(area), area.of(whole)) for area in areas)
