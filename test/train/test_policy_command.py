"""`train policy` from a model and named data to a model with a policy, and what it refuses."""

from __future__ import annotations

import argparse
from dataclasses import replace
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any, TYPE_CHECKING

import pytest
from safetensors.torch import load_file
import torch

from seg_node.cli import main
from seg_node.core.types import CAMVID_CLASSES, ConfigError, ModelError
from seg_node.data.compressed_images import encode_png
from seg_node.nets.build import load_model
from seg_node.nets.manifest import file_sha256, Manifest
from seg_node.train.arguments import add_policy_arguments, policy_request
from seg_node.train.policy_command import PolicyJob, train_policy
from seg_node.train.policy_settings import PolicyTraining
from seg_node.train.request import policy_command_line, PolicyRequest
from test.train.samples import halves
from test.train.test_policy import TINY

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 240
CLASSES = tuple(info.name for info in CAMVID_CLASSES)


def write_folder(root: Path, names: Sequence[str] = CLASSES) -> str:
    """Write two labelled pictures and return the data's name."""
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(names))
    for index, picture in enumerate(halves(2)):
        (root / "images" / f"{index}.png").write_bytes(encode_png(picture.image))
        (root / "labels" / f"{index}.png").write_bytes(encode_png(picture.labels))
    return f"folder:{root}"


def request_for(tmp_path: Path, **settings: Any) -> PolicyRequest:
    data = write_folder(tmp_path / "data")
    chosen = replace(TINY, steps=2, random_share=0.0, policy_channels=16, **settings)
    return PolicyRequest((data,), tmp_path / "run", settings=chosen)


@pytest.mark.slow
def test_a_model_gets_a_policy_and_evaluates_with_it(tmp_path: Path, trained: str) -> None:
    request = replace(request_for(tmp_path), model=trained, name="mine")
    (manifest,) = train_policy(replace(request, validation=request.data[0]))
    path = tmp_path / "run" / "mine.json"
    assert manifest == Manifest.read(path)
    model, base = load_model(str(path), fold=False), load_model(trained, fold=False)
    assert model.policy is not None
    assert manifest.policy is not None
    assert manifest.policy.network_sha256 == manifest.sha256 != base.manifest.sha256
    assert manifest.policy.block_size == 64
    assert manifest.policy.channels == 16
    assert manifest.policy.command.startswith("seg_node train policy --data folder:DIR --model")
    assert manifest.command == f"{base.manifest.command}; {manifest.policy.command}"
    scores = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert set(scores) == {"step", "val_miou", "val_dense_miou", "val_macs"}

    out = tmp_path / "scores.json"
    words = ["evaluate", request.data[0], "--mode", "dense,segblocks", "--model", str(path)]
    assert main([*words, "--json", str(out)]) == 0
    assert set(json.loads(out.read_text())["modes"]) == {"dense", "segblocks"}
    with pytest.raises(ConfigError, match="add --resume to continue it"):
        train_policy(request)


def test_a_frozen_network_ships_as_the_file_that_it_was(tmp_path: Path, trained: str) -> None:
    request = replace(request_for(tmp_path, frozen=True), model=trained)
    (manifest,) = train_policy(request)
    base = load_model(trained).manifest
    assert replace(manifest, policy=None) == base
    assert file_sha256(tmp_path / "run" / manifest.file) == base.sha256
    # What was trained is where the next training starts.
    again = replace(request, model=str(tmp_path / "run" / f"{trained}.json"))
    other = replace(again, out=tmp_path / "more")
    (more,) = train_policy(other)
    assert more.policy is not None
    assert manifest.policy is not None
    assert more.policy.sha256 != manifest.policy.sha256
    with pytest.raises(ConfigError, match=r"holds a run with other settings \(policy_sha256 was"):
        train_policy(replace(again, resume=True))
    sides = replace(request.settings, block_size=128, crop_height=128)
    with pytest.raises(ConfigError, match="knows blocks of 64 pixels, block_size is 128"):
        train_policy(replace(other, out=tmp_path / "sides", settings=sides))
    wider = replace(request.settings, policy_channels=24)
    with pytest.raises(ConfigError, match="has 16 channels, policy_channels is 24; use 16"):
        train_policy(replace(other, out=tmp_path / "wider", settings=wider))


def test_a_policy_of_another_network_is_refused(
    tmp_path: Path, random_models: Path, trained: str
) -> None:
    request = replace(request_for(tmp_path, frozen=True), model=trained)
    (manifest,) = train_policy(request)
    assert manifest.policy is not None
    strange = replace(manifest.policy, network_sha256="0" * 64)
    path = replace(manifest, name="strange", policy=strange).write(tmp_path / "run")
    text = "the policy of model 'strange' was trained with weights 0000"
    with pytest.raises(ModelError, match=text):
        train_policy(replace(request, model=str(path), out=tmp_path / "other"))
    assert (random_models / f"{trained}.json").exists()


