"""Channels taken out of a network: first masked, then cut out, with all that training knows.

A mask sets weights and BatchNorm of a channel to zero, so that nothing that it feeds hears of it.
A cut takes it out of the network, the average and the optimiser's moments, by the same indices.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

import torch

from seg_node.core.types import ModelError
from seg_node.nets.manifest import Slimming
from seg_node.nets.slim import layer_sizes, resize
from seg_node.train.channels import is_within

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn, Tensor

    from seg_node.train.channels import ChannelGraph

PROBE = (2, 3, 64, 96)
"""Images on which a cut network must do what the masked one does."""
TOLERANCE = 1e-9
"""Largest relative difference of the two, in float64."""


@dataclass(frozen=True)
class Cut:
    """What stays of a network.

    Attributes:
        graph: groups of the network's channels.
        kept: channels that stay, in order, for every group that loses some.
        removed: modules that go altogether.

    """

    graph: ChannelGraph
    kept: Mapping[int, Tensor]
    removed: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Channels of every group afterwards."""
        before = enumerate(self.graph.sizes)
        return tuple(len(self.kept[g]) if g in self.kept else size for g, size in before)

    def axes(self) -> dict[str, tuple[Tensor, ...]]:
        """Return the indices that stay, for each axis of every layer that is not removed."""
        found: dict[str, tuple[Tensor, ...]] = {}
        for conv in self.graph.convolutions:
            if conv.parts == 1 and not is_within(conv.name, self.removed):
                found[conv.name] = (self._indices((conv.output,)), self._indices(conv.inputs))
        for norm in self.graph.norms:
            if not is_within(norm.name, self.removed):
                found[norm.name] = (self._indices(norm.groups),)
        return found

    def _indices(self, groups: tuple[int, ...]) -> Tensor:
        """Return which channels of a plane stay that consists of some groups."""
        parts, start = [], 0
        for group in groups:
            size = self.graph.sizes[group]
            parts.append(start + self.kept.get(group, torch.arange(size)))
            start += size
        return torch.cat(parts)


def mask(net: nn.Module, cut: Cut) -> nn.Module:
    """Silence what a cut would take out; works in place and returns `net`."""
    axes = cut.axes()
    layers = [conv.name for conv in cut.graph.convolutions]
    layers += [norm.name for norm in cut.graph.norms]
    with torch.no_grad():
        for name in layers:
            module = net.get_submodule(name)
            gone = torch.ones(layer_sizes(module)[0], dtype=torch.bool)  # type: ignore[arg-type]  # layers of these kinds
            if name in axes:
                gone[axes[name][0]] = False
            elif not is_within(name, cut.removed):
                continue
            for parameter in module.parameters(recurse=False):
                parameter[gone] = 0.0
    return net


def cut_out(net: nn.Module, cut: Cut) -> nn.Module:
    """Return a smaller network with the values that stay; `net` itself stays as it is."""
    axes = cut.axes()
    channels = {}
    for name, indices in axes.items():
        now = tuple(len(axis) for axis in indices)
        if now != layer_sizes(net.get_submodule(name)):  # type: ignore[arg-type]  # axes are of such layers
            channels[name] = now
    small = resize(copy.deepcopy(net), Slimming(channels, cut.removed))
    small.load_state_dict(cut_values(net.state_dict(), cut))
    return small


def cut_values(values: Mapping[str, Tensor], cut: Cut, prefix: str = "") -> dict[str, Tensor]:
    """Return the part of a state dict that stays.

    Args:
        values: tensors by the names of a state dict.
        cut: what stays.
        prefix: what stands before the names of the network, such as `module.`.

    """
    axes = cut.axes()
    small = {}
    for key, value in values.items():
        layer, _, _ = key.removeprefix(prefix).rpartition(".")
        if is_within(layer, cut.removed):
            continue
        small[key] = _selected(value, axes.get(layer, ()))
    return small


def cut_moments(
    state: Mapping[str, Any], names: tuple[list[str], list[str]], cut: Cut
) -> dict[str, Any]:
    """Return the part of an optimiser's state dict that stays.

    Args:
        state: of an optimiser of the network as it was.
        names: of the parameters, in the optimiser's order: of the network as it was, and now.
        cut: what stays.

    """
    before, after = names
    axes = cut.axes()
    moments = {}
    for index, name in enumerate(after):
        layer, _, _ = name.rpartition(".")
        known = state["state"].get(before.index(name), {})
        moments[index] = {
            key: _selected(value, axes.get(layer, ())) for key, value in known.items()
        }
    return {
        "state": {index: known for index, known in moments.items() if known},
        "param_groups": _regrouped(state["param_groups"], before, after),
    }


def _regrouped(
    groups: list[dict[str, Any]], before: list[str], after: list[str]
) -> list[dict[str, Any]]:
    """Return an optimiser's groups with the numbers that parameters have now."""
    place = {name: index for index, name in enumerate(after)}
    return [
        {**group, "params": [place[before[p]] for p in group["params"] if before[p] in place]}
        for group in groups
    ]


def _selected(value: Tensor, axes: tuple[Tensor, ...]) -> Tensor:
    """Return what stays of a layer's value; counters and steps have no axes and stay whole."""
    for axis, indices in enumerate(axes[: value.dim()]):
        value = value.index_select(axis, indices.to(value.device))
    return value.clone()


def refuse_unfaithful(net: nn.Module, cut: Cut) -> None:
    """Refuse a network that would not do, cut, what it does masked.

    Raises:
        ModelError: it does something else; it has an operation that the tracing misread.

    """
    exact = copy.deepcopy(net).cpu().double().eval()
    images = torch.rand(PROBE, generator=torch.Generator().manual_seed(0)).double() * 255.0
    with torch.no_grad():
        found = cut_out(exact, cut)(images)
        expected = mask(exact, cut)(images)
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not error <= TOLERANCE:
        msg = (
            f"a {type(net).__name__} cannot be slimmed: without silent channels its result "
            f"differs by {error:.1e}; one of its operations mixes channels"
        )
        raise ModelError(msg)
