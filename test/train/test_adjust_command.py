"""`train adjust`: the same features with other offsets; what goes by features still fits."""

from __future__ import annotations

from dataclasses import replace
import json
import math
import shutil
from typing import cast, TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.cli import main
from seg_node.core.types import ConfigError, ModelError
from seg_node.nets.build import load_model
from seg_node.nets.low import build_branch
from seg_node.nets.manifest import find_manifest, LowWeights, models_dir, weights_problem
from seg_node.nets.weights import save_weights
from seg_node.train.adjust_command import adjust
from seg_node.train.request import adjust_command_line, AdjustRequest
from test.train.test_policy_command import write_folder

if TYPE_CHECKING:
    from pathlib import Path

    from seg_node.core.execution import SegmentationNetwork

MODEL = "swiftnet18-half"
"""Has a policy, and a LOW branch that blends results."""


def images() -> torch.Tensor:
    rng = np.random.default_rng(5)
    return torch.from_numpy(rng.integers(256, size=(2, 3, 64, 96)).astype(np.uint8))


@torch.inference_mode()
def test_only_offsets_change_and_what_belongs_to_the_model_comes_along(tmp_path: Path) -> None:
    request = AdjustRequest((write_folder(tmp_path / "data"),), tmp_path / "run", model=MODEL)
    told: list[int] = []
    found = adjust(replace(request, name="mine"), told.append)
    assert told == [1, 2]
    path = tmp_path / "run" / "mine.json"
    manifest, folder = find_manifest(str(path))
    assert manifest == found.manifest
    assert weights_problem(manifest, folder) == ""
    base, new = (load_model(name, fold=False) for name in (MODEL, str(path)))
    seen = images()
    before, after = (cast("SegmentationNetwork", model.net) for model in (base, new))
    assert torch.equal(before.features(seen), after.features(seen))
    offsets = torch.tensor(list(found.offsets.values()))
    assert list(found.offsets) == [info.name for info in manifest.classes]
    moved = new.net(seen) - base.net(seen)
    torch.testing.assert_close(
        moved, offsets[None, :, None, None].expand_as(moved), atol=5e-3, rtol=0
    )
    assert offsets.abs().max() > 0.1
    assert found.gain.after > found.gain.before
    assert base.policy is not None
    assert new.policy is not None
    old, own = base.policy.state_dict(), new.policy.state_dict()
    assert all(torch.equal(old[key], own[key]) for key in old)
    assert (manifest.terms, manifest.commit, manifest.scores) == ("", "", {})
    assert manifest.data.endswith("; logits adjusted on folder (train)")
    assert manifest.command.endswith("; seg_node train adjust --data folder:DIR --model " + MODEL)


def test_the_command_says_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "run"
    assert main(["train", "adjust", "--data", data, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "Bicyclist" in told
    assert "held out" in told
    assert str(out / f"{MODEL}.json") in told
    written = json.loads((out / f"{MODEL}.json").read_text())
    assert written["policy"]["network_sha256"] == written["sha256"]


@pytest.mark.parametrize("fusion", ["gated", "blend"])
def test_a_branch_that_blends_results_is_left_out_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fusion: str
) -> None:
    manifest, folder = find_manifest(MODEL)
    assert manifest.policy is not None
    shutil.copyfile(folder / manifest.file, tmp_path / manifest.file)
    shutil.copyfile(folder / manifest.policy.file, tmp_path / manifest.policy.file)
    branch = build_branch(load_model(MODEL, fold=False).net, fusion)
    sha256 = save_weights(branch, tmp_path / "low.safetensors")
    low = LowWeights("low.safetensors", sha256, fusion, manifest.sha256, "", "")
    path = replace(manifest, low=low).write(tmp_path)
    data, out = write_folder(tmp_path / "data"), tmp_path / "run"
    words = ["train", "adjust", "--data", data, "--out", str(out), "--model", str(path)]
    assert main(words) == 0
    new = load_model(str(out / f"{MODEL}.json"), fold=False)
    told = "the LOW branch blends results, which are others now" in capsys.readouterr().out
    assert told == (fusion == "blend")
    assert (new.low is None) == told
    if new.low is not None:
        assert all(torch.equal(v, new.low.state_dict()[k]) for k, v in branch.state_dict().items())


def test_a_part_of_the_offsets_is_added_and_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = AdjustRequest((write_folder(tmp_path / "data"),), tmp_path / "whole", model=MODEL)
    whole = adjust(request)
    words = ["train", "adjust", "--data", *request.data, "--out", str(tmp_path / "part")]
    assert main([*words, "--strength", "0.25"]) == 0
    told = capsys.readouterr().out
    base, part = (
        load_model(name, fold=False).net.get_parameter("head.bias")
        for name in (MODEL, str(tmp_path / "part" / f"{MODEL}.json"))
    )
    expected = 0.25 * torch.tensor(list(whole.offsets.values()))
    torch.testing.assert_close(part - base, expected, atol=5e-3, rtol=0)
    sky = next(iter(whole.offsets.values()))
    assert f"Sky          {0.25 * sky:+.3f}" in told
    assert f"-> {whole.gain.after:.4f} on these frames" not in told


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    request = AdjustRequest((data,), tmp_path / "run")
    with pytest.raises(ConfigError, match="--name is 'a/b'"):
        adjust(replace(request, name="a/b"))
    with pytest.raises(ConfigError, match="where the model itself lies"):
        adjust(replace(request, out=models_dir()))
    for strength in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(ConfigError, match=r"--strength is .*; allowed are numbers above 0"):
            adjust(replace(request, strength=strength))
    with pytest.raises(ModelError, match="unknown model 'nobody'"):
        adjust(replace(request, model="nobody"))
    other = write_folder(tmp_path / "other", ("ground", "sky"))
    with pytest.raises(ModelError, match="train the model for them first"):
        adjust(replace(request, data=(other,)))
    assert not (tmp_path / "run").exists()


def test_the_command_line_has_no_path_of_this_machine(tmp_path: Path) -> None:
    request = AdjustRequest((f"camvid:{tmp_path}",), tmp_path, split="val", model="/a/b/m.json")
    told = adjust_command_line(request)
    assert told == "seg_node train adjust --data camvid:DIR --split val --model m.json"
    half = adjust_command_line(replace(request, strength=0.5))
    assert half == f"{told} --strength 0.5"
