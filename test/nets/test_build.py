"""Models load strictly: by name, by hash, by every key."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file
import torch
from torch import nn

from seg_node.core.types import ModelError
from seg_node.nets.build import build_network, fold_batchnorm, load_model
from seg_node.nets.manifest import file_sha256, find_manifest, list_models, Manifest, models_dir
from seg_node.nets.resnet import conv_bn
from seg_node.nets.weights import load_weights, save_weights

if TYPE_CHECKING:
    from pathlib import Path

NAME = "swiftnet18-half"


@pytest.fixture
def models(random_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the test models that a test may damage, in force as the models folder."""
    folder = tmp_path / "models"
    shutil.copytree(random_models, folder)
    monkeypatch.setenv("SEG_NODE_MODELS", str(folder))
    return folder


def rewrite(models: Path, **changes: object) -> None:
    path = models / f"{NAME}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_loads_by_name_and_by_path(models: Path) -> None:
    by_name = load_model(NAME)
    by_path = load_model(str(models / f"{NAME}.json"))
    image = torch.rand(1, 3, 32, 32) * 255
    assert torch.equal(by_name.net(image), by_path.net(image))
    assert by_name.manifest.classes[8].name == "Car"
    assert not by_name.net.training


def test_folded_and_unfolded_agree(models: Path) -> None:
    assert models
    image = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        plain = load_model(NAME, fold=False).net(image)
        torch.testing.assert_close(load_model(NAME).net(image), plain, rtol=1e-4, atol=1e-3)


def test_manifest_survives_writing_and_reading(models: Path, tmp_path: Path) -> None:
    manifest, folder = find_manifest(NAME)
    assert folder == models
    assert Manifest.read(manifest.write(tmp_path)) == manifest
    assert list_models() == (manifest,)


def test_unknown_model_lists_what_is_there(models: Path) -> None:
    assert models
    with pytest.raises(ModelError, match="unknown model 'yolo'; shipped: swiftnet18-half"):
        load_model("yolo")


def test_unknown_network_is_refused(models: Path) -> None:
    rewrite(models, network="resnet1")
    with pytest.raises(
        ModelError, match="unknown network 'resnet1'; known: bisenet18, bisenet18-half, pspnet18"
    ):
        load_model(NAME)


def test_a_changed_byte_is_noticed(models: Path) -> None:
    path = models / f"{NAME}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="its manifest says"):
        load_model(NAME)


def test_missing_weights_are_named(models: Path) -> None:
    (models / f"{NAME}.safetensors").unlink()
    with pytest.raises(ModelError, match=r"swiftnet18-half\.safetensors, which is missing"):
        load_model(NAME)


@pytest.mark.parametrize("damage", ["missing", "unexpected", "misshapen"])
def test_keys_must_match_exactly(models: Path, damage: str) -> None:
    path = models / f"{NAME}.safetensors"
    weights = load_file(path)
    if damage == "missing":
        del weights["head.bias"]
    elif damage == "unexpected":
        weights["extra.weight"] = torch.zeros(1)
    else:
        weights["head.bias"] = torch.zeros(3)
    save_file(weights, path)
    rewrite(models, sha256=file_sha256(path))
    with pytest.raises(ModelError, match="extra" if damage == "unexpected" else "head.bias"):
        load_model(NAME)


def test_a_file_that_is_no_safetensors_is_named(models: Path) -> None:
    path = models / f"{NAME}.safetensors"
    path.write_bytes(b"not weights")
    rewrite(models, sha256=file_sha256(path))
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_model(NAME)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}'])
def test_a_broken_manifest_is_named(models: Path, text: str) -> None:
    (models / "broken.json").write_text(text)
    with pytest.raises(ModelError, match=r"broken\.json is not a model manifest"):
        load_model("broken")


def test_no_models_anywhere_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEG_NODE_MODELS", str(tmp_path))
    with pytest.raises(ModelError, match="set SEG_NODE_MODELS to their folder"):
        models_dir()


def test_weights_are_float32_and_fit_the_network(models: Path) -> None:
    weights = load_file(models / f"{NAME}.safetensors")
    own = build_network(NAME, 11).state_dict()
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in own.items()}


def small_net() -> nn.Sequential:
    """Return two layers with parameters, statistics and a counter."""
    torch.manual_seed(1)
    return nn.Sequential(conv_bn(3, 4, 3), conv_bn(4, 2, 1))


def test_half_precision_weights_load_exactly_into_float32(tmp_path: Path) -> None:
    net = small_net().train()
    net(torch.rand(2, 3, 8, 8) * 255)
    net.get_buffer("0.1.running_var")[0] = 1e6  # above float16's range
    sha256 = save_weights(net, tmp_path / "half", torch.float16)
    assert sha256 == file_sha256(tmp_path / "half")
    stored = load_file(tmp_path / "half")
    assert stored["0.0.weight"].dtype == torch.float16
    assert stored["0.1.num_batches_tracked"].dtype == torch.int64
    loaded = nn.Sequential(conv_bn(3, 4, 3), conv_bn(4, 2, 1))
    load_weights(loaded, tmp_path / "half")
    parameters = dict(net.named_parameters())
    for key, value in loaded.state_dict().items():
        assert value.dtype == net.state_dict()[key].dtype
        expected = parameters[key].half().float() if key in parameters else net.state_dict()[key]
        assert torch.equal(value, expected), key


def test_single_precision_is_the_default_and_exact(tmp_path: Path) -> None:
    net = small_net()
    save_weights(net, tmp_path / "single")
    stored = load_file(tmp_path / "single")
    assert all(torch.equal(stored[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_tied_weights_are_written_twice(tmp_path: Path, dtype: torch.dtype) -> None:
    conv = nn.Conv2d(2, 2, 1)
    save_weights(nn.Sequential(conv, conv), tmp_path / "tied", dtype)
    stored = load_file(tmp_path / "tied")
    assert set(stored) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert {v.dtype for v in stored.values()} == {dtype}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 7e4])
def test_values_that_do_not_survive_are_not_written(tmp_path: Path, value: float) -> None:
    net = small_net()
    with torch.no_grad():
        net.get_parameter("1.0.weight")[0, 0] = value
    with pytest.raises(ModelError, match=r"1\.0\.weight has values that are not finite"):
        save_weights(net, tmp_path / "net", torch.float16)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32])
def test_weights_that_would_be_rounded_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    net = small_net()
    weights = net.state_dict() | {"0.0.weight": net.state_dict()["0.0.weight"].to(dtype)}
    save_file(weights, tmp_path / "net")
    with pytest.raises(ModelError, match=rf"0\.0\.weight is {dtype}, not torch.float32"):
        load_weights(net, tmp_path / "net")


class ActivatingNorm(nn.BatchNorm2d):
    """Like timm's: normalises and activates."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise, then cut at zero."""
        return super().forward(x).relu()


def test_folding_leaves_layers_alone_that_do_more() -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 1), ActivatingNorm(2))).eval()
    image = torch.randn(1, 3, 4, 4)
    before = net(image)
    assert torch.equal(fold_batchnorm(net)(image), before)
    assert before.min() == 0
