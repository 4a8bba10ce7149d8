"""The command line: help, settings, one-line errors, and scoring from end to end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.cli import build_parser, main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Return a folder of two labelled pictures."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        image = cv2.resize(rng.integers(0, 255, (4, 5, 3)).astype(np.uint8), (80, 64))
        labels = np.full((64, 80), index, np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), image)
        cv2.imwrite(str(tmp_path / "labels" / f"{index}.png"), labels)
    return tmp_path


def test_help_needs_neither_torch_nor_ros() -> None:
    code = (
        "import sys; from seg_node.cli import build_parser; build_parser().format_help(); "
        "print([m for m in ('torch', 'rclpy', 'cv2') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        "run",
        "replay",
        "evaluate",
        "bench",
        "train",
        "label",
        "models",
        "export",
        "doctor",
    ],
)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        build_parser().parse_args([verb, "--help"])
    assert exit_info.value.code == 0
    assert verb in capsys.readouterr().out


def test_evaluate_scores_a_folder_and_writes_the_contracts_keys(
    labelled: Path, random_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    out = labelled / "scores.json"
    assert main(["evaluate", f"folder:{labelled}", "--mode", "dense", "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert set(results) >= {"data", "model", "device", "versions", "config", "modes"}
    dense = results["modes"]["dense"]
    assert set(dense) >= {
        "miou", "class_iou", "pixel_accuracy", "agreement", "temporal_consistency",
        "gmac_per_frame", "gmac_saving", "ms", "fps", "speedup_vs_dense", "age_ms", "fractions",
        "frames", "dropped",
    }  # fmt: skip
    assert dense["frames"] == 2
    assert 0 <= dense["miou"] <= 1
    assert dense["gmac_saving"] == 0
    assert dense["fractions"] == {"high": 1.0, "low": 0.0, "reuse": 0.0, "gated": None}
    assert set(dense["ms"]) == {"p50", "p95", "p99", "max", "mean"}


def test_a_list_of_modes_is_run_in_its_order(
    labelled: Path, random_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    out = labelled / "scores.json"
    arguments = ["evaluate", f"folder:{labelled}", "--mode", "segblocks,dense"]
    assert main([*arguments, "--set", "policy.score=middle", "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert list(results["modes"]) == ["segblocks", "dense"]
    assert results["config"]["mode"] == "segblocks,dense"
    segblocks, dense = results["modes"].values()
    assert segblocks["frames"] == dense["frames"] == 2
    assert segblocks["fractions"]["low"] > 0 == dense["fractions"]["low"]
    assert segblocks["gmac_saving"] > 0 == dense["gmac_saving"]
    assert 0 < segblocks["agreement"]["pixel"] < 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["evaluate", "moon:1"], "cannot open data 'moon:1'; name it as one of camvid:DIR"),
        (["evaluate", "street:1", "--set", "input.scale=9"], "input.scale is 9.0; allowed are"),
        (["evaluate", "street:1", "--set", "input.scale=big"], "input.scale is 'big'; expected"),
        (["evaluate", "street:1", "--set", "cameras=left,left"], "cameras has 'left' twice"),
        (["evaluate", "street:1", "--set", "speed=1"], "expected NAME=VALUE with NAME one of"),
        (["evaluate", "street:1", "--mode", "fast"], "mode is 'fast'; choose one of dense"),
        (["evaluate", "street:1", "--mode", "dense,"], "mode is ''; choose one of dense"),
        (["replay", "street:1", "--mode", "dense,fast"], "mode is 'fast'; choose one of dense"),
        (["replay", "street:1", "--set", "mode=dense,dense"], "mode 'dense' is named 2 times"),
        (["bench", "--mode", "fast,dense"], "mode is 'fast'; choose one of dense"),
        (["bench", "--size", "0x720"], "size is 0x720; each side may be 16 to 8192 pixels"),
        (["bench", "--frames", "0"], "frames is 0; use 1 or more"),
        (["bench", "--data", "/nowhere"], "'/nowhere' does not exist"),
        (["evaluate", "street:1", "--model", "yolo"], "unknown model 'yolo'"),
        (["evaluate", "camvid:/nowhere"], "/nowhere is not CamVid"),
        (["train", "segment", "--data", "folder:/nowhere", "--out", "x"], "/nowhere"),
        (["train", "segment", "--data", "street:1", "--out", "x", "--batch", "0"], "batch is 0"),
        (["label", "/nowhere", "--out", "x"], "'/nowhere' does not exist"),
    ],
)
def test_mistakes_are_one_line_on_stderr(
    arguments: list[str],
    text: str,
    random_models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert text in error
    assert error.startswith("seg_node: ")
    assert error.count("\n") == 1


def test_data_without_labels_cannot_be_scored(
    labelled: Path,
    random_models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    assert main(["evaluate", f"folder:{labelled / 'images'}"]) == 1
    assert "has no labels to score" in capsys.readouterr().err


def test_models_are_listed_and_damage_is_an_error(
    random_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    assert main(["models", "--json", str(tmp_path / "list.json")]) == 0
    assert json.loads((tmp_path / "list.json").read_text())[0]["intact"] is True
    without_weights = tmp_path / "models"
    without_weights.mkdir()
    manifest = (random_models / "swiftnet18-half.json").read_text()
    (without_weights / "swiftnet18-half.json").write_text(manifest)
    monkeypatch.setenv("SEG_NODE_MODELS", str(without_weights))
    assert main(["models"]) == 1
    assert "DAMAGED" in capsys.readouterr().out


def test_models_names_what_is_damaged_and_still_lists_the_others(
    random_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = tmp_path / "models"
    shutil.copytree(random_models, models)
    manifest = json.loads((models / "swiftnet18-half.json").read_text())
    manifest |= {"name": "changed", "sha256": "0" * 64, "scores": {"camvid_val_miou": 0.5}}
    (models / "changed.json").write_text(json.dumps(manifest))
    monkeypatch.setenv("SEG_NODE_MODELS", str(models))
    out = tmp_path / "list.json"
    assert main(["models", "--json", str(out)]) == 1
    assert [row["intact"] for row in json.loads(out.read_text())] == [False, True]
    changed, intact = capsys.readouterr().out.splitlines()
    assert changed.startswith("changed: DAMAGED: ")
    assert "swiftnet18-half.safetensors has sha256" in changed
    assert "camvid_val_miou 0.5000" in changed
    assert intact.startswith("swiftnet18-half: intact")


@pytest.fixture
def with_card(random_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a models folder in force whose one model has a card."""
    models = tmp_path / "models"
    shutil.copytree(random_models, models)
    (models / "swiftnet18-half.md").write_text("# The card\n\n| a | b |\n|---|---|\n| 1 | ü |\n")
    monkeypatch.setenv("SEG_NODE_MODELS", str(models))
    return models


def test_models_prints_a_card_as_it_is_to_a_pipe(
    with_card: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--card", "swiftnet18-half"]) == 0
    assert capsys.readouterr().out == (with_card / "swiftnet18-half.md").read_text()


def test_models_lays_a_card_out_on_a_terminal(
    with_card: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_card
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["models", "--card", "swiftnet18-half"]) == 0
    out = capsys.readouterr().out
    assert "The card" in out
    assert "ü" in out
    assert "|---|" not in out


def test_models_says_which_card_is_missing(
    with_card: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (with_card / "swiftnet18-half.md").unlink()
    assert main(["models", "--card", "swiftnet18-half"]) == 1
    assert "model 'swiftnet18-half' has no card; write " in capsys.readouterr().err
    assert main(["models", "--card", "yolo"]) == 1
    assert "unknown model 'yolo'" in capsys.readouterr().err
