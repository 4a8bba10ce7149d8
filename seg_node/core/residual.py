"""Residual blocks of any network: which there are, and how one is computed in some bins alone.

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

Bins are computed amid a whole plane of the block's input. What the second convolution reads in
bins that are not computed is computed, too, but for these pixels alone, as a product of matrices:
so the result is exactly the block's, and nothing in between has to be remembered.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any, cast, NamedTuple, TYPE_CHECKING

import numpy as np
import torch
from torch import nn, Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seg_node.core.blocks import BlockLayout, Window
from seg_node.core.sparse import BlockTensor, POINTWISE
from seg_node.core.tiles import as_rows, none_like
from seg_node.core.types import Action, ConfigError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PROBE_SIDE = 64
"""The image by which residual blocks are found is twice as wide as this, and as high."""

_TOLERANCE = 1e-3
"""Largest difference of a block run on bins, relative to the spread of its output."""

_ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__}


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """A residual block of a network.

    Attributes:
        name: of the module within its network.
        module: the module.
        stride_in: image pixels per feature pixel of its input.
        stride: image pixels per feature pixel of its output.
        channels: channels of its output.
        keeps_shape: whether input and output have the same shape, so that the skip connection
            may pass the input on.
        rectified: whether it never returns negative values.
        more: what it is called with besides its input, by position.
        named: the same, by name.

    """

    name: str
    module: nn.Module
    stride_in: int
    stride: int
    channels: int
    keeps_shape: bool
    rectified: bool
    more: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


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
        return tuple(_described(seen) for seen in found if _runs_on_bins(seen))


class _Pass(NamedTuple):
    """One call of a module."""

    name: str
    module: nn.Module
    before: Tensor
    after: Tensor
    more: tuple[Any, ...]
    named: dict[str, Any]

    def run(self, x: Any) -> Any:
        """Run the module on another input."""
        return self.module(x, *self.more, **self.named)


class _Watch(TorchFunctionMode):
    """Takes note of the modules that add feature maps, while a network runs inside `with`."""

    def __init__(self, net: nn.Module) -> None:
        """Watch every module."""
        super().__init__()
        self._names = {module: name for name, module in net.named_modules()}
        self._handles: list[Any] = []
        self._running: list[nn.Module] = []
        self._calls: Counter[nn.Module] = Counter()
        self._add: set[nn.Module] = set()
        self._passes: dict[nn.Module, _Pass] = {}

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
        """Note which module adds."""
        if func in _ADDITIONS and _is_feature_map(args[0]) and _is_feature_map(args[1]):
            self._add.update(self._running[-1:])
        return func(*args, **(kwargs or {}))

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
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        named: dict[str, Any],  # noqa: ARG002 - known from before
        result: Any,
    ) -> None:
        self._running.pop()
        seen = self._passes.pop(module, None)
        if seen is None or not torch.equal(args[0], seen.before):  # it overwrites its input
            return
        if isinstance(result, Tensor) and result.ndim == seen.before.ndim:
            self._passes[module] = seen._replace(after=result.clone())

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
    return ResidualBlock(
        seen.name,
        seen.module,
        PROBE_SIDE // before.shape[-2],
        PROBE_SIDE // after.shape[-2],
        after.shape[1],
        before.shape == after.shape,
        bool((after >= 0).all()),
        seen.more,
        seen.named,
    )


def _runs_on_bins(seen: _Pass) -> bool:
    """Return whether a module computes one of two bins as it computes the whole."""
    before, after = seen.before, seen.after
    stride = PROBE_SIDE // before.shape[-2]
    grid = np.array([[[Action.HIGH, Action.REUSE]]], np.uint8)
    layout = BlockLayout(grid, PROBE_SIDE, (PROBE_SIDE, 2 * PROBE_SIDE), device=before.device)
    try:
        tiles = compute_bins(seen.run, before, layout, stride)
    except (ModelError, ConfigError):
        return False
    whole = after[..., : after.shape[-1] // 2]
    return bool((tiles - whole).abs().max() <= _TOLERANCE * after.float().std())


def plain(block: ResidualBlock) -> Callable[[Any], Any]:
    """Return what a residual block computes, whatever forward it has for now."""
    forward = partial(type(block.module).forward, block.module)
    return lambda x: forward(x, *block.more, **block.named)


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


def compute_bins(
    block: Callable[[Any], Any], x: Tensor, layout: BlockLayout, stride: int
) -> Tensor:
    """Compute a residual block in the HIGH bins of a layout, exactly.

    Args:
        block: what it computes.
        x: its whole input, [1, C, h, w].
        layout: HIGH and REUSE bins.
        stride: image pixels per pixel of x.

    Returns:
        float [K, C, b, b]; pixels of bins beyond the image are of no meaning.

    Raises:
        ModelError: the block has an operation that cannot be computed in bins alone.

    """
    size = (x.shape[-2], x.shape[-1])
    blocks = BlockTensor(layout, stride, size, x, none_like(x), whole=True)
    with _Surroundings():
        computed = cast("BlockTensor", block(blocks))
    return computed.cut().high


class _Made(NamedTuple):
    """How a result on bins came to be; with the result, so that no other has its identity."""

    result: BlockTensor
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Computed:
    """A plane that is known at the pixels that an operation reads."""

    def __init__(self, rows: Tensor) -> None:
        """Take the values of these pixels, [k, C]."""
        self._rows = rows

    def rows(self, pixels: Tensor, window: Window, *, halve: bool) -> Tensor:  # noqa: ARG002 - they were computed for them
        """Return the pixels."""
        return self._rows

    def whole(self, window: Window) -> Tensor:
        """Refuse: only some pixels are known.

        Raises:
            ModelError: always.

        """
        msg = f"an operation reads the whole plane of {window.size}; bins alone do not have it"
        raise ModelError(msg)

    def keep(self, tiles: Tensor, window: Window) -> None:
        """Forget: the next frame computes what it needs."""


class _Surroundings(TorchFunctionMode):
    """Computes what convolutions on bins read around them; runs inside `with`.

    It notes how every result came to be. Where a convolution looks beyond the bins, what it reads
    there is computed from the whole input by the same operations, for these pixels alone.
    """

    def __init__(self) -> None:
        """Start without results."""
        super().__init__()
        self._made: dict[int, _Made] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation with its surroundings."""
        kwargs, given = kwargs or {}, args
        if func is torch.conv2d and isinstance(args[0], BlockTensor) and not args[0].whole:
            given = (self._surrounded(_Form.of(*args, **kwargs)), *args[1:])
        result = func(*given, **kwargs)
        if isinstance(result, BlockTensor):
            self._made[id(result)] = _Made(result, func, args, kwargs)
        return result

    def _surrounded(self, form: _Form) -> BlockTensor:
        """Return the input of a convolution with what it reads in other bins."""
        x = form.x
        if form.reach == 0:
            return x
        window = Window(x.stride, x.full, form.reach, form.reach)
        pixels = x.layout.rows(Action.HIGH, window).plane
        once, place = torch.unique(pixels, return_inverse=True)
        rows = self._rows(x, once).index_select(0, place)
        return _with_background(x, rows)

    def _rows(self, x: BlockTensor, pixels: Tensor) -> Tensor:
        """Compute some pixels of a result, [k, C]; they are counted row by row."""
        if x.whole:
            rows = as_rows(x.high).index_select(0, pixels)[:, :, None, None]
            for step in x.pending:
                rows = step(rows)
            return rows.flatten(1)
        made = self._made.get(id(x))
        if made is not None and made.func is torch.conv2d:
            return self._convolved(_Form.of(*made.args, **made.kwargs), x.full[1], pixels)
        known = made is not None and (made.func in POINTWISE or made.func is functional.batch_norm)
        if made is None or not known:
            name = getattr(made.func, "__name__", "an operator") if made else "an operator"
            msg = f"what {name} returns in other bins cannot be computed for single pixels"
            raise ModelError(msg)
        values = [
            self._rows(arg, pixels)[:, :, None, None] if isinstance(arg, BlockTensor) else arg
            for arg in made.args
        ]
        return cast("Tensor", made.func(*values, **made.kwargs)).flatten(1)

    def _convolved(self, form: _Form, width: int, pixels: Tensor) -> Tensor:
        """Convolve at some pixels, [k, C]."""
        height_in, width_in = form.x.full
        taps = torch.arange(form.kernel, device=pixels.device) * form.dilation - form.reach
        y = ((pixels // width) * form.step)[:, None] + taps
        x = ((pixels % width) * form.step)[:, None] + taps
        inside = ((y >= 0) & (y < height_in))[:, :, None] & ((x >= 0) & (x < width_in))[:, None]
        at = y.clamp(0, height_in - 1)[:, :, None] * width_in + x.clamp(0, width_in - 1)[:, None]
        patches = self._patches(form.x, at.flatten()) * inside.flatten()[:, None]
        if form.groups == 1:
            matrix = form.weight.permute(0, 2, 3, 1).flatten(1)
            return functional.linear(patches.view(-1, matrix.shape[1]), matrix, form.bias)
        span = (form.kernel, form.kernel, patches.shape[1])
        images = patches.view(len(pixels), *span).permute(0, 3, 1, 2)
        made = functional.conv2d(images, form.weight, form.bias, groups=form.groups)
        return made.flatten(1)

    def _patches(self, x: BlockTensor, pixels: Tensor) -> Tensor:
        if x.whole:
            return self._rows(x, pixels)
        once, place = torch.unique(pixels, return_inverse=True)
        return self._rows(x, once).index_select(0, place)


def _with_background(x: BlockTensor, rows: Tensor) -> BlockTensor:
    return x.mapped(x.of, background=repeat(_Computed(rows)))


@dataclass(frozen=True)
class _Form:
    """A convolution on bins."""

    x: BlockTensor
    weight: Tensor
    bias: Tensor | None
    step: int
    dilation: int
    groups: int

    @staticmethod
    def of(  # noqa: PLR0913, PLR0917 - the arguments of torch.conv2d
        x: BlockTensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),  # noqa: ARG004 - half the kernel, as bins need anyway
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> _Form:
        """Read the arguments of torch.conv2d."""
        return _Form(x, weight, bias, stride[0], dilation[0], groups)

    @property
    def kernel(self) -> int:
        """Side of the kernel."""
        return int(self.weight.shape[-1])

    @property
    def reach(self) -> int:
        """How many pixels it looks to each side."""
        return self.dilation * (self.kernel // 2)
