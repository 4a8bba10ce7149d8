"""Real processes: killed and resumed, and two that train as one."""

from __future__ import annotations

import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.torch import load_file
import torch

from seg_node.cli import main
from seg_node.data.compressed_images import encode_png
from test.train.samples import halves

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("--batch", "4", "--crop-width", "64", "--crop-height", "64", "--warmup", "4")
TIMEOUT_S = 240
ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
"""One thread each, so that the order of additions is the same in every run; and no GPU."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a labelled folder of eight noisy pictures with two classes."""
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("dark\nbright\n")
    rng = np.random.default_rng(0)
    for index, picture in enumerate(halves(8)):
        noise = rng.integers(0, 30, picture.image.shape, np.uint8)
        image = (picture.image + noise).astype(np.uint8)
        (root / "images" / f"{index}.png").write_bytes(encode_png(image))
        (root / "labels" / f"{index}.png").write_bytes(encode_png(picture.labels))
    return f"folder:{root}"


def arguments(data: str, out: Path, *words: str) -> list[str]:
    """Return what is said to `seg_node`."""
    return ["train", "segment", "--data", data, "--out", str(out), *SETTINGS, *words]


def start(data: str, out: Path, *words: str, processes: int = 1) -> subprocess.Popen[str]:
    """Start `seg_node train segment` as a process, or under torchrun as several."""
    verb = ["-m", "seg_node.cli", *arguments(data, out, *words)]
    command = torchrun(*verb) if processes > 1 else [sys.executable, *verb]
    env = {**os.environ, **ALONE}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process and return what it printed; it must have succeeded."""
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return output


def losses(out: Path) -> Sequence[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "swiftnet18-half.safetensors")


@pytest.mark.slow
def test_a_killed_run_resumes_on_the_same_curve(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--steps", "20", "--checkpoint-every", "3", "--low-share", "0.3")
    assert main(arguments(data, tmp_path / "whole", *words)) == 0
    broken = tmp_path / "broken"
    process = start(data, broken, *words)
    deadline = time.monotonic() + TIMEOUT_S
    while not (broken / "checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    assert not (broken / "swiftnet18-half.safetensors").exists()

    assert main(arguments(data, broken, *words)) == 1
    assert "holds a run: add --resume to continue it" in capsys.readouterr().err

    finish(start(data, broken, *words, "--resume"))
    assert losses(broken) == losses(tmp_path / "whole")
    mine, theirs = weights(broken), weights(tmp_path / "whole")
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


def torchrun(*words: str) -> list[str]:
    """Return the command that runs something as two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [sys.executable, *launcher, *words]


@pytest.mark.slow
def test_a_step_of_two_processes_is_the_step_of_one() -> None:
    script = Path(__file__).with_name("one_step.py")
    env = {**os.environ, **ALONE, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        torchrun(str(script)),
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["count"] > 50
    assert found["gradient"] < 1e-9
    assert found["buffer"] < 1e-9
    assert found["kinds"] == ["torch.bfloat16", "torch.float32"]


@pytest.mark.slow
def test_two_processes_descend_the_curve_of_one(data: str, tmp_path: Path) -> None:
    words = ("--steps", "40", "--learning-rate", "3e-4", "--clip-norm", "1")
    assert main(arguments(data, tmp_path / "one", *words)) == 0
    finish(start(data, tmp_path / "two", *words, processes=2))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 2
    # Every step is the same up to rounding (above); training amplifies rounding.
    assert two == pytest.approx(one, rel=0.05)


@pytest.mark.slow
def test_two_processes_stop_together_with_a_checkpoint(data: str, tmp_path: Path) -> None:
    copied = tmp_path / "data"
    shutil.copytree(data.partition(":")[2], copied)
    script = Path(__file__).with_name("lose_a_file.py")
    env = {**os.environ, **ALONE, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        torchrun(str(script), str(copied), str(tmp_path / "run")),
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    told = [line for line in ran.stdout.splitlines() if line.startswith("rank")]
    assert len(told) == 2, ran.stderr
    assert sum("labels/5.png" in line for line in told) >= 1
    assert all("training stopped after step" in line for line in told)
    assert (tmp_path / "run" / "checkpoint.pt").exists()
