"""Slimmed networks: a network of `build.py` with fewer channels, and without some modules.

A slimmed network is the plain `nn.Module` that its name builds, whose layers are smaller. What
they lack is a `Slimming` in the manifest, so that the same constructor and strict loading serve.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from seg_node.core.types import ModelError
from seg_node.nets.manifest import Slimming
from seg_node.nets.resnet import Removed

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = "head"
PROBE = (1, 3, 32, 64)
"""Image that a slimmed network must be able to take."""


def resize(net: nn.Module, slimming: Slimming) -> nn.Module:
    """Give layers of a network fewer channels and take modules out; values are fresh.

    Works in place and returns `net`. `feature_channels` becomes what `head` takes.

    Args:
        net: network as its constructor made it.
        slimming: sizes of the layers that change.

    Raises:
        ModelError: the network has no such layer, a layer would grow, or layers do not fit
            together.

    """
    for name in slimming.removed:
        if name not in getattr(net, "removable", ()):
            known = ", ".join(getattr(net, "removable", ())) or "none"
            msg = f"{name} cannot be left out of a {type(net).__name__}; removable: {known}"
            raise ModelError(msg)
        _replace(net, name, Removed())
    layers = dict(_layers(net))
    for name, sizes in slimming.channels.items():
        if name not in layers:
            msg = f"a {type(net).__name__} has no convolution or BatchNorm {name!r} to slim"
            raise ModelError(msg)
        _replace(net, name, _smaller(name, layers[name], sizes))
    if HEAD in slimming.channels:
        net.feature_channels = slimming.channels[HEAD][1]  # type: ignore[assignment]  # the face of a network says int
    _try(net)
    return net


def slimming_of(net: nn.Module, whole: nn.Module) -> Slimming:
    """Return what a slimmed network lacks of the one it was made from.

    Args:
        net: the slimmed network.
        whole: the network as its constructor makes it.

    """
    removed = tuple(n for n, module in net.named_modules() if isinstance(module, Removed))
    before = {name: layer_sizes(layer) for name, layer in _layers(whole)}
    now = {name: layer_sizes(layer) for name, layer in _layers(net)}
    return Slimming({n: sizes for n, sizes in now.items() if sizes != before[n]}, removed)


def layer_sizes(layer: nn.Conv2d | nn.BatchNorm2d) -> tuple[int, ...]:
    """Return (out, in) of a convolution, (channels,) of a BatchNorm."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels
    return (layer.num_features,)


def _layers(net: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.BatchNorm2d]]:
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            yield name, module


def _smaller(
    name: str, layer: nn.Conv2d | nn.BatchNorm2d, sizes: tuple[int, ...]
) -> nn.Conv2d | nn.BatchNorm2d:
    """Return a layer of the same kind with fewer channels.

    Raises:
        ModelError: other numbers than the layer has, or not between 1 and what it has.

    """
    have = layer_sizes(layer)
    if len(sizes) != len(have) or not all(
        0 < new <= old for new, old in zip(sizes, have, strict=True)
    ):
        msg = f"{name} has {have} channels, which cannot be slimmed to {sizes}"
        raise ModelError(msg)
    made: nn.Conv2d | nn.BatchNorm2d
    if isinstance(layer, nn.BatchNorm2d):
        made = nn.BatchNorm2d(sizes[0], layer.eps, layer.momentum, layer.affine)
    elif layer.groups == 1:
        made = nn.Conv2d(
            sizes[1],
            sizes[0],
            layer.kernel_size,  # type: ignore[arg-type]  # torch's stub: a tuple of two
            layer.stride,  # type: ignore[arg-type]  # torch's stub: a tuple of two
            layer.padding,  # type: ignore[arg-type]  # torch's stub: a tuple of two
            layer.dilation,  # type: ignore[arg-type]  # torch's stub: a tuple of two
            bias=layer.bias is not None,
        )
    else:
        msg = f"{name} is a convolution in {layer.groups} groups, which cannot be slimmed"
        raise ModelError(msg)
    like = next(layer.buffers() if isinstance(layer, nn.BatchNorm2d) else layer.parameters())
    return made.to(like.device, like.dtype).train(layer.training)


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, module)


def _try(net: nn.Module) -> None:
    """Run the network once: channels of layers that do not fit show now."""
    image = next(net.parameters()).new_zeros(PROBE)
    try:
        with torch.no_grad():
            copy.deepcopy(net).eval()(image)
    except RuntimeError as err:
        msg = f"the layers of the slimmed {type(net).__name__} do not fit together: {err}"
        raise ModelError(msg) from err
