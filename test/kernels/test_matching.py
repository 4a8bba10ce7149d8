"""The kernels of matching equal the reference: random images, odd sizes, empty areas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton", reason="triton is not installed")

from seg_node.core import matching as reference
from seg_node.core.types import DataError
from seg_node.kernels import matching as kernels
from test.kernels.operands import HALF, SINGLE

SIZES = [(1, 1), (3, 17), (19, 30)]
"""Smaller than a cell, narrower than what is around one, more cells than one program takes."""
FLOW_TOLERANCE = 1e-3
"""Pixels; sums over a cell are made in another order, and go down a slope eight times."""


def images(
    seed: int, size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two smooth images, one moved to the other by about two pixels; a corner is empty."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((1, 1, size[0] // 3 + 6, size[1] // 3 + 6), generator=generator) * 255
    wide = functional.interpolate(noise, scale_factor=3, mode="bicubic")[0, 0].clamp(0, 255)
    planes = [wide[y : y + size[0], x : x + size[1]].clone() for y, x in ((2, 2), (3, 4))]
    for plane in planes:
        plane[: size[0] // 3, : size[1] // 3] = 40.0
    before, image = (plane.to(device, dtype) for plane in planes)
    return before, image


def guesses(seed: int, size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Return three random motions of every cell, some of which lead outside."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, *reference.grid_of(size), 2)
    return (torch.randn(shape, generator=generator) * 3).to(device)


@pytest.mark.parametrize("dtype", [SINGLE, HALF], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cells_are_found_as_by_the_reference(
    size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    before, image = images(1, size, dtype, device)
    tried = guesses(2, size, device)
    for margin, steps in ((0.0, 0), (5.0, 0), (0.0, 8)):
        expected = reference.match(before, image, tried, margin, steps)
        found = kernels.match(before, image, tried, margin, steps)
        torch.testing.assert_close(found, expected, rtol=0, atol=FLOW_TOLERANCE)


@pytest.mark.parametrize("dtype", [SINGLE, HALF], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_get_what_the_reference_gives_them(
    size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    before, image = images(3, size, dtype, device)
    cells = guesses(4, size, device)[0]
    expected = reference.spread(before, image, cells)
    found = kernels.spread(before, image, cells)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_whole_estimate_equals_the_reference(device: torch.device) -> None:
    before, image = images(5, (18, 22), SINGLE, device)
    expected = reference.estimate_flow(before, image, reference.TorchMatcher())
    found = reference.estimate_flow(before, image, kernels.TritonMatcher())
    torch.testing.assert_close(found, expected, rtol=0, atol=FLOW_TOLERANCE)
    assert expected.abs().max() > 1
    patch = image[:5, :6]
    still = reference.estimate_flow(patch, patch, kernels.TritonMatcher())
    assert (still == 0).all()


def test_images_of_two_sizes_are_refused(device: torch.device) -> None:
    image = torch.zeros((8, 9), device=device)
    with pytest.raises(DataError, match="of one size"):
        kernels.match(image[:, 1:], image, torch.zeros((1, 2, 3, 2), device=device), 0.0, 0)
