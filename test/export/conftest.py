"""A model of the user's own with every part, exported once for all tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
import hashlib
import json
import sys
from typing import Any, TYPE_CHECKING

import pytest
import torch

from seg_node.cli import main
from seg_node.core.types import CAMVID_CLASSES
from seg_node.nets.build import build_network
from seg_node.nets.decision import ComplexityNet
from seg_node.nets.low import LowBranch
from seg_node.nets.manifest import LowWeights, Manifest, PolicyWeights
from seg_node.nets.weights import save_weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn

NETWORK = """
from torch import nn
from torch.nn.functional import interpolate

class Small(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classes, self.stride, self.feature_channels = classes, 4, 8
        self.body = nn.Conv2d(3, 8, 5, stride=4, padding=2)
        self.deep = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.last = nn.Conv2d(8, classes, 1)
    def features(self, image):
        x = self.body(image.to(self.last.weight.dtype) / 255).relu()
        deep = interpolate(self.deep(x).relu(), scale_factor=2, mode="bilinear")
        return x + deep[..., : x.shape[-2], : x.shape[-1]]
    def head(self, features):
        return self.last(features)
    def forward(self, image):
        return self.head(self.features(image))
"""
"""Its `head` is a method, where ours are modules."""


@dataclass(frozen=True)
class Exported:
    """One export of all parts.

    Attributes:
        manifest: path of the model's manifest.
        folder: where the files lie.
        report: what `export.json` says.

    """

    manifest: Path
    folder: Path
    report: dict[str, Any]


@pytest.fixture(scope="session")
def own_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the manifest of a small plug-in network with a policy and a LOW branch."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "export_net.py").write_text(NETWORK)
    sys.path.insert(0, str(folder))
    torch.manual_seed(3)
    network = "export_net:Small"
    net, low_net = (build_network(network, len(CAMVID_CLASSES)) for _ in range(2))
    sha256 = save_weights(net, folder / "own.safetensors")
    low = LowBranch(low_net)
    for module in low.fusion.modules():
        if isinstance(module, torch.nn.Conv2d):  # fresh ones find nothing or all
            torch.nn.init.normal_(module.weight, std=0.5)
    policy = ComplexityNet(8)
    manifest = Manifest(
        name="own",
        network=network,
        file="own.safetensors",
        sha256=sha256,
        classes=CAMVID_CLASSES,
        training_size=(96, 64),
        data="none: random weights for tests",
        terms="none",
        command="test/export/conftest.py",
        commit="",
        scores={},
    )
    known = {"network_sha256": sha256, "command": "", "commit": ""}
    policy_file, low_file = written(folder, "policy", policy), written(folder, "low", low)
    manifest = replace(
        manifest,
        policy=PolicyWeights(**policy_file, block_size=24, channels=8, **known),
        low=LowWeights(**low_file, fusion="gated", **known),
    )
    yield manifest.write(folder)
    sys.path.remove(str(folder))
    sys.modules.pop("export_net")


def written(folder: Path, name: str, net: nn.Module) -> dict[str, Any]:
    """Write weights and return what a manifest says of the file."""
    file = f"{name}.safetensors"
    return {"file": file, "sha256": save_weights(net, folder / file)}


@pytest.fixture(scope="session")
def exported(own_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return an export of every part of the small model."""
    folder = tmp_path_factory.mktemp("exported")
    arguments = ["export", "--model", str(own_model), "--out", str(folder)]
    assert main([*arguments, "--opset", "20"]) == 0
    report = json.loads((folder / "export.json").read_text())
    return Exported(own_model, folder, report)


def sha256_of(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
