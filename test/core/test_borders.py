"""Borders of classes: image pixels are what one interpolation of the tiles makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional

from seg_node.core.borders import moved_results, read_borders, read_tiles, uncertain
from seg_node.core.masks import decide_planes
from seg_node.core.origins import Origins
from seg_node.core.result_pool import ResultPool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.masks import Planes

STRIDE = 4
SIDE = 8
SIZE = (14, 21)
"""Of the results: neither is a multiple of the side of a tile."""
IMAGE = (55, 82)
"""Of the image: neither is a multiple of the stride."""
CLASSES = 3


def logits_of(labels: NDArray[np.int64], gain: float = 6.0) -> torch.Tensor:
    """Return logits of classes [h, w], and one channel more, [1, CLASSES + 1, h, w]."""
    chosen = functional.one_hot(torch.from_numpy(labels), CLASSES).permute(2, 0, 1)[None]
    return torch.cat((gain * chosen.float(), torch.full((1, 1, *labels.shape), 99.0)), 1)


def with_pole() -> NDArray[np.int64]:
    """Return a class as thin as a pixel of the results, in front of another; a third below."""
    labels = np.zeros(SIZE, np.int64)
    labels[:, 11] = 1
    labels[11:] = 2
    return labels


def moved(labels: NDArray[np.int64], by: float) -> tuple[ResultPool, Origins]:
    """Return tiles of results whose content has moved to the right since, in two frames."""
    results, origins = ResultPool(SIDE), Origins(SIZE, SIDE)
    results.restart(logits_of(labels), 0)
    flow = np.zeros((*SIZE, 2), np.float32)
    flow[..., 0] = -by / 2
    for _ in range(2):
        origins.move(flow)
    return results, origins


def decided(results: ResultPool, origins: Origins) -> Planes:
    """Return what is decided of moved results enlarged to the image."""
    return decide_planes(results.read(origins)[:, :-1], STRIDE, IMAGE)


def read_once(labels: NDArray[np.int64], by: float) -> NDArray[np.int64]:
    """Return the class of each image pixel, from the logits at its very place, [H, W]."""
    logits = logits_of(labels)[:, :-1]
    y, x = ((np.arange(n) + 0.5) / STRIDE - 0.5 for n in IMAGE)
    places = np.stack(np.broadcast_arrays((x - by)[None], y[:, None]), -1)
    scale = np.array([SIZE[1], SIZE[0]])
    grid = torch.from_numpy((2 * places + 1) / scale - 1).float()[None]
    read = functional.grid_sample(logits, grid, padding_mode="border", align_corners=False)
    best: NDArray[np.int64] = read[0].argmax(0).numpy()
    return best


@pytest.mark.parametrize("by", [0.5, 1.25, -2.0])
def test_pixels_are_read_once(by: float) -> None:
    """Within the tile that content stems from; where tiles meet, it is the edge of one."""
    results, origins = moved(with_pole(), by)
    blurred = decided(results, origins)[0].numpy().copy()
    labels = read_borders(decided(results, origins), results, origins, STRIDE, CLASSES)[0].numpy()
    expected = read_once(with_pole(), by)
    wrong = (labels != expected)[:, 12:].mean()  # content came in at the left, or left there
    assert wrong < 0.01
    if by % 1:
        assert (blurred != expected)[:, 12:].mean() > 2 * wrong


def test_a_thin_thing_that_lies_between_pixels_keeps_its_class() -> None:
    """Half a pixel on, a pole is two halves that are less likely than what is behind it."""
    results, origins = moved(with_pole(), 0.5)
    table = results._table
    assert table is not None
    table[..., 0] += 0.5  # a little in favour of the background
    before = decided(results, origins)
    assert not (before[0][:40] == 1).any()
    labels, _ = read_borders(before, results, origins, STRIDE, CLASSES)
    assert ((labels[:40] == 1).sum(1) >= 2).all()


def test_probabilities_are_those_of_the_classes() -> None:
    results, origins = moved(with_pole(), 0.5)
    labels, confidence = read_borders(decided(results, origins), results, origins, STRIDE, CLASSES)
    # Two classes meet at the pole: each pixel's probability is at least a half, and all of it
    # far away from there.
    assert confidence[:36].min() >= 127
    assert (confidence[:36, 60:] > 250).all()
    assert 200 < confidence[:36, 40:56].min() < 210
    assert labels.dtype == confidence.dtype == torch.uint8


def test_what_did_not_move_stays_as_it_was_decided() -> None:
    results, origins = moved(with_pole(), 0.0)
    nonsense = torch.arange(IMAGE[0] * IMAGE[1]).view(IMAGE).to(torch.uint8)
    planes = nonsense.clone(), nonsense.clone()
    for plane in read_borders(planes, results, origins, STRIDE, CLASSES):
        torch.testing.assert_close(plane, nonsense, rtol=0, atol=0)


def test_only_where_classes_meet_or_are_in_doubt() -> None:
    labels, confidence = torch.zeros(IMAGE, dtype=torch.uint8), torch.full(IMAGE, 250)
    labels[:, 44:] = 1  # from the 11th pixel of the results on
    confidence[2, 2] = 100  # the middle of the first
    found = uncertain(labels, confidence, STRIDE)
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[:, 10:12] = True
    expected[0, 0] = True
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("by", [0.0, 0.5, 1.25, -2.0])
def test_where_the_results_are_the_same_is_read_without_the_host(by: float) -> None:
    """Pixels differ where two classes are equally probable, if at all."""
    results, origins = moved(with_pole(), by)
    expected = read_borders(decided(results, origins), results, origins, STRIDE, CLASSES)
    there = moved_results(results, origins, torch.device("cpu"))
    found = read_tiles(decided(results, origins), there, STRIDE, CLASSES)
    assert (found[0] == expected[0]).float().mean() > 0.999
    assert (found[1].int() - expected[1].int()).abs().max() <= 1
    assert bool((there.tile >= 0).any()) == (by != 0)
