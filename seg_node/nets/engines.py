"""Runs a model's networks as engines: files of another run time for one network, shape and GPU.

An engine lies beside its manifest, `high.engine` beside `high.engine.json`, which says what it is
for: anything else is refused by name before it is loaded. What runs an engine is handed in;
`nets.tensorrt_engine` does so with TensorRT.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
import json
from typing import Any, TYPE_CHECKING

import torch
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function

from seg_node.core.costs import dense_macs, PRICED
from seg_node.core.types import ModelError
from seg_node.nets.low import build_branch
from seg_node.nets.manifest import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from seg_node.nets.build import Model

    Run = Callable[[Mapping[str, Tensor]], Tensor]
    Open = Callable[[Path, "EngineManifest"], Run]

SUFFIX = ".engine.json"
"""What the file name of an engine's manifest ends in, after the part."""

INPUT = "image"
"""Name of what engines take."""


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine.

    Attributes:
        name: its name.
        type: number format, as torch calls it.
        shape: its shape, which is fixed.

    """

    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EngineManifest:
    """What an engine is.

    Attributes:
        file: name of the engine's file, beside the manifest.
        sha256: hash of that file.
        part: what it computes, one of `seg_node.export.parts.PARTS`.
        model: name of the model.
        network_sha256: hash of the weights that it was made of.
        input: image that it takes, [N, 3, H, W].
        output: what it makes of it.
        tensorrt: version of TensorRT that built it.
        gpu: name of the GPU that it was built for.

    """

    file: str
    sha256: str
    part: str
    model: str
    network_sha256: str
    input: Binding
    output: Binding
    tensorrt: str
    gpu: str

    def write(self, folder: Path) -> Path:
        """Write it beside the engine, and return its path."""
        path = folder / f"{self.part}{SUFFIX}"
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> EngineManifest:
        """Read a manifest.

        Raises:
            ModelError: it is damaged.

        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            ends: dict[str, Any] = {end: _binding(record.pop(end)) for end in ("input", "output")}
            return cls(**record, **ends)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
            msg = f"{path} is no manifest of an engine ({type(err).__name__}: {err}); export anew"
            raise ModelError(msg) from err


def _binding(record: dict[str, Any]) -> Binding:
    return Binding(str(record["name"]), str(record["type"]), tuple(map(int, record["shape"])))


@dataclass(frozen=True)
class Machine:
    """What an engine has to fit.

    Attributes:
        tensorrt: version of TensorRT.
        gpu: name of the GPU.

    """

    tensorrt: str
    gpu: str


