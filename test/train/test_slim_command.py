"""`train slim` from named data to a smaller model and its record, and what it refuses."""

from __future__ import annotations

import argparse
from dataclasses import replace
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

import pytest

from seg_node.cli import build_parser, main
from seg_node.core.costs import dense_macs
from seg_node.core.types import CAMVID_CLASSES, ConfigError
from seg_node.data.compressed_images import encode_png
from seg_node.nets.build import build_network, load_model
from seg_node.nets.manifest import Manifest
from seg_node.train.arguments import add_slim_arguments, slim_request
from seg_node.train.data_slimming import DataManifest
from seg_node.train.request import slim_command_line, SlimRequest
from seg_node.train.slim_command import SlimJob, train_slim
from seg_node.train.slim_settings import SlimTraining
from test.train.slim_samples import frames, TINY

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASSES = tuple(info.name for info in CAMVID_CLASSES)


def write_folder(root: Path, names: Sequence[str] = CLASSES) -> str:
    """Write labelled pictures, from a plain one to a fine one, and return the data's name."""
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(names))
    for index, picture in enumerate(frames()):
        (root / "images" / f"{index}.png").write_bytes(encode_png(picture.image))
        (root / "labels" / f"{index}.png").write_bytes(encode_png(picture.labels))
    return f"folder:{root}"


def request_for(tmp_path: Path, **settings: Any) -> SlimRequest:
    data = write_folder(tmp_path / "data")
    chosen = replace(TINY, **settings)
    return SlimRequest((data,), tmp_path / "run", settings=chosen)


@pytest.mark.slow
def test_a_folder_becomes_a_smaller_model_with_its_record(tmp_path: Path, trained: str) -> None:
    request = replace(request_for(tmp_path, steps=4), init=trained, name="small")
    out = request.out
    (manifest,) = train_slim(request)
    assert manifest == Manifest.read(out / "small.json")
    assert manifest.slim is not None
    record = json.loads((out / "record.json").read_text())
    model = load_model(str(out / "small.json"))
    whole = build_network("swiftnet18-half", len(CLASSES))
    assert record["inference_macs"] == dense_macs(model.net, 80, 96)
    assert record["normal_inference_macs"] == dense_macs(whole, 80, 96)
    assert record["inference_share"] <= 0.6
    assert record["training_share"] < 0.9
    assert record["normal_training_macs"] == 3 * 4 * 4 * dense_macs(whole, 64, 64)
    assert record["seconds"] > 0.0
    assert record["command"] == manifest.command
    assert manifest.command.startswith(
        "seg_node train slim --data folder:DIR --model swiftnet18-h"
    )
    data = DataManifest.read(out / "data_slimming.json")
    assert [frame.name for frame in data.frames] == [str(index) for index in range(6)]
    assert data.strength == record["data_strength"] > 0.0

    scores = tmp_path / "scores.json"
    words = ["evaluate", request.data[0], "--mode", "dense,warp", "--model"]
    assert main([*words, str(out / "small.json"), "--json", str(scores)]) == 0
    assert set(json.loads(scores.read_text())["modes"]) == {"dense", "warp"}
    with pytest.raises(ConfigError, match="add --resume to continue it"):
        train_slim(request)
    # Frames of other complexity would be shown in another way.
    labels = Path(request.data[0].partition(":")[2]) / "labels"
    (labels / "0.png").write_bytes((labels / "5.png").read_bytes())
    with pytest.raises(ConfigError, match="slimmed_data was"):
        SlimJob(replace(request, resume=True))


def test_the_command_line_sets_what_it_names() -> None:
    parser = argparse.ArgumentParser()
    add_slim_arguments(parser)
    words = "--data street:3 --out x --slim network --inference-macs 0.4 --init swiftnet18-half"
    request = slim_request(parser.parse_args(words.split()))
    assert request.settings == SlimTraining(slim="network", inference_macs=0.4)
    assert request.init == "swiftnet18-half"
    line = slim_command_line(request)
    assert line == (
        "seg_node train slim --data street:3 --model swiftnet18-half --init swiftnet18-half "
        "--slim network --inference-macs 0.4"
    )
    args = build_parser().parse_args(["train", "slim", *words.split()])
    assert args.run.__name__ == "train_slim"


def test_targets_that_cannot_be_are_refused_before_the_first_step(tmp_path: Path) -> None:
    request = request_for(tmp_path, training_macs=0.15, least_keep=0.9)
    with pytest.raises(ConfigError, match=r"the 6 frames may cost .* remain with all of them"):
        SlimJob(request)
    assert not request.out.exists()


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = argparse.Namespace(rank=0, world=2, neighbours=2)
    monkeypatch.setattr("seg_node.train.distributed.join", lambda: share)
    with pytest.raises(ConfigError, match="slimming is done by one process, not 2"):
        SlimJob(request_for(tmp_path))
