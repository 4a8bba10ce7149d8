"""The kernels before and after a network equal what the pipeline does in torch and OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from seg_node.core.masks import decide
from seg_node.core.tiles import halved
from seg_node.core.types import DataError
from seg_node.kernels.frames import decide_planes, prepare
from test.kernels.operands import BRAIN, HALF, near, SINGLE

MEAN, STD = torch.tensor((99.0, 103.0, 105.0)), torch.tensor((75.0, 77.0, 76.0))


def picture(height: int, width: int, gap: int) -> torch.Tensor:
    """Return noise, uint8 [H, W, 3], whose rows lie some bytes more than needed apart."""
    generator = torch.Generator().manual_seed(height)
    rows = torch.randint(0, 256, (height, width * 3 + gap), generator=generator)
    return rows.to(torch.uint8).as_strided((height, width, 3), (width * 3 + gap, 3, 1))


@pytest.mark.parametrize("dtype", [HALF, BRAIN, SINGLE], ids=str)
@pytest.mark.parametrize(("height", "width", "gap"), [(6, 8, 0), (5, 7, 3), (1, 1, 1)])
def test_both_planes_in_one_pass(
    height: int, width: int, gap: int, dtype: torch.dtype, device: torch.device
) -> None:
    image = picture(height, width, gap)
    there = torch.empty_strided(image.shape, image.stride(), dtype=torch.uint8, device=device)
    there.copy_(image)
    full, half = prepare(there, MEAN, STD, dtype)
    pixels = image.permute(2, 0, 1)[None].float()
    mean, std = MEAN.view(1, 3, 1, 1), STD.view(1, 3, 1, 1)
    near(full, (pixels - mean) / std, dtype)
    near(half, (halved(pixels) - mean) / std, dtype)
    assert full.is_contiguous(memory_format=torch.channels_last)
    assert half.is_contiguous(memory_format=torch.channels_last)


def test_colours_are_turned_round(device: torch.device) -> None:
    """One blue pixel, as cameras send it: its value lands in the last channel, nowhere else."""
    image = torch.zeros((2, 2, 3), dtype=torch.uint8, device=device)
    image[1, 0, 0] = 64
    full, half = prepare(image, torch.zeros(3), torch.ones(3), SINGLE, bgr=True)
    assert full[0, 2, 1, 0].item() == 64.0
    assert full.sum().item() == 64.0
    assert half.flatten().tolist() == [0.0, 0.0, 16.0]


def test_what_is_no_image_is_refused(device: torch.device) -> None:
    image = picture(4, 4, 0).to(device)
    for wrong in (image.float(), image[..., :2], image.permute(1, 0, 2), image[:, ::2]):
        with pytest.raises(DataError, match=r"has to be torch\.uint8 \[H, W, 3\]"):
            prepare(wrong, MEAN, STD, HALF)


def smooth_logits(classes: int, h: int, w: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(classes)
    return (torch.randn((1, classes, h, w), generator=generator) * 4).to(dtype)


@pytest.mark.parametrize("dtype", [HALF, BRAIN, SINGLE], ids=str)
@pytest.mark.parametrize(
    ("classes", "stride", "size"), [(11, 4, (17, 30)), (19, 8, (24, 40)), (1, 2, (3, 1))]
)
def test_masks_equal_the_reference(
    classes: int, stride: int, size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    """Classes differ where two are equally probable, if at all; confidence by rounding."""
    h, w = (-(-length // stride) for length in size)
    logits = smooth_logits(classes, h, w, dtype)
    expected, share = decide(logits, stride, size)
    labels, confidence = (x.cpu().numpy() for x in decide_planes(logits.to(device), stride, size))
    assert labels.shape == confidence.shape == size
    assert labels.dtype == confidence.dtype == np.uint8
    assert (labels == expected).mean() > 0.995
    assert np.abs(confidence.astype(int) - share).max() <= 1


def test_large_logits_do_not_overflow(device: torch.device) -> None:
    logits = smooth_logits(5, 2, 2, SINGLE) * 1e4
    labels, confidence = decide_planes(logits.to(device), 4, (8, 8))
    expected, _ = decide(logits, 4, (8, 8))
    assert (labels.cpu().numpy() == expected).all()
    assert confidence.min().item() > 100
