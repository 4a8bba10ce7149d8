"""The one place that builds networks and loads their weights, strictly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from seg_node.core.attention import local_attention
from seg_node.core.budgeted import Budgeted
from seg_node.core.compute import choose_compute
from seg_node.core.gate import Gated, LearnedGate
from seg_node.core.gated_modules import stages_of
from seg_node.core.policy import Interval, Ranked, UNTRAINED
from seg_node.core.residual import find_gated_modules
from seg_node.core.scores import Complexity, Heuristic, Middle, Random
from seg_node.core.types import Action, ModelError
from seg_node.kernels.build import choose_kernels
from seg_node.nets.bisenet import BiSeNet
from seg_node.nets.decision import ComplexityNet, GateNet
from seg_node.nets.engines import EngineNetwork, with_engines
from seg_node.nets.low import AnyBranch, build_branch, LowBranch
from seg_node.nets.manifest import find_manifest, Manifest, weights_problem
from seg_node.nets.plugin import build_plugin
from seg_node.nets.pspnet import PSPNet, PSPNetStride8
from seg_node.nets.slim import resize
from seg_node.nets.swiftnet import SwiftNet
from seg_node.nets.tensorrt_engine import load_tensorrt, opener, this_machine
from seg_node.nets.weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.backend import BlockKernels
    from seg_node.core.config import Config
    from seg_node.core.policy import BlockPolicy
    from seg_node.core.scores import BlockScore
    from seg_node.nets.manifest import LowWeights

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "swiftnet18": lambda classes: SwiftNet(classes, 1.0),
    "swiftnet18-half": lambda classes: SwiftNet(classes, 0.5),
    "pspnet18": PSPNet,
    "pspnet18-cityscapes": PSPNetStride8,
    "bisenet18": lambda classes: BiSeNet(classes, 1.0),
    "bisenet18-half": lambda classes: BiSeNet(classes, 0.5),
}
"""Constructor of every network, by name; the argument is the number of classes."""

SCORES: dict[str, Callable[[], BlockScore]] = {
    "heuristic": Heuristic,
    "middle": Middle,
    "random": Random,
}
"""Ways to rank blocks that need no training, by their name in `policy.score`."""


def build_network(name: str, classes: int) -> nn.Module:
    """Build a network, in training mode, with the face of `core.execution.SegmentationNetwork`.

    Args:
        name: key of `NETWORKS`, with fresh weights; or a user's own, `module:function`.
        classes: number of classes.

    Raises:
        ModelError: no network has this name, or a user's own lacks something.

    """
    if name in NETWORKS:
        return NETWORKS[name](classes)
    if ":" in name:
        return build_plugin(name, classes)
    known = ", ".join(sorted(NETWORKS))
    msg = f"unknown network {name!r}; known: {known}; your own is named module:function"
    raise ModelError(msg)


def fold_batchnorm(net: nn.Module) -> nn.Module:
    """Fold every convolution + BatchNorm pair of an eval-mode network into the convolution.

    Pairs are the `conv_bn` sequences of `nets/resnet.py`. Works in place and returns `net`.
    """
    for module in list(net.modules()):
        for name, child in module.named_children():
            pair = tuple(child.children()) if type(child) is nn.Sequential else ()
            match pair:
                # Subclasses in a user's network may do more: timm's BatchNorm also activates.
                case (nn.Conv2d() as conv, nn.BatchNorm2d() as norm) if (
                    type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d
                ):
                    setattr(module, name, fuse_conv_bn_eval(conv, norm))
    return net


@dataclass(frozen=True)
class Model:
    """A loaded network with its manifest.

    Attributes:
        net: the network, in eval mode.
        manifest: what is known of it.
        policy: its policy network, in eval mode; None if it has none.
        low: its half-resolution branch, in eval mode; None if it has none.
        gate: its gates of mode stmg, in eval mode; None if nobody trained them.

    """

    net: nn.Module
    manifest: Manifest
    policy: nn.Module | None = None
    low: AnyBranch | None = None
    gate: GateNet | None = None


def load_model(name: str, *, fold: bool = True) -> Model:
    """Load a model for inference: hash checked, every key matched, eval mode.

    Args:
        name: a shipped model's name, or the path of a manifest (`*.json`).
        fold: fold BatchNorm into the convolutions.

    Raises:
        ModelError: unknown name, missing or damaged file, or weights that do not fit.

    """
    manifest, folder = find_manifest(name)
    problem = weights_problem(manifest, folder)
    if problem:
        raise ModelError(problem)
    net = _fresh(manifest)
    _ready(net, folder / manifest.file, fold=fold)
    policy = low = gate = None
    if manifest.policy is not None:
        policy = ComplexityNet(manifest.policy.channels)
        _ready(policy, folder / manifest.policy.file, fold=fold)
    if manifest.low is not None:
        low = _fresh_branch(manifest, manifest.low)
        _ready(low, folder / manifest.low.file, fold=fold)
    if manifest.gate is not None:
        gate = build_gate(net)
        _ready(gate, folder / manifest.gate.file, fold=fold)
    return Model(net, manifest, policy, low, gate)


def model_for(config: Config) -> Model:
    """Load the model of a config; for device tensorrt its networks are engines.

    Raises:
        ConfigError: TensorRT or a GPU is asked for that is not there.
        ModelError: unknown name, missing or damaged file, weights that do not fit, or engines
            that are not there or are for something else.

    """
    if config.device != "tensorrt":
        return load_model(config.model)
    trt = load_tensorrt("device 'tensorrt'")
    model = load_model(config.model)
    dtype = choose_compute(config).dtype
    return with_engines(model, Path(config.engines), dtype, this_machine(trt), opener(trt))


def build_gate(net: nn.Module) -> GateNet:
    """Build fresh gates for the stages of a network in eval mode."""
    return GateNet(len(stages_of(find_gated_modules(net))))


def _fresh(manifest: Manifest) -> nn.Module:
    net = build_network(manifest.network, len(manifest.classes))
    return net if manifest.slim is None else resize(net, manifest.slim)


def _fresh_branch(manifest: Manifest, known: LowWeights) -> AnyBranch:
    if known.network is None:
        return build_branch(_fresh(manifest), known.fusion)
    net = build_network(known.network, len(manifest.classes))
    return build_branch(net, known.fusion)


def _ready(net: nn.Module, weights: Path, *, fold: bool) -> None:
    """Give a network its weights, and make it fit for inference."""
    load_weights(net, weights)
    net.eval().requires_grad_(requires_grad=False)
    if fold:
        fold_batchnorm(net)


def build_kernels(model: Model, config: Config) -> BlockKernels | None:
    """Choose what computes blocks, and hand it to the fusion of the model too.

    Args:
        model: a loaded model.
        config: settings; `kernels` says which, for the device that `device` resolves to.

    Returns:
        What a `Segmenter` takes; None for plain torch.

    Raises:
        ConfigError: the device is not to be had here, or the kernels do not run on it.

    """
    kernels = choose_kernels(config.kernels, choose_compute(config).device)
    if isinstance(model.low, LowBranch):
        model.low.fusion.attend = local_attention if kernels is None else kernels.attend
    return kernels


def build_policies(model: Model, config: Config) -> dict[str, BlockPolicy]:
    """Return what chooses the plans of a model, for each mode that it can run.

    Args:
        model: a loaded model.
        config: settings; `policy.score` says what ranks blocks in mode segblocks, which is left
            out if that is the learned policy and the model has none.

    """
    policies: dict[str, BlockPolicy] = {**UNTRAINED, "adaptive": Budgeted()}
    if config.policy.score != "learned":
        policies["segblocks"] = Ranked(SCORES[config.policy.score]())
    elif model.policy is not None:
        policies["segblocks"] = Ranked(Complexity(model.policy))
    if model.low is not None:
        policies["arseg"] = Interval(Action.LOW)
    whole = isinstance(model.net, EngineNetwork)  # whose blocks nobody gets at
    blocks = () if whole else find_gated_modules(model.net)
    if blocks and model.gate is not None:
        score = LearnedGate(model.gate, len(stages_of(blocks)))
        policies["stmg"] = Gated(blocks, score)
    elif blocks:
        policies["stmg"] = Gated(blocks)
    return policies
