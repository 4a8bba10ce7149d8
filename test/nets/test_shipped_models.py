"""What ships loads, is what its manifest says, and labels real and synthetic streets sensibly."""

from __future__ import annotations

from pathlib import Path

import pytest

from seg_node.core.config import Config
from seg_node.data.datasets import CamVid, StreetClip
from seg_node.eval.evaluate import evaluate, Selection
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.session import open_sessions
from seg_node.nets.build import load_model
from seg_node.nets.manifest import list_models

NAMES = [manifest.name for manifest in list_models()]


def test_the_default_model_ships() -> None:
    assert Config().model in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_strictly_and_states_data_terms_and_origin(name: str) -> None:
    manifest = load_model(name).manifest
    for text in (manifest.data, manifest.terms, manifest.command, manifest.commit):
        assert text
    assert manifest.scores
    card = Path(__file__).parents[2] / "models" / f"{name}.md"
    assert manifest.sha256[:12] in card.read_text(), "the card describes other weights"


@pytest.mark.slow
@pytest.mark.camvid
@pytest.mark.parametrize("name", NAMES)
def test_it_reaches_the_score_of_its_manifest_on_camvid(name: str, camvid_dir: Path) -> None:
    sessions = open_sessions(Config(model=name, device="cpu", mode="dense"))
    manifest = sessions["dense"].manifest
    pooled = ConfusionMatrix(len(manifest.classes))
    for sample in CamVid(camvid_dir, "val"):
        assert sample.labels is not None
        pooled.update(sample.labels, sessions["dense"].step(sample.frame).labels)
    miou = pooled.dataset_miou()
    assert miou is not None
    assert miou >= 0.55
    assert miou == pytest.approx(manifest.scores["camvid_val_miou"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_labels_the_synthetic_street(name: str) -> None:
    sessions = open_sessions(Config(model=name, device="cpu", mode="dense"))
    results = evaluate(StreetClip(1), sessions, Selection(stride=10, limit=6))
    dense = results["modes"]["dense"]
    assert dense["pixel_accuracy"] > 0.85