class Engine:
    """An engine that is loaded, and how it is run on batches of any length.

    Args:
        manifest: what it is.
        run: computes its output, of exactly its own shape.
        macs: multiply-accumulates of one image.

    """

    def __init__(self, manifest: EngineManifest, run: Run, macs: int) -> None:
        """Take them."""
        self.manifest, self.macs = manifest, macs
        self._run = run

    def __deepcopy__(self, memo: object) -> Engine:
        """Return the same: an engine is read only, and there is one of it on the GPU."""
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Compute images [n, 3, H, W]; the last run is filled up with copies of the last image.

        Raises:
            ModelError: they are of another size.

        """
        batch, *size = self.manifest.input.shape
        if list(images.shape[1:]) != size:
            msg = (
                f"engine {self.manifest.file!r} takes images {size}, not "
                f"{list(images.shape[1:])}: {export_command(self.manifest, images)}"
            )
            raise ModelError(msg)
        number = getattr(torch, self.manifest.input.type)
        found = []
        for some in torch.split(images.to(number), batch):
            missing = batch - len(some)
            whole = torch.cat((some, some[-1:].expand(missing, *size))) if missing else some
            found.append(self._run({INPUT: whole.contiguous()})[: len(some)])
        return found[0] if len(found) == 1 else torch.cat(found)


def export_command(manifest: EngineManifest, images: Tensor) -> str:
    """Return what exports an engine for images [n, 3, h, w] instead."""
    factor = 2 if manifest.part == "half" else 1
    height, width = (factor * int(side) for side in images.shape[-2:])
    return f"export with --size {width}x{height}, or set input.scale to fit"


def run_engine(engine: Engine, images: Tensor) -> Tensor:
    """Run an engine; the account of multiply-accumulates sees it."""
    if has_torch_function((images,)):  # somebody counts what is computed
        counted: Tensor = handle_torch_function(run_engine, (images,), engine, images)
        return counted
    return engine(images)


PRICED[run_engine] = lambda engine, images: engine.macs * len(images)


class EngineNetwork(nn.Module):
    """A network whose features an engine computes; the face of `SegmentationNetwork`.

    Its head is torch's. Images of half the engine's size, which are computed where memory of the
    device is short, are torch's as well: an engine of them would take more of it.

    Args:
        net: the network.
        engine: computes its features.

    """

    def __init__(self, net: nn.Module, engine: Engine) -> None:
        """Keep both."""
        super().__init__()
        self.net = net
        self.engine = engine
        self.classes, self.stride = net.classes, net.stride
        self.feature_channels = net.feature_channels

    def features(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to features [N, feature_channels, h, w].

        Raises:
            ModelError: the image is of another size than the engine.

        """
        size = self.engine.manifest.input.shape[-2:]
        half = tuple(-(-side // 2) for side in size)
        if image.device.type == "meta" or tuple(image.shape[-2:]) == half:
            features: Tensor = self.net.features(image)  # type: ignore[operator]  # features() is a method
            return features
        return run_engine(self.engine, image)

    def head(self, features: Tensor) -> Tensor:
        """Map features [N, feature_channels, h, w] to logits [N, classes, h, w]."""
        logits: Tensor = self.net.head(features)  # type: ignore[operator]  # head is a module or method
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to logits [N, classes, h, w]."""
        return self.head(self.features(image))


class _Features(nn.Module):
    """The features of a network, to be counted."""

    def __init__(self, net: nn.Module) -> None:
        """Take the network."""
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Map an image to features."""
        features: Tensor = self.net.features(image)  # type: ignore[operator]  # features() is a method
        return features


def with_engines(
    model: Model, folder: Path, dtype: torch.dtype, machine: Machine, opened: Open
) -> Model:
    """Return a model whose networks are engines: HIGH, and LOW where it has a LOW branch.

    Args:
        model: a loaded model.
        folder: where the engines lie.
        dtype: number format of features.
        machine: what runs them.
        opened: loads an engine and returns what runs it.

    Raises:
        ModelError: an engine is not there, or is one of another network, number format, GPU or
            version of TensorRT, or its file has changed.

    """

    def network(net: nn.Module, part: str, sha256: str) -> EngineNetwork:
        manifest = find_engine(folder, part, model.manifest.name)
        check_engine(manifest, folder, sha256, dtype, machine)
        _, _, height, width = manifest.input.shape
        macs = dense_macs(_Features(net), height, width)
        return EngineNetwork(net, Engine(manifest, opened(folder / manifest.file, manifest), macs))

    high, low = network(model.net, "high", model.manifest.sha256), model.low
    if low is not None and model.manifest.low is not None:
        half = network(low.net, "half", model.manifest.low.sha256)
        branch = build_branch(half, model.manifest.low.fusion)
        branch.fusion = low.fusion
        low = branch.eval().requires_grad_(requires_grad=False)
    return replace(model, net=high.eval(), low=low)


def find_engine(folder: Path, part: str, model: str) -> EngineManifest:
    """Return the manifest of an engine in a folder.

    Raises:
        ModelError: there is none, or it is damaged; the text has the command that makes one.

    """
    path = folder / f"{part}{SUFFIX}"
    if not path.is_file():
        msg = (
            f"device is 'tensorrt', but there is no engine {path}: seg_node export --model "
            f"{model} --size WIDTHxHEIGHT --precision fp16 --parts high,half --formats tensorrt "
            f"--out {folder} (without half where the model has no LOW branch), or choose device "
            "cuda"
        )
        raise ModelError(msg)
    return EngineManifest.read(path)


def check_engine(
    manifest: EngineManifest, folder: Path, sha256: str, dtype: torch.dtype, machine: Machine
) -> None:
    """Refuse an engine that is not for this.

    Args:
        manifest: what it is.
        folder: where it lies.
        sha256: hash of the weights that it has to be made of.
        dtype: number format of features.
        machine: what runs it.

    Raises:
        ModelError: names what differs, both values, and the fix.

    """
    number = str(dtype).removeprefix("torch.")
    for what, have, wanted in (
        ("weights", manifest.network_sha256, sha256),
        ("features in", manifest.output.type, number),
        ("GPU", manifest.gpu, machine.gpu),
        ("TensorRT", manifest.tensorrt, machine.tensorrt),
    ):
        if have != wanted:
            msg = (
                f"engine {manifest.file!r} in {folder} is for {what} {have}, not {wanted}: export "
                f"it anew on this machine, for model {manifest.model!r} or the one that you mean"
            )
            raise ModelError(msg)
    path = folder / manifest.file
    if not path.is_file() or file_sha256(path) != manifest.sha256:
        msg = f"engine {path} is not the file that its manifest describes: export it anew"
        raise ModelError(msg)


def check_bindings(manifest: EngineManifest, found: list[Binding]) -> None:
    """Refuse an engine whose inputs and outputs are not those of its manifest.

    Raises:
        ModelError: names both.

    """
    stated = [manifest.input, manifest.output]
    if sorted(found, key=str) != sorted(stated, key=str):
        msg = (
            f"engine {manifest.file!r} has {_listed(found)}, but its manifest says "
            f"{_listed(stated)}: export it anew"
        )
        raise ModelError(msg)


def _listed(bindings: list[Binding]) -> str:
    return ", ".join(f"{each.name} {each.type} {list(each.shape)}" for each in bindings)
