"""The one place that builds networks and loads their weights, strictly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
import hashlib
import json
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
import torch
from torch import nn, Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from seg_node.core.policy import Complexity, DENSE_ONLY, Heuristic, Middle, Random, Ranked
from seg_node.core.types import ClassInfo, ModelError
from seg_node.nets.bisenet import BiSeNet
from seg_node.nets.decision import ComplexityNet
from seg_node.nets.plugin import build_plugin
from seg_node.nets.pspnet import PSPNet, PSPNetStride8
from seg_node.nets.swiftnet import SwiftNet

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.config import Config
    from seg_node.core.policy import BlockPolicy, BlockScore

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "swiftnet18": lambda classes: SwiftNet(classes, 1.0),
    "swiftnet18-half": lambda classes: SwiftNet(classes, 0.5),
    "pspnet18": PSPNet,
    "pspnet18-cityscapes": PSPNetStride8,
    "bisenet18": BiSeNet,
}
"""Constructor of every network, by name; the argument is the number of classes."""

SCORES: dict[str, Callable[[], BlockScore]] = {
    "heuristic": Heuristic,
    "middle": Middle,
    "random": Random,
}
"""Ways to rank blocks that need no training, by their name in `policy.score`."""

MODELS_ENV = "SEG_NODE_MODELS"
"""Environment variable that names another folder of models."""


def build_network(name: str, classes: int) -> nn.Module:
    """Build a network, in training mode, with the face of `core.pipeline.SegmentationNetwork`.

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
class PolicyWeights:
    """What is known of the policy network that belongs to a model.

    Attributes:
        file: weights file beside the manifest.
        sha256: hash of that file.
        network_sha256: hash of the network's weights that it was trained with.
        block_size: side of the blocks that it was trained on, in pixels.
        channels: channels of its layers.
        command: command that trained it.
        commit: commit that trained it.

    """

    file: str
    sha256: str
    network_sha256: str
    block_size: int
    channels: int
    command: str
    commit: str


@dataclass(frozen=True)
class Manifest:
    """What is known of one model file.

    Attributes:
        name: name that users give.
        network: key of `NETWORKS`, or a user's own network as `module:function`.
        file: weights file beside the manifest.
        sha256: hash of that file.
        classes: the classes, in label order.
        training_size: (width, height) of the frames it was trained on, in pixels.
        data: data it was trained on.
        terms: terms of that data.
        command: command that trained it.
        commit: commit that trained it.
        scores: measured scores by name, such as `camvid_val_miou` (0..1).
        policy: the policy network of mode segblocks; None if it has none.

    """

    name: str
    network: str
    file: str
    sha256: str
    classes: tuple[ClassInfo, ...]
    training_size: tuple[int, int]
    data: str
    terms: str
    command: str
    commit: str
    scores: dict[str, float]
    policy: PolicyWeights | None = None

    @staticmethod
    def read(path: Path) -> Manifest:
        """Read a manifest file.

        Raises:
            ModelError: the file is not a manifest; the text names what is wrong.

        """
        try:
            raw = json.loads(path.read_text())
            raw["classes"] = tuple(ClassInfo(c["name"], tuple(c["color"])) for c in raw["classes"])
            raw["training_size"] = tuple(raw["training_size"])
            if raw.get("policy") is not None:
                raw["policy"] = PolicyWeights(**raw["policy"])
            return Manifest(**raw)
        except (OSError, ValueError, KeyError, TypeError) as err:
            msg = f"{path} is not a model manifest: {err!r}"
            raise ModelError(msg) from err

    def write(self, folder: Path) -> Path:
        """Write `<name>.json` into a folder and return its path."""
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
        return path


@dataclass(frozen=True)
class Model:
    """A loaded network with its manifest.

    Attributes:
        net: the network, in eval mode.
        manifest: what is known of it.
        policy: its policy network, in eval mode; None if it has none.

    """

    net: nn.Module
    manifest: Manifest
    policy: nn.Module | None = None


def models_dir() -> Path:
    """Return the folder of shipped models: environment, source tree, or an install's share.

    Raises:
        ModelError: there is none; the text names the places that were searched.

    """
    if os.environ.get(MODELS_ENV):
        places = [Path(os.environ[MODELS_ENV])]
    else:
        package = Path(__file__).resolve().parents[1]
        prefixes = [package.parents[i] for i in range(2, min(5, len(package.parents)))]
        shares = [*prefixes, Path(sys.prefix), *_ament_prefixes()]
        places = [package.parent / "models"]
        places += [prefix / "share" / "seg_node" / "models" for prefix in shares]
    for place in places:
        if any(place.glob("*.json")):
            return place
    msg = f"no models found in {', '.join(map(str, places))}; set {MODELS_ENV} to their folder"
    raise ModelError(msg)


def _ament_prefixes() -> list[Path]:
    return [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]


def list_models() -> tuple[Manifest, ...]:
    """Return the manifests of all shipped models, by name."""
    return tuple(Manifest.read(path) for path in sorted(models_dir().glob("*.json")))


