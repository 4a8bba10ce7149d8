"""Soft labels: averaged over looks, in place, and computed once."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from seg_node.core.types import DataError
from seg_node.data.clips import StreetClip
from seg_node.nets.build import load_model
from seg_node.train.distributed import Share
from seg_node.train.teacher import image_key, soft_labels, SoftLabelCache, Teacher


class Brightness(nn.Module):
    """Logits of stride 4 that say class 1 where the image is bright; counts its calls."""

    def __init__(self) -> None:
        """Have a parameter, which tells the device."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map RGB [N, 3, H, W] to logits [N, 2, H/4, W/4]."""
        self.calls += 1
        mean = nn.functional.avg_pool2d(image.float().mean(1, keepdim=True), 4, ceil_mode=True)
        return torch.cat((torch.zeros_like(mean), (mean - 128.0) / 4), 1)


def picture() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = np.zeros((45, 62, 3), np.uint8)
    image[:, 32:] = 255
    return image


def test_soft_labels_lie_over_the_image() -> None:
    soft = soft_labels([Brightness()], picture())
    assert soft.shape == (12, 16, 2)
    assert (soft[:, :7, 1] < 5).all()
    assert (soft[:, 9:, 1] > 250).all()
    assert np.abs(soft.astype(int).sum(2) - 255).max() <= 1


def test_both_mirror_images_and_all_scales_look() -> None:
    net = Brightness()
    soft_labels([net, net], picture(), (0.5, 1.0, 2.0))
    assert net.calls == 12


def test_images_are_taught_once_and_never_mistaken_for_each_other(tmp_path: Path) -> None:
    net = Brightness()
    cache = SoftLabelCache(tmp_path, "a")
    first = cache.get([net], picture())
    calls = net.calls
    assert np.array_equal(SoftLabelCache(tmp_path, "a").get([net], picture()), first)
    assert net.calls == calls
    other = picture()[:, ::-1]
    assert not np.array_equal(cache.get([net], np.ascontiguousarray(other)), first)
    assert image_key(picture().reshape(62, 45, 3)) != image_key(picture())
    assert [path.suffix for path in tmp_path.glob("*.partial")] == []


def test_another_teachers_folder_is_refused(tmp_path: Path) -> None:
    SoftLabelCache(tmp_path, "a")
    with pytest.raises(DataError, match="holds soft labels of 'a', not 'b'; delete it"):
        SoftLabelCache(tmp_path, "b")


def test_an_owner_is_written_once_and_an_empty_one_counts_as_missing(tmp_path: Path) -> None:
    SoftLabelCache(tmp_path, "a")
    owner = tmp_path / "teacher.txt"
    written = owner.stat()
    SoftLabelCache(tmp_path, "a")
    again = owner.stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    owner.write_text("")  # what a process leaves that is killed while it writes in place
    SoftLabelCache(tmp_path, "b")
    assert owner.read_text() == "b"
    assert owner.stat().st_ino != written.st_ino  # replaced whole
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a full disk")
def test_a_full_disk_is_told_with_the_folder(tmp_path: Path) -> None:
    cache = SoftLabelCache(tmp_path, "a")
    partial = tmp_path / f"{image_key(picture())}.{os.getpid()}.partial"
    partial.symlink_to("/dev/full")
    with pytest.raises(DataError, match=rf"into {tmp_path}: No space left on device; free"):
        cache.get([Brightness()], picture())
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.txt"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    cache = SoftLabelCache(tmp_path, "a")
    path = tmp_path / f"{image_key(picture())}.npy"
    for content in (b"", b"\x93NUMPY\x01\x00", b"hours of work"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"soft labels {path}: .*; delete the file"):
            cache.get([Brightness()], picture())


def test_what_is_there_is_not_read_to_fill_the_folder(tmp_path: Path) -> None:
    net = Brightness()
    cache = SoftLabelCache(tmp_path, "a")
    cache.fill([net], picture())
    calls = net.calls
    path = tmp_path / f"{image_key(picture())}.npy"
    assert np.array_equal(cache.get([net], picture()), soft_labels([Brightness()], picture()))
    path.write_bytes(b"damaged")
    cache.fill([net], picture())
    assert net.calls == calls


def test_every_process_teaches_its_part_of_the_frames(tmp_path: Path, trained: str) -> None:
    frames = list(StreetClip(3, count=5, size=(64, 48)).frames())
    keys = [f"{image_key(frame.load().frame.image)}.npy" for frame in frames]
    classes = load_model(trained).manifest.classes

    def teach(share: Share) -> None:
        Teacher([trained], tmp_path, classes, torch.device("cpu"), share).prepare(frames)

    teach(Share(1, 2))
    assert {path.name for path in tmp_path.glob("*.npy")} == {keys[1], keys[3]}
    teach(Share(0, 2))
    assert {path.name for path in tmp_path.glob("*.npy")} == set(keys)


@pytest.mark.slow
def test_processes_wait_until_all_frames_are_taught(tmp_path: Path, trained: str) -> None:
    root = Path(__file__).resolve().parents[2]
    script = str(Path(__file__).with_name("teach_slowly.py"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    alone = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root)}
    ran = subprocess.run(
        [sys.executable, *launcher, script, str(tmp_path), trained],
        env={**os.environ, **alone},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)] == ["4", "4"]
