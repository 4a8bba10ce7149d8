"""Reading remembered results at image pixels equals what torch does with the same pointers."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from seg_node.core.borders import Moved, read_tiles
from seg_node.kernels import borders
from test.kernels.operands import BRAIN, HALF, SINGLE

STRIDE, SPAN, TILES, CHANNELS, CLASSES = 4, 10, 5, 9, 6
SIZE, IMAGE = (7, 9), (26, 35)
"""Of the results, and of the image: neither is a multiple of the stride."""


def moved(seed: int, dtype: torch.dtype, device: torch.device, *, share: float) -> Moved:
    """Return results whose pixels lie anywhere in their tiles, some beyond; a share is read."""
    generator = torch.Generator().manual_seed(seed)
    table = 3 * torch.randn((TILES * SPAN * SPAN, CHANNELS), generator=generator)
    tile = torch.randint(0, TILES, SIZE, generator=generator, dtype=torch.int32)
    tile[torch.rand(SIZE, generator=generator) >= share] = -1
    y, x = ((SPAN + 2) * torch.rand(SIZE, generator=generator) - 1 for _ in range(2))
    return Moved(table.to(device, dtype), SPAN, tile.to(device), y.to(device), x.to(device))


def planes(seed: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return classes in patches, and how sure they are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, CLASSES, (5, 6), generator=generator, dtype=torch.uint8)
    labels = coarse.repeat_interleave(8, 0).repeat_interleave(8, 1)[: IMAGE[0], : IMAGE[1]]
    confidence = torch.randint(150, 256, IMAGE, generator=generator, dtype=torch.uint8)
    return labels.contiguous().to(device), confidence.to(device)


@pytest.mark.parametrize("dtype", [HALF, BRAIN, SINGLE], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_pixels_equal_the_reference(
    share: float, dtype: torch.dtype, device: torch.device
) -> None:
    """Classes differ where two are equally probable, if at all; confidence by rounding."""
    where = moved(1, dtype, device, share=share)
    expected = read_tiles(planes(2, device), where, STRIDE, CLASSES)
    found = borders.read_tiles(planes(2, device), where, STRIDE, CLASSES)
    before = planes(2, device)
    assert (found[0] == expected[0]).float().mean() > 0.995
    assert (found[1].int() - expected[1].int()).abs().max() <= 1
    changed = [bool((a != b).any()) for a, b in zip(found, before, strict=True)]
    assert changed == [share > 0] * 2


def test_planes_may_be_parts_of_larger_ones(device: torch.device) -> None:
    where = moved(3, SINGLE, device, share=1.0)
    expected = borders.read_tiles(planes(4, device), where, STRIDE, CLASSES)
    wide = [torch.full((40, 50), 7, dtype=torch.uint8, device=device) for _ in range(2)]
    views = [plane[: IMAGE[0], : IMAGE[1]] for plane in wide]
    for view, plane in zip(views, planes(4, device), strict=True):
        view.copy_(plane)
    found = borders.read_tiles((views[0], views[1]), where, STRIDE, CLASSES)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all((plane[IMAGE[0] :] == 7).all() for plane in wide)
    assert all((plane[:, IMAGE[1] :] == 7).all() for plane in wide)
