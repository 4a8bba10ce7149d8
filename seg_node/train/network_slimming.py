"""Which channels and scales a network can do without: importance, and a choice by MACs.

Importance is estimated while the network trains, at its BatchNorms: by their scales, after
Network Slimming (Liu et al., ICCV 2017), or by the change of the loss to first order if a channel
fell silent, after Taylor pruning (Molchanov et al., CVPR 2019, method 7). Channels go in units, up
to the next multiple of 8, those first that matter least for the MACs that they cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

import torch
from torch import nn

from seg_node.core.types import ConfigError
from seg_node.train.channels import is_within
from seg_node.train.surgery import Cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from seg_node.train.channels import ChannelGraph
    from seg_node.train.slim_settings import SlimTraining

UNIT = 8
"""Layers are slimmed to multiples of so many channels: what vector units and caches like."""


class Importance:
    """What every channel of every BatchNorm is worth, averaged over steps.

    Args:
        criterion: one of `slim_settings.CRITERIA`.

    """

    def __init__(self, criterion: str) -> None:
        """Start without observations."""
        self.criterion = criterion
        self._sums: dict[str, Tensor] = {}

    def observe(self, net: nn.Module, graph: ChannelGraph) -> None:
        """Take in one step: to be called between backward and the optimiser."""
        if self.criterion != "taylor":
            return
        for name, norm in _norms(net, graph):
            change = sum(
                (p.detach() * p.grad for p in norm.parameters() if p.grad is not None),
                torch.zeros_like(norm.weight),
            )
            seen = change.square()
            known = self._sums.get(name, torch.zeros(()))
            self._sums[name] = known.to(seen.device) + seen

    def vectors(self, net: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
        """Return the importance of every channel of every BatchNorm, by its name.

        Raises:
            ConfigError: nothing was observed yet.

        """
        if self.criterion == "scale":
            # Scales of different layers compare only relative to their layer's.
            sizes = {name: norm.weight.detach().abs().cpu() for name, norm in _norms(net, graph)}
            return {name: size / size.mean().clamp_min(1e-12) for name, size in sizes.items()}
        if not self._sums:
            msg = "nothing was learned before the first cut; raise steps or prune_first"
            raise ConfigError(msg)
        return {name: seen.cpu() for name, seen in self._sums.items()}

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint must hold."""
        return dict(self._sums)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._sums = dict(state)

    def forget(self) -> None:
        """Start anew: a smaller network has other importances."""
        self._sums = {}


@dataclass(frozen=True)
class Limits:
    """How far a network may be slimmed.

    Attributes:
        floors: channels that every group keeps at least.
        parts: modules that may be removed altogether.

    """

    floors: tuple[int, ...]
    parts: tuple[str, ...]


def limits_of(net: nn.Module, graph: ChannelGraph, config: SlimTraining) -> Limits:
    """Return how far the settings let a whole network be slimmed."""
    normed = graph.normed()
    floors = []
    for group, size in enumerate(graph.sizes):
        wanted = max(config.least_channels, _rounded_up(config.least_share * size))
        floors.append(min(size, wanted) if group in normed else size)
    return Limits(tuple(floors), tuple(getattr(net, "removable", ())))


def refuse_too_small(graph: ChannelGraph, limits: Limits, share: float) -> None:
    """Refuse a target that only a network without some layer could meet.

    Raises:
        ConfigError: names what is asked for, and what is the least.

    """
    sizes = list(limits.floors)
    for part in limits.parts:
        for group in graph.owned(part):
            sizes[group] = 0
    whole, least = graph.macs(graph.sizes), graph.macs(sizes, limits.parts)
    if share * whole < least:
        asked = f"{share * whole / 1e9:.3f} of {whole / 1e9:.3f} GMAC"
        msg = (
            f"inference_macs {share} asks for {asked}; {least / 1e9:.3f} remain when every layer "
            f"has only its least channels (least_channels, least_share), and less would remove a "
            f"whole layer: ask for {least / whole + 5e-4:.3f} or more"
        )
        raise ConfigError(msg)


