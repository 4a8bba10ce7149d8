"""Modules are computed in some bins exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.bins import areas_of, compute_bins
from seg_node.core.blocks import grid_shape, to_pixels
from seg_node.core.costs import MacCounter
from seg_node.nets.resnet import BasicBlock
from test.core.flops import flop_counter
from test.core.test_residual import awake, Bottleneck, Deep

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

SIDE = 32


@pytest.mark.parametrize(
    "block",
    [
        lambda: BasicBlock(8, 8, 1),
        lambda: BasicBlock(8, 12, 2),
        lambda: BasicBlock(8, 8, 1, (2, 4)),
        Bottleneck,
        lambda: Bottleneck(4),
        Deep,
    ],
    ids=["identity", "down", "dilated", "bottleneck", "grouped", "deep"],
)
def test_bins_are_those_of_the_whole(block: Callable[[], nn.Module]) -> None:
    """At every border of the image, beside kept bins and beside others; MACs are all counted."""
    torch.manual_seed(0)
    module = awake(block()).double()
    size = (71, 101)
    x = torch.randn(1, 8, 36, 51, dtype=torch.float64)
    rng = np.random.default_rng(1)
    with torch.inference_mode():
        expected = module(x.clone())
        plane = (expected.shape[-2], expected.shape[-1])
        side = SIDE // 2 * plane[0] // 36
        for share in (0.2, 0.6, 1.0):
            kept = rng.random(grid_shape(*size, SIDE)) < share
            kept[1, 1] = True
            with flop_counter() as flops, MacCounter() as counter:
                parts = compute_bins(module, x.clone(), areas_of(kept, side, plane))
            assert counter.macs == flops.get_total_flops() // 2
            covered = np.zeros(plane, np.int64)
            for area, values in parts:
                area.of(torch.from_numpy(covered)).add_(1)
                torch.testing.assert_close(values, area.of(expected), rtol=0, atol=1e-9)
            np.testing.assert_array_equal(covered, to_pixels(kept, side, plane))


@pytest.mark.parametrize(
    ("rows", "areas"),
    [
        (["111", "111"], {(0, 0, 7, 11)}),
        (["110", "110"], {(0, 0, 7, 8)}),
        (["011", "000"], {(0, 4, 4, 11)}),
        (["100", "111"], {(0, 0, 4, 4), (4, 0, 7, 11)}),
        (["101", "101"], {(0, 0, 7, 4), (0, 8, 7, 11)}),
        (["110", "100"], {(0, 0, 4, 8), (4, 0, 7, 4)}),
        (["01", "11", "01"], {(4, 0, 8, 4), (0, 4, 12, 8)}),  # by columns: by rows it is three
        (["000", "000"], set()),
    ],
)
def test_bins_beside_each_other_are_covered_by_few_rectangles(
    rows: list[str], areas: set[tuple[int, int, int, int]]
) -> None:
    """Bins of 4 pixels, the last of which stick out where there are two rows."""
    kept = np.array([[bin_ == "1" for bin_ in row] for row in rows])
    found = areas_of(kept, 4, (7, 11) if len(rows) < 3 else (12, 8))
    assert len(found) == len(areas)
    assert {tuple(area) for area in found} == areas