def test_blocks_that_the_network_cannot_have_are_refused_at_the_start(
    tmp_path: Path, trained: str
) -> None:
    request = replace(request_for(tmp_path, block_size=32), model=trained)
    text = "block_size is 32, but LOW blocks of this network need a multiple of 64 pixels"
    with pytest.raises(ConfigError, match=text):
        PolicyJob(request)


def test_data_of_other_classes_are_refused(tmp_path: Path, trained: str) -> None:
    data = write_folder(tmp_path / "data", ("dark", "bright"))
    request = PolicyRequest((data,), tmp_path / "run", model=trained, settings=TINY)
    text = r"model swiftnet18-half has 11 \(Sky.*\), the data have 2 \(dark, bright\)"
    with pytest.raises(ModelError, match=text):
        train_policy(request)


def test_several_processes_are_refused(
    tmp_path: Path, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seg_node.train.distributed import Share  # noqa: PLC0415 - here only

    monkeypatch.setattr("seg_node.train.distributed.join", lambda: Share(0, 2, 2))
    with pytest.raises(ConfigError, match="trained by one process, not 2; leave torchrun"):
        train_policy(replace(request_for(tmp_path), model=trained))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"block_size": 48}, "block_size is 48; it must be a multiple of 32"),
        ({"crop_width": 400}, "the crop is 400x320; sides must be multiples of block_size"),
        ({"frozen": True, "random_share": 0.1}, "nothing learns from random blocks with frozen"),
        ({"frozen": True, "random_steps": 9}, "nothing learns from random blocks with frozen"),
        ({"random_steps": 2000}, "random_steps is 2000 of 2000 .* never learn; lower them"),
        ({"random_share": 1.0}, "random_share 1.0: the policy would never learn"),
        ({"target": 1.5}, "target is 1.5; allowed are 0.0 to 1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PolicyTraining(**changes)


def test_the_policys_rate_moves_with_the_networks() -> None:
    config = PolicyTraining(steps=100, warmup=10, learning_rate=1e-3, policy_rate=4e-3)
    for step in (0, 9, 50, 99):
        assert config.policy_rate_at(step) == pytest.approx(4.0 * config.rate(step))


def test_every_setting_is_a_flag_and_in_the_command() -> None:
    parser = argparse.ArgumentParser()
    add_policy_arguments(parser)
    words = ["--data", "street:1", "--out", "x", "--model", "/a/base.json", "--frozen"]
    words += ["--target", "0.4", "--size-weight", "2", "--policy-rate", "1e-3"]
    request = policy_request(parser.parse_args(words))
    expected = PolicyTraining(frozen=True, target=0.4, size_weight=2.0, policy_rate=1e-3)
    assert request.settings == expected
    assert request.model == "/a/base.json"
    line = policy_command_line(request)
    assert line == (
        "seg_node train policy --data street:1 --model base.json --frozen --target 0.4 "
        "--size-weight 2.0 --policy-rate 0.001"
    )


@pytest.mark.slow
def test_a_killed_run_resumes_on_the_same_curve(
    tmp_path: Path, random_models: Path, trained: str
) -> None:
    data = write_folder(tmp_path / "data")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SEG_NODE_MODELS": str(random_models)}
    env["CUDA_VISIBLE_DEVICES"] = ""

    def arguments(out: Path) -> list[str]:
        words = ["train", "policy", "--model", trained, "--data", data, "--out", str(out)]
        words += ["--steps", "8", "--checkpoint-every", "1", "--batch", "2"]
        return [*words, "--crop-width", "128", "--crop-height", "64", "--random-share", "0.3"]

    def start(out: Path, *words: str) -> subprocess.Popen[str]:
        verb = [sys.executable, "-m", "seg_node.cli", *arguments(out), *words]
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        return subprocess.Popen(verb, cwd=ROOT, env=env, stdout=pipe, stderr=both, text=True)

    def finish(process: subprocess.Popen[str]) -> None:
        output, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, output

    broken = start(tmp_path / "broken")
    deadline = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "broken" / "checkpoint.pt").exists():
        assert broken.poll() is None, broken.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    broken.send_signal(signal.SIGKILL)
    broken.communicate(timeout=TIMEOUT_S)
    assert not (tmp_path / "broken" / f"{trained}.json").exists()
    finish(start(tmp_path / "broken", "--resume"))
    assert main(arguments(tmp_path / "whole")) == 0
    for file in (f"{trained}.safetensors", f"{trained}-policy.safetensors"):
        mine, theirs = (load_file(tmp_path / run / file) for run in ("whole", "broken"))
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
