"""Models load strictly: by name, by hash, by every key."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file
import torch

from seg_node.core.types import ModelError
from seg_node.nets.build import (
    build_network,
    file_sha256,
    find_manifest,
    list_models,
    load_model,
    Manifest,
    models_dir,
)

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
    with pytest.raises(ModelError, match="unknown network 'resnet1'; known: swiftnet18"):
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
