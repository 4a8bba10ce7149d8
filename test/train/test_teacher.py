"""Soft labels: averaged over looks, in place, and computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from seg_node.core.types import DataError
from seg_node.train.teacher import image_key, soft_labels, SoftLabelCache

if TYPE_CHECKING:
    from pathlib import Path


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
