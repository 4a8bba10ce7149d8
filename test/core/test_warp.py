"""Backward warp: law 2, axes and signs, borders, pixel grids; against torch's own sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from seg_node.core.types import DataError
from seg_node.core.warp import move, nearest, pull, pull_mask, rescale, warp


def constant(x: float, y: float, size: tuple[int, int], n: int = 1) -> torch.Tensor:
    return torch.tensor([x, y]).expand(n, *size, 2)


# ---- warp ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1), (89, 121), (90, 120), (3, 1000)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_zero_flow_is_the_identity_bit_for_bit(
    size: tuple[int, int], layout: torch.memory_format
) -> None:
    torch.manual_seed(1)
    features = torch.randn(2, 5, *size).contiguous(memory_format=layout)
    assert torch.equal(warp(features, torch.zeros(2, *size, 2)), features)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_zero_flow_is_the_identity_in_every_number_format(dtype: torch.dtype) -> None:
    features = torch.randn(1, 8, 9, 7).to(dtype)
    moved = warp(features, torch.zeros(1, 9, 7, 2))
    assert moved.dtype == dtype
    assert torch.equal(moved, features)


def test_flow_of_one_pixel_in_x_takes_the_pixel_to_the_right() -> None:
    features = torch.zeros(1, 1, 5, 7)
    features[0, 0, 2, 4] = 1.0
    moved = warp(features, constant(1.0, 0.0, (5, 7)))
    assert moved.nonzero().tolist() == [[0, 0, 2, 3]]


def test_flow_of_one_pixel_in_y_takes_the_pixel_below() -> None:
    features = torch.zeros(1, 1, 5, 7)
    features[0, 0, 2, 4] = 1.0
    moved = warp(features, constant(0.0, 1.0, (5, 7)))
    assert moved.nonzero().tolist() == [[0, 0, 1, 4]]


def test_outside_repeats_the_border() -> None:
    features = torch.arange(12.0).view(1, 1, 3, 4)
    assert torch.equal(
        warp(features, constant(-100.0, 0.0, (3, 4))), features[..., :1].expand(1, 1, 3, 4)
    )
    assert torch.equal(
        warp(features, constant(0.0, 2.5, (3, 4))), features[..., 2:, :].expand(1, 1, 3, 4)
    )


def test_each_image_of_a_batch_moves_by_its_own_flow() -> None:
    torch.manual_seed(2)
    features, flow = torch.randn(3, 4, 6, 5), torch.randn(3, 6, 5, 2) * 2
    alone = [warp(features[i : i + 1], flow[i : i + 1]) for i in range(3)]
    assert torch.equal(warp(features, flow), torch.cat(alone))


@pytest.mark.parametrize("size", [(8, 11), (23, 40)])
def test_it_agrees_with_grid_sample(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    features = torch.randn(2, 6, *size, dtype=torch.float64)
    flow = torch.randn(2, *size, 2, dtype=torch.float64) * 4
    x = (torch.arange(size[1]) + flow[..., 0]) * 2 / (size[1] - 1) - 1
    y = (torch.arange(size[0])[:, None] + flow[..., 1]) * 2 / (size[0] - 1) - 1
    expected = functional.grid_sample(
        features, torch.stack((x, y), -1), padding_mode="border", align_corners=True
    )
    torch.testing.assert_close(warp(features, flow), expected, rtol=0, atol=1e-12)


def test_gradients_reach_features_and_flow() -> None:
    torch.manual_seed(4)
    features = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    flow = torch.randn(2, 5, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(warp, (features, flow))


def test_a_flow_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match=r"flow \[1, 8, 9, 2\] does not fit .*rescale"):
        warp(torch.zeros(1, 3, 4, 5), torch.zeros(1, 8, 9, 2))


# ---- pixel grids -----------------------------------------------------------------------------


def test_a_constant_flow_is_scaled_on_each_axis() -> None:
    # Corners on corners: 7 pixels span 6 steps, 13 span 12; 5 rows span 4, 3 span 2.
    small = rescale(constant(3.0, -2.0, (5, 7)), (3, 13))
    torch.testing.assert_close(small, constant(6.0, -1.0, (3, 13)))


def test_a_zoom_stays_a_zoom_on_another_grid() -> None:
    def zoom(h: int, w: int) -> torch.Tensor:
        y, x = torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) * 1.0, indexing="ij")
        return torch.stack((0.1 * x, -0.2 * y), -1)[None]

    for size in ((9, 15), (33, 14), (4, 3)):
        torch.testing.assert_close(rescale(zoom(17, 29), size), zoom(*size))


def test_the_same_grid_returns_the_same_flow() -> None:
    flow = torch.randn(1, 5, 6, 2)
    assert torch.equal(rescale(flow, (5, 6)), flow)


def test_a_single_pixel_can_be_rescaled() -> None:
    assert torch.isfinite(rescale(constant(1.0, 1.0, (1, 1)), (4, 4))).all()
    assert rescale(constant(1.0, 1.0, (4, 4)), (1, 1)).shape == (1, 1, 1, 2)


def test_values_of_another_grid_are_those_of_the_nearest_pixel() -> None:
    values = np.arange(5)[:, None] * 10 + np.arange(3)
    assert nearest(values, (3, 5)).tolist() == [
        [0, 0, 1, 2, 2],
        [20, 20, 21, 22, 22],
        [40, 40, 41, 42, 42],
    ]


# ---- numpy -----------------------------------------------------------------------------------


def test_numpy_and_torch_move_alike() -> None:
    rng = np.random.default_rng(5)
    plane = rng.random((20, 30, 2)).astype(np.float32)
    # OpenCV rounds coordinates to 1/32 pixel.
    flow = (rng.integers(-128, 128, (20, 30, 2)) / 32).astype(np.float32)
    moved = warp(torch.from_numpy(plane).permute(2, 0, 1)[None], torch.from_numpy(flow)[None])
    np.testing.assert_allclose(pull(plane, flow), moved[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_a_mask_is_false_outside() -> None:
    mask = np.ones((3, 4), np.bool_)
    flow = np.zeros((3, 4, 2), np.float32)
    flow[..., 0] = 1.0
    assert pull_mask(mask, flow).tolist() == [[True, True, True, False]] * 3
    assert pull_mask(mask, -flow).tolist() == [[False, True, True, True]] * 3


# ---- move ------------------------------------------------------------------------------------


def test_features_move_by_the_flow_in_their_own_pixels() -> None:
    features = torch.arange(17.0 * 33).view(1, 1, 17, 33)
    flow = torch.zeros(1, 65, 129, 2)
    flow[..., 0], flow[..., 1] = 8.0, -4.0
    valid = torch.zeros(1, 65, 129, dtype=torch.bool)
    valid[0, 8, 20] = True
    found, seen = move(features, flow, valid)
    assert torch.allclose(found[0, 0, 5, 7], features[0, 0, 4, 9])
    assert seen.shape == (1, 1, 17, 33)
    assert seen.nonzero().tolist() == [[0, 0, 2, 5]]
