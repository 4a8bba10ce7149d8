"""The weights that a training starts from: fresh, a trained model's, or a part of another's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
import torch

from seg_node.core.types import ModelError
from seg_node.nets.build import build_network, load_model
from seg_node.nets.manifest import find_manifest
from seg_node.nets.resnet import ResNet18
from seg_node.nets.swiftnet import SwiftNet
from seg_node.nets.weights import load_weights
from seg_node.train.classes import same_classes
from seg_node.train.widen import widen

if TYPE_CHECKING:
    from torch import nn

    from seg_node.core.types import ClassInfo
    from seg_node.nets.manifest import Manifest

LOG = logging.getLogger(__name__)
HEAD = "head."


def fresh(network: str, classes: int, seed: int) -> nn.Module:
    """Return a network with random weights that depend on the seed only."""
    torch.manual_seed(seed)
    net: nn.Module = build_network(network, classes)
    return net


def from_model(network: str, classes: tuple[ClassInfo, ...], seed: int, model: str) -> nn.Module:
    """Return a network with a trained model's weights; with other classes, its head is fresh.

    Raises:
        ModelError: unknown model, a slimmed one, or weights that do not fit the network.

    """
    manifest, folder = find_manifest(model)
    _refuse_slimmed(manifest)
    net = fresh(network, len(classes), seed)
    path = folder / manifest.file
    if same_classes(manifest.classes, classes):
        load_weights(net, path)
        return net
    LOG.info("%s knows other classes than the data: its head starts fresh", manifest.name)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as err:
        msg = f"{path} is not a readable safetensors file: {err}"
        raise ModelError(msg) from err
    own = {k: v for k, v in net.state_dict().items() if k.startswith(HEAD)}
    try:
        net.load_state_dict({**weights, **own}, strict=True)
    except RuntimeError as err:
        msg = f"{path} does not fit {network}: {err}"
        raise ModelError(msg) from err
    return net


def from_encoder(network: str, classes: tuple[ClassInfo, ...], seed: int, model: str) -> nn.Module:
    """Return a network with the encoder of another trained one, and fresh weights behind it.

    Raises:
        ModelError: the model is slimmed, or the two have no ResNet-18 of one width.

    """
    net = fresh(network, len(classes), seed)
    loaded = load_model(model, fold=False)
    _refuse_slimmed(loaded.manifest)
    own, other = _encoder(net, network), _encoder(loaded.net, loaded.manifest.name)
    if own.channels != other.channels:
        msg = (
            f"the encoder of {loaded.manifest.name} has {other.channels} channels, "
            f"that of {network} has {own.channels}: take one of the same width"
        )
        raise ModelError(msg)
    own.load_state_dict(other.state_dict(), strict=True)
    return net


def _encoder(net: nn.Module, name: str) -> ResNet18:
    for module in net.modules():
        if isinstance(module, ResNet18):
            return module
    msg = f"{name} has no ResNet-18 as encoder: leave --encoder"
    raise ModelError(msg)


def _refuse_slimmed(manifest: Manifest) -> None:
    if manifest.slim is not None:
        msg = (
            f"{manifest.name} is slimmed, and no training goes on from it; start from a whole one"
        )
        raise ModelError(msg)


def from_narrow(network: str, classes: tuple[ClassInfo, ...], seed: int, model: str) -> nn.Module:
    """Return a SwiftNet that computes at first what a narrower trained one does.

    Raises:
        ModelError: the model is no narrower network of the same kind and classes.

    """
    wide = fresh(network, len(classes), seed)
    loaded = load_model(model, fold=False)
    _refuse_slimmed(loaded.manifest)
    if not same_classes(loaded.manifest.classes, classes):
        msg = f"cannot widen {model}: it knows other classes than the data"
        raise ModelError(msg)
    if not (isinstance(wide, SwiftNet) and isinstance(loaded.net, SwiftNet)):
        msg = f"cannot widen {model} to {network}: both must be SwiftNets"
        raise ModelError(msg)
    with torch.no_grad():
        widen(loaded.net, wide, seed)
    return wide
