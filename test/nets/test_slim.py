"""Slimmed networks: rebuilt from their manifest, in blocks and in every mode; what is refused."""

from __future__ import annotations

from dataclasses import replace
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.blocks import BlockLayout, grid_shape
from seg_node.core.config import Config
from seg_node.core.costs import dense_macs
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import Interval
from seg_node.core.sparse import split
from seg_node.core.types import Action, CAMVID_CLASSES, Frame, ModelError
from seg_node.data.street import Street
from seg_node.nets.build import build_network, build_policies, fold_batchnorm, load_model
from seg_node.nets.low import LowBranch
from seg_node.nets.manifest import Manifest, Slimming
from seg_node.nets.resnet import Removed
from seg_node.nets.slim import resize, slimming_of
from seg_node.nets.weights import save_weights
from seg_node.train.channels import trace_channels
from seg_node.train.surgery import Cut, cut_out
from test.train.slim_samples import shipped

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

SIDE = 64
NETWORKS = ("swiftnet18-half", "bisenet18")


def slimmed(name: str, classes: int = 5) -> nn.Module:
    """Return a network with two thirds of its channels, without one scale of each kind."""
    net = shipped(name, classes)
    graph = trace_channels(net, 64, 64)
    kept = {g: torch.arange(0, graph.sizes[g])[::3] for g in graph.normed()}
    removed: tuple[str, ...] = ()
    if name == "swiftnet18-half":
        removed = ("pyramid.branches.1", "decoder.0.lateral")
        kept |= {group: torch.arange(0) for group in graph.owned(removed[0])}
    return cut_out(net, Cut(graph, kept, removed))


def manifest_of(net: nn.Module, folder: Path) -> Manifest:
    """Write a slimmed network as a model."""
    whole = build_network("swiftnet18-half", len(CAMVID_CLASSES))
    made = Manifest(
        name="slim",
        network="swiftnet18-half",
        file="slim.safetensors",
        sha256=save_weights(net, folder / "slim.safetensors"),
        classes=CAMVID_CLASSES,
        training_size=(96, 64),
        data="none",
        terms="none",
        command="test",
        commit="",
        scores={},
        slim=slimming_of(net, whole),
    )
    made.write(folder)
    return made


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slim")
    manifest_of(slimmed("swiftnet18-half", len(CAMVID_CLASSES)), folder)
    return folder / "slim.json"


def test_a_manifest_rebuilds_the_network(model_file: Path) -> None:
    net = slimmed("swiftnet18-half", len(CAMVID_CLASSES)).eval()
    model = load_model(str(model_file), fold=False)
    image = torch.rand(1, 3, 70, 90) * 255
    with torch.no_grad():
        assert torch.equal(model.net(image), net(image))
        features = model.net.features(image)  # type: ignore[operator]  # features() is a method
    assert features.shape[1] == model.net.feature_channels == 22
    assert isinstance(model.net.get_submodule("decoder.0.lateral"), Removed)
    assert model.manifest == Manifest.read(model_file)
    whole = build_network("swiftnet18-half", len(CAMVID_CLASSES))
    assert dense_macs(model.net, 70, 90) < 0.2 * dense_macs(whole, 70, 90)
    assert set(model.net.state_dict()) < set(whole.state_dict())


def test_weights_of_other_channels_are_refused(model_file: Path, tmp_path: Path) -> None:
    raw = json.loads(model_file.read_text())
    (tmp_path / "slim.safetensors").write_bytes((model_file.parent / raw["file"]).read_bytes())
    other = tmp_path / "slim.json"
    other.write_text(json.dumps({**raw, "slim": None}))
    with pytest.raises(ModelError, match=r"does not fit the network"):
        load_model(str(other))
    raw["slim"]["channels"]["encoder.stem.0"] = [12, 3]
    other.write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=r"layers of the slimmed SwiftNet do not fit together"):
        load_model(str(other))
    other.write_text(json.dumps({**raw, "slim": {"channels": []}}))
    with pytest.raises(ModelError, match=r"slim.json is not a model manifest: KeyError"):
        load_model(str(other))


@pytest.mark.parametrize(
    ("slimming", "text"),
    [
        (Slimming({"encoder.stem.7": (8, 3)}), r"no convolution or BatchNorm 'encoder.stem.7'"),
        (Slimming({"encoder.stem.0": (33, 3)}), r"\(32, 3\) channels, .* slimmed to \(33, 3\)"),
        (Slimming({"encoder.stem.0": (0, 3)}), r"cannot be slimmed to \(0, 3\)"),
        (Slimming({"encoder.stem.1": (8, 3)}), r"\(32,\) channels"),
        (Slimming({}, ("encoder",)), r"encoder cannot be left out of a SwiftNet; removable: pyr"),
    ],
)
def test_what_is_no_slimmer_network_is_refused(slimming: Slimming, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        resize(build_network("swiftnet18-half", 5), slimming)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(64, 128), (71, 69)], ids=str)
def test_law_1_all_blocks_high_is_the_slimmed_network(name: str, size: tuple[int, int]) -> None:
    net = fold_batchnorm(slimmed(name).eval()).double()
    image = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(0))
    grid = np.full((1, *grid_shape(*size, SIDE)), Action.HIGH, np.uint8)
    with torch.no_grad():
        expected = net(image.double())
        found = net(split(image.double(), BlockLayout(grid, SIDE, size)))
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(found.combined(), expected, rtol=1e-9, atol=1e-9)


def test_it_runs_in_every_mode(model_file: Path) -> None:
    model = load_model(str(model_file))
    config = Config(model=str(model_file), precision="fp32", block_size=SIDE).updated(
        {"policy.score": "heuristic"}
    )
    policies = build_policies(model, config)
    low = LowBranch(load_model(str(model_file)).net).eval()
    policies["arseg"] = Interval(Action.LOW)
    street = Street(3)
    images = [street.picture(index)[0][150:214, 200:328].copy() for index in range(2)]
    segmenter = Segmenter(model.net, policies, config, low)
    assert {"dense", "warp", "segblocks", "arseg", "adaptive"} <= policies.keys()
    for mode in policies:
        segmenter.reconfigure(replace(config, mode=mode))
        segmenter.reset()
        costs = []
        for index, image in enumerate(images):
            result = segmenter.step(Frame(image, stamp_ns=index * 10**8))
            assert result.labels.shape == (64, 128)
            costs.append(result.report.macs)
        assert costs[0] <= dense_macs(model.net, 64, 128) * 1.01
