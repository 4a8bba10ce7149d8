"""What is known of model files: manifests, where they lie, whether they are intact."""

from __future__ import annotations

from dataclasses import asdict, dataclass
import hashlib
import json
import os
from pathlib import Path
import sys
from typing import Any

from seg_node.core.types import ClassInfo, ModelError

MODELS_ENV = "SEG_NODE_MODELS"
"""Environment variable that names another folder of models."""


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
class LowWeights:
    """What is known of the half-resolution branch that belongs to a model.

    Attributes:
        file: weights file beside the manifest; network and fusion.
        sha256: hash of that file.
        fusion: key of `core.fusion.FUSIONS`, or `nets.low.BLEND`.
        network_sha256: hash of the weights of the network whose features it was trained to make.
        command: command that trained it.
        commit: commit that trained it.
        network: key of `NETWORKS`, or a user's own network; None for that of the model, slimmed
            as that is.

    """

    file: str
    sha256: str
    fusion: str
    network_sha256: str
    command: str
    commit: str
    network: str | None = None


@dataclass(frozen=True)
class GateWeights:
    """What is known of the gates of a model.

    Attributes:
        file: weights file beside the manifest.
        sha256: hash of that file.
        network_sha256: hash of the weights of the network that they were trained with.
        block_size: side of the bins that they were trained on, in pixels.
        command: command that trained them.
        commit: commit that trained them.

    """

    file: str
    sha256: str
    network_sha256: str
    block_size: int
    command: str
    commit: str


@dataclass(frozen=True)
class Slimming:
    """What a slimmed network lacks of the one that its name builds; see `nets/slim.py`.

    Attributes:
        channels: (out, in) of every convolution and (channels,) of every BatchNorm that is
            smaller, by the name of the layer.
        removed: names of modules that are gone altogether.

    """

    channels: dict[str, tuple[int, ...]]
    removed: tuple[str, ...] = ()

    @staticmethod
    def parse(raw: dict[str, Any]) -> Slimming:
        """Read what `asdict` and JSON made of it.

        Raises:
            KeyError, TypeError, ValueError: it is no such thing.

        """
        channels = {name: tuple(map(int, sizes)) for name, sizes in dict(raw["channels"]).items()}
        return Slimming(channels, tuple(map(str, raw["removed"])))


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
        low: the half-resolution branch of mode arseg; None if it has none.
        slim: which channels the network lacks; None if it has all of them.
        gate: the gates of mode stmg; None if nobody trained them.

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
    low: LowWeights | None = None
    slim: Slimming | None = None
    gate: GateWeights | None = None

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
            if raw.get("low") is not None:
                raw["low"] = LowWeights(**raw["low"])
            if raw.get("gate") is not None:
                raw["gate"] = GateWeights(**raw["gate"])
            if raw.get("slim") is not None:
                raw["slim"] = Slimming.parse(raw["slim"])
            return Manifest(**raw)
        except (OSError, ValueError, KeyError, TypeError) as err:
            msg = f"{path} is not a model manifest: {err!r}"
            raise ModelError(msg) from err

    def write(self, folder: Path) -> Path:
        """Write `<name>.json` into a folder and return its path."""
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
        return path


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
    for part, known in (
        ("policy", manifest.policy),
        ("LOW branch", manifest.low),
        ("gate", manifest.gate),
    ):
        if known is None:
            continue
        files[known.file] = known.sha256
        if known.network_sha256 != manifest.sha256:
            return (
                f"the {part} of model {manifest.name!r} was trained with weights "
                f"{known.network_sha256}, the model has {manifest.sha256}; train it again"
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