@dataclass(frozen=True)
class _Choice:
    """Something that could go, and what it would change."""

    harm: float
    saved: int
    sizes: tuple[int, ...]
    part: str = ""


class Chooser:
    """Takes out what matters least for its MACs until a target is met.

    Args:
        graph: of the network as it is now.
        vectors: importance of the channels of every BatchNorm, by its name.
        limits: how far it may be slimmed.

    """

    def __init__(self, graph: ChannelGraph, vectors: Mapping[str, Tensor], limits: Limits) -> None:
        """Rank the channels of every group."""
        self._graph = graph
        self._vectors = vectors
        self._limits = limits
        self._ranked: dict[int, tuple[Tensor, Tensor]] = {}
        for group, places in graph.normed().items():
            size = graph.sizes[group]
            score = sum(
                (vectors[name][start : start + size] for name, start in places), torch.zeros(size)
            )
            self._ranked[group] = score.sort(descending=True, stable=True)

    def cut(self, target: float) -> Cut:
        """Return what stays of the network so that it costs no more than `target` MACs.

        Raises:
            ConfigError: the limits do not allow it.

        """
        sizes = self._graph.sizes
        removed: tuple[str, ...] = ()
        while (now := self._graph.macs(sizes, removed)) > target:
            choices = list(self._choices(sizes, removed, now))
            if not choices:
                msg = (
                    f"no layer may lose more channels at {now / 1e9:.3f} GMAC, and "
                    f"{target / 1e9:.3f} are asked for; raise inference_macs"
                )
                raise ConfigError(msg)
            best = min(choices, key=lambda choice: choice.harm / choice.saved)
            sizes = best.sizes
            removed = (*removed, best.part) if best.part else removed
        kept = {
            group: self._ranked[group][1][: sizes[group]].sort().values
            for group, size in enumerate(self._graph.sizes)
            if sizes[group] < size
        }
        return Cut(self._graph, kept, removed)

    def _choices(
        self, sizes: tuple[int, ...], removed: tuple[str, ...], now: int
    ) -> Iterator[_Choice]:
        """Yield every unit of channels and every part that may go next."""
        for group, (scores, _) in self._ranked.items():
            size = sizes[group]
            less = max(self._limits.floors[group], (size - 1) // UNIT * UNIT)
            if less < size:
                after = (*sizes[:group], less, *sizes[group + 1 :])
                saved = now - self._graph.macs(after, removed)
                yield _Choice(float(scores[less:size].sum()), saved, after)
        free = self._graph.free_norms()
        for part in self._limits.parts:
            if part in removed or not any(is_within(n.name, (part,)) for n in free):
                continue
            owned = self._graph.owned(part)
            after = tuple(0 if group in owned else size for group, size in enumerate(sizes))
            saved = now - self._graph.macs(after, (*removed, part))
            yield _Choice(self._worth(part, sizes), saved, after, part)

    def _worth(self, part: str, sizes: tuple[int, ...]) -> float:
        """Return the importance of the channels that a part has left."""
        total = 0.0
        for norm in self._graph.free_norms():
            if not is_within(norm.name, (part,)):
                continue
            start = 0
            for group in norm.groups:
                own = self._vectors[norm.name][start : start + self._graph.sizes[group]]
                kept = self._ranked[group][1][: sizes[group]]
                total += float(own[kept].sum())
                start += self._graph.sizes[group]
        return total


def press(net: nn.Module, graph: ChannelGraph, weight: float) -> None:
    """Add the gradient of an L1 penalty on the scales of all BatchNorms that can be slimmed."""
    for _, norm in _norms(net, graph):
        if norm.weight.grad is not None:
            norm.weight.grad.add_(norm.weight.detach().sign(), alpha=weight)


def _norms(net: nn.Module, graph: ChannelGraph) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Yield the BatchNorms all of whose channels can be slimmed."""
    for norm in graph.free_norms():
        module = net.get_submodule(norm.name)
        if isinstance(module, nn.BatchNorm2d):
            yield norm.name, module


def _rounded_up(channels: float) -> int:
    return -int(-channels // UNIT) * UNIT