def find_manifest(name: str) -> tuple[Manifest, Path]:
    """Return the manifest called `name`, or at the path `name`, and the folder it lies in.

    Raises:
        ModelError: there is no such model; the text lists those that are there.

    """
    path = Path(name) if name.endswith(".json") else models_dir() / f"{name}.json"
    if not path.is_file():
        have = ", ".join(m.name for m in list_models())
        msg = f"unknown model {name!r}; shipped: {have} (or name a manifest file, *.json)"
        raise ModelError(msg)
    return Manifest.read(path), path.parent


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def weights_problem(manifest: Manifest, folder: Path) -> str:
    """Return what is wrong with the weights file of a model in a folder; empty if it is intact."""
    files = {manifest.file: manifest.sha256}
    if manifest.policy is not None:
        files[manifest.policy.file] = manifest.policy.sha256
        theirs = manifest.policy.network_sha256
        if theirs != manifest.sha256:
            return (
                f"the policy of model {manifest.name!r} was trained with weights {theirs}, the "
                f"model has {manifest.sha256}; train it again"
            )
    for file, expected in files.items():
        path = folder / file
        if not path.is_file():
            return f"model {manifest.name!r} needs {path}, which is missing; restore the file"
        digest = file_sha256(path)
        if digest != expected:
            return f"{path} has sha256 {digest}, its manifest says {expected}; restore the file"
    return ""


def model_card(name: str) -> str:
    """Return the model card of a model: Markdown from `<name>.md` beside its manifest.

    Args:
        name: a shipped model's name, or the path of a manifest (`*.json`).

    Raises:
        ModelError: unknown name, or the model has no card.

    """
    manifest, folder = find_manifest(name)
    path = folder / f"{manifest.name}.md"
    if not path.is_file():
        msg = f"model {manifest.name!r} has no card; write {path}"
        raise ModelError(msg)
    return path.read_text(encoding="utf-8")


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
    net = build_network(manifest.network, len(manifest.classes))
    policy = None
    if manifest.policy is not None:
        policy = _ready(
            ComplexityNet(manifest.policy.channels), folder / manifest.policy.file, fold=fold
        )
    return Model(_ready(net, folder / manifest.file, fold=fold), manifest, policy)


def _ready(net: nn.Module, weights: Path, *, fold: bool) -> nn.Module:
    """Return a network with its weights, for inference."""
    load_weights(net, weights)
    net.eval().requires_grad_(requires_grad=False)
    return fold_batchnorm(net) if fold else net


def build_policies(model: Model, config: Config) -> dict[str, BlockPolicy]:
    """Return what chooses the plans of a model, for each mode that it can run.

    Args:
        model: a loaded model.
        config: settings; `policy.score` says what ranks blocks in mode segblocks, which is left
            out if that is the learned policy and the model has none.

    """
    policies: dict[str, BlockPolicy] = dict(DENSE_ONLY)
    if config.policy.score != "learned":
        policies["segblocks"] = Ranked(SCORES[config.policy.score]())
    elif model.policy is not None:
        policies["segblocks"] = Ranked(Complexity(model.policy))
    return policies


def load_weights(net: nn.Module, path: Path) -> None:
    """Load safetensors weights; missing, unexpected or misshapen keys are all errors.

    Numbers are stored in the network's own type or one whose values it holds exactly, such as
    float16 for a float32 network.

    Raises:
        ModelError: the file is damaged or does not fit; the text names the keys.

    """
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as err:
        msg = f"{path} is not a readable safetensors file: {err}"
        raise ModelError(msg) from err
    own = net.state_dict()
    for key, value in weights.items():
        if key in own and not _holds(own[key].dtype, value.dtype):
            msg = f"{path} does not fit the network: {key} is {value.dtype}, not {own[key].dtype}"
            raise ModelError(msg)
    try:
        net.load_state_dict(weights, strict=True)
    except RuntimeError as err:
        msg = f"{path} does not fit the network: {err}"
        raise ModelError(msg) from err


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Return whether every number of the narrow type is exact in the wide one."""
    same_kind = wide.is_floating_point == narrow.is_floating_point
    return same_kind and torch.promote_types(wide, narrow) == wide


def save_weights(net: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> str:
    """Write a network's weights as safetensors and return the file's sha256.

    Args:
        net: network; stays as it is.
        path: file to write.
        dtype: torch.float32, or torch.float16 for half the size. Buffers keep their own type:
            they are small, and statistics of BatchNorm may exceed float16's range (65504).

    Raises:
        ModelError: a value is not finite, or not within the range of `dtype`; nothing is
            written, and the text names the key.

    """
    weights = {key: value.detach().cpu() for key, value in net.state_dict().items()}
    for key, parameter in net.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            weights[key] = weights[key].to(dtype)
    for key, value in weights.items():
        if not value.isfinite().all():
            msg = f"{key} has values that are not finite in {value.dtype}; {path} is not written"
            raise ModelError(msg)
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    save_file({key: _copy(value) for key, value in weights.items()}, path)
    return file_sha256(path)


def _copy(value: Tensor) -> Tensor:
    return value.clone(memory_format=torch.contiguous_format)
