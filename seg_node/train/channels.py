"""Which channels of a network belong together, found by running it once without numbers.

A channel of a convolution's output goes on through BatchNorm and pointwise operations to the
convolutions that read it; where two planes are added, their channels can only be removed together.
All channels that share this fate are a group.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, TYPE_CHECKING

import torch
from torch import nn, Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PLANE = 4
"""Dimensions of [N, C, h, w]."""


@dataclass(frozen=True)
class Convolution:
    """One convolution and the groups of channels that it joins.

    Attributes:
        name: of the module.
        inputs: groups whose channels it reads, in order.
        output: group of the channels that it writes.
        area: MACs for each pair of an input and an output channel that it joins.
        parts: groups of the convolution: it joins one pair in so many.

    """

    name: str
    inputs: tuple[int, ...]
    output: int
    area: int
    parts: int = 1


@dataclass(frozen=True)
class Norm:
    """One BatchNorm.

    Attributes:
        name: of the module.
        groups: groups whose channels it normalises, in order.

    """

    name: str
    groups: tuple[int, ...]


@dataclass(frozen=True)
class ChannelGraph:
    """Groups of channels of a network, by number, and the layers that they run through.

    Attributes:
        sizes: channels of every group.
        fixed: groups that cannot be slimmed: the image, the classes, and what the tracing lost.
        convolutions: every convolution, in order of execution.
        norms: every BatchNorm, in order of execution.
        others: MACs of all that is no convolution; it is fixed.

    """

    sizes: tuple[int, ...]
    fixed: frozenset[int]
    convolutions: tuple[Convolution, ...]
    norms: tuple[Norm, ...]
    others: int = 0

    def macs(self, sizes: Sequence[int], removed: Sequence[str] = ()) -> int:
        """Return the MACs of a forward pass on the image that was traced.

        Args:
            sizes: channels of every group.
            removed: modules that do not run; see `is_within`.

        """
        return self.others + sum(
            conv.area * sizes[conv.output] * sum(sizes[g] for g in conv.inputs) // conv.parts
            for conv in self.convolutions
            if not is_within(conv.name, removed)
        )

    def shrunk(self, sizes: Sequence[int], removed: Sequence[str]) -> ChannelGraph:
        """Return the graph of a network that was cut; groups keep their numbers.

        Args:
            sizes: channels of every group that are left.
            removed: modules that are gone.

        """
        return replace(
            self,
            sizes=tuple(sizes),
            convolutions=tuple(c for c in self.convolutions if not is_within(c.name, removed)),
            norms=tuple(n for n in self.norms if not is_within(n.name, removed)),
        )

    def owned(self, module: str) -> tuple[int, ...]:
        """Return the groups that only convolutions within a module write."""
        inside = {c.output for c in self.convolutions if is_within(c.name, (module,))}
        outside = {c.output for c in self.convolutions if not is_within(c.name, (module,))}
        return tuple(sorted(inside - outside - self.fixed))

    def normed(self) -> dict[int, list[tuple[str, int]]]:
        """Return, for every group that can be slimmed, its BatchNorms and its place in each."""
        found: dict[int, list[tuple[str, int]]] = {}
        for norm in self.free_norms():
            start = 0
            for group in norm.groups:
                found.setdefault(group, []).append((norm.name, start))
                start += self.sizes[group]
        return found

    def free_norms(self) -> tuple[Norm, ...]:
        """Return the BatchNorms all of whose channels can be slimmed."""
        return tuple(norm for norm in self.norms if not self.fixed & set(norm.groups))


def is_within(name: str, modules: Sequence[str]) -> bool:
    """Return whether a module is one of some, or a part of one of them."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def trace_channels(net: nn.Module, height: int, width: int) -> ChannelGraph:
    """Run a network once, without numbers, and return what belongs together.

    Only plain convolutions are slimmed. What flows through a grouped convolution, or through an
    operation that mixes or loses channels, is fixed.

    Args:
        net: network with the face of `core.execution.SegmentationNetwork`.
        height: image height in pixels; MACs are counted for it.
        width: image width in pixels.

    """
    shadow = copy.deepcopy(net).to("meta").eval()
    tracer = _Tracer()
    hooks = [
        module.register_forward_hook(tracer.hook(name))
        for name, module in shadow.named_modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    image = torch.empty((1, 3, height, width), device="meta")
    tracer.fix(tracer.follow(image, (tracer.group(3),)))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, tracer:
        tracer.fix(tracer.flow_of(shadow(image)))
    for hook in hooks:
        hook.remove()
    graph = tracer.graph()
    return replace(graph, others=counter.get_total_flops() // 2 - graph.macs(graph.sizes))


class _Tracer(TorchFunctionMode):
    """Follows groups of channels from operation to operation."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: list[int] = []
        self._parents: list[int] = []
        self._fixed: set[int] = set()
        # Tensors are kept: the identity of one that is gone would be given to another.
        self._flows: dict[int, tuple[Tensor, tuple[int, ...]]] = {}
        self._convolutions: list[Convolution] = []
        self._norms: list[Norm] = []

    # ---- groups ----------------------------------------------------------------------------

    def group(self, size: int) -> int:
        """Return a new group."""
        self._parents.append(len(self._sizes))
        self._sizes.append(size)
        return self._parents[-1]

    def _root(self, group: int) -> int:
        while self._parents[group] != group:
            group = self._parents[group]
        return group

    def fix(self, flow: Sequence[int]) -> None:
        """Let groups be what they are."""
        self._fixed |= set(flow)

    def _join(self, flows: Sequence[tuple[int, ...]]) -> None:
        """Let channels of planes that meet share their fate."""
        first = flows[0]
        for other in flows[1:]:
            if [self._sizes[g] for g in first] != [self._sizes[g] for g in other]:
                self.fix((*first, *other))
                continue
            for one, two in zip(first, other, strict=True):
                self._parents[self._root(two)] = self._root(one)

    def _unknown(self, channels: int) -> tuple[int, ...]:
        """Return a new group for channels whose way here was lost."""
        flow = (self.group(channels),)
        self.fix(flow)
        return flow

    # ---- tensors ---------------------------------------------------------------------------

    def follow(self, tensor: Tensor, flow: tuple[int, ...]) -> tuple[int, ...]:
        """Note which groups the channels of a tensor are."""
        self._flows[id(tensor)] = (tensor, flow)
        return flow

    def flow_of(self, value: object) -> tuple[int, ...]:
        """Return the groups of a tensor's channels; none if it is not followed."""
        return self._flows[id(value)][1] if id(value) in self._flows else ()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function and follow the channels through it."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and func is not torch.conv2d:
            self._through(func, [*args, *(kwargs or {}).values()], result)
        return result

    def _through(self, func: Callable[..., Any], values: list[Any], result: Tensor) -> None:
        listed = [
            v for value in values for v in (value if isinstance(value, list | tuple) else ())
        ]
        flows = [flow for value in [*values, *listed] if (flow := self.flow_of(value))]
        if not flows:
            return
        channels = result.shape[1] if result.dim() == PLANE else 0
        joins = func is not torch.cat
        flow = flows[0] if joins else tuple(group for part in flows for group in part)
        if channels != sum(self._sizes[group] for group in flow):
            for lost in flows:
                self.fix(lost)
            return
        if joins:
            self._join(flows)
        self.follow(result, flow)

    # ---- layers ----------------------------------------------------------------------------

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        """Return the hook of one layer."""

        def run(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            flow = self.flow_of(inputs[0]) or self._unknown(inputs[0].shape[1])
            if isinstance(module, nn.BatchNorm2d):
                self._norms.append(Norm(name, flow))
                self.follow(output, flow)
                return
            if isinstance(module, nn.Conv2d):
                made = self.group(module.out_channels)
                kernel = module.kernel_size[0] * module.kernel_size[1]
                pixels = output.shape[-2] * output.shape[-1]
                conv = Convolution(name, flow, made, kernel * pixels, module.groups)
                self._convolutions.append(conv)
                self.follow(output, (made,))
                if module.groups > 1:
                    self.fix((made, *flow))

        return run

    def graph(self) -> ChannelGraph:
        """Return what was found, the groups numbered anew."""
        roots = sorted({self._root(group) for group in self._parents})
        number = {root: index for index, root in enumerate(roots)}

        def new(groups: Sequence[int]) -> tuple[int, ...]:
            return tuple(number[self._root(group)] for group in groups)

        return ChannelGraph(
            tuple(self._sizes[root] for root in roots),
            frozenset(new(sorted(self._fixed))),
            tuple(
                replace(conv, inputs=new(conv.inputs), output=new((conv.output,))[0])
                for conv in self._convolutions
            ),
            tuple(Norm(norm.name, new(norm.groups)) for norm in self._norms),
        )
