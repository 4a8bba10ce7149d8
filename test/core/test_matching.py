"""Motion found by matching: exact where it can be, its axes and signs, every size, its error."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seg_node.core.flow import FlowEstimator, work_image
from seg_node.core.matching import estimate_flow, grid_of, match, spread, TorchMatcher
from seg_node.core.types import DataError
from seg_node.data.street import Street
from test.core.motions import picture


def grey(seed: int, size: tuple[int, int]) -> torch.Tensor:
    """Return a picture with detail of several sizes, float32 [h, w]."""
    return torch.from_numpy(work_image(picture(seed, size))).float()


def found(before: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return estimate_flow(before, image, TorchMatcher())


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (5, 9), (33, 50), (64, 31)], ids=str)
def test_equal_images_have_no_motion_at_all(size: tuple[int, int]) -> None:
    image = grey(2, size)
    flow = estimate_flow(image, image.clone(), TorchMatcher(), torch.ones(*size, 2))
    assert flow.shape == (*size, 2)
    assert flow.dtype == torch.float32
    assert (flow == 0).all()


@pytest.mark.parametrize(("x", "y"), [(5, 3), (-4, 2), (0, -6), (9, 0)])
def test_a_shift_by_whole_pixels_is_found_exactly_in_the_inside(x: int, y: int) -> None:
    wide = grey(1, (110, 140))
    before, image = wide[10:97, 10:125], wide[10 + y : 97 + y, 10 + x : 125 + x]
    flow = found(before, image)
    inside = flow[14:-14, 14:-14]
    assert inside.numel() > 10_000
    assert (inside == torch.tensor([float(x), float(y)])).all()


def test_a_shift_by_parts_of_a_pixel_is_found_nearly() -> None:
    wide = cv2.GaussianBlur(work_image(picture(1, (400, 480))), (0, 0), 4)
    small = [
        cv2.resize(wide[y : y + 320, x : x + 400], (100, 80), interpolation=cv2.INTER_AREA)
        for y, x in ((10, 10), (11, 16))  # came from 1.5 pixels right and 0.25 below
    ]
    before, image = (torch.from_numpy(x).float() for x in small)
    error = (found(before, image) - torch.tensor([1.5, 0.25])).norm(dim=-1)[8:-8, 8:-8]
    assert error.mean() < 0.1


def test_where_nothing_is_to_be_seen_nothing_moves() -> None:
    """Also next to what moves, however the start would have it."""
    wide = grey(3, (80, 110))
    before, image = (wide[:, 5:105].clone(), wide[:, 9:109].clone())
    for plane in (before, image):
        plane[:, :40] = 90.0
    start = torch.full((80, 100, 2), 30.0)
    flow = estimate_flow(before, image, TorchMatcher(), start)
    assert (flow[:, :28] == 0).all()
    assert (flow[10:-10, 52:-12] == torch.tensor([4.0, 0.0])).all()


def test_a_start_leads_further_than_an_estimate_from_nothing() -> None:
    wide = grey(1, (70, 200))
    before, image = wide[:, :100], wide[:, 70:170]
    start = torch.tensor([69.0, 1.0]).expand(70, 100, 2)
    flow = estimate_flow(before, image, TorchMatcher(), start)
    assert (flow[10:-10, 8:20] == torch.tensor([70.0, 0.0])).all()
    alone = found(before, image)[10:-10, 8:20]
    assert (alone - torch.tensor([70.0, 0.0])).norm(dim=-1).median() > 20


def test_a_street_is_followed_nearer_to_the_truth_than_by_dis() -> None:
    """Exact motion of a street, where what is seen was seen; `benchmarks/matching.py` has more."""
    street = Street(7, 240, 180)
    shots = [street.render(index) for index in (20, 21)]
    greys = [work_image(shot.frame.image) for shot in shots]
    shown = ~shots[1].occluded
    flow = found(*(torch.from_numpy(plane).float() for plane in greys)).numpy()
    others = FlowEstimator().estimate(greys[0], greys[1]).flow
    ours, theirs = (
        float(np.linalg.norm(x - shots[1].flow, axis=-1)[shown].mean()) for x in (flow, others)
    )
    assert ours < 0.8 * theirs


class NoAnswers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """Fails where the host would have to wait for a value."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at an operation before it runs."""
        name = str(func)
        assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "equal"))
        return func(*args, **(kwargs or {}))


def test_nothing_is_asked_of_the_device() -> None:
    image = grey(6, (40, 50))
    with NoAnswers():  # type: ignore[no-untyped-call]  # as above
        estimate_flow(image, image, TorchMatcher(), torch.zeros(40, 50, 2))
    with pytest.raises(AssertionError), NoAnswers():  # type: ignore[no-untyped-call]  # as above
        float(image[0, 0])


def test_a_guess_replaces_an_earlier_one_only_if_it_is_better_by_the_margin() -> None:
    image = grey(4, (12, 12))
    guesses = torch.zeros(2, *grid_of(image.shape), 2)
    guesses[0, ..., 0] = 0.05
    assert (match(image, image, guesses, 0.0, 0) == 0).all()
    assert (match(image, image, guesses, 100.0, 0) == guesses[0]).all()


def test_pixels_follow_the_cell_that_explains_them() -> None:
    wide = grey(5, (16, 40))
    before, image = wide[:, 8:24], wide[:, 12:28]
    cells = torch.zeros(4, 4, 2)
    cells[:, 1, 0] = 4.0
    flow = spread(before, image, cells)[..., 0]
    between = flow[:, 6:8]  # cells of columns 1 and 2 reach them
    assert ((between > 1.9) & (between < 4.0)).all()  # half of it where both explain the pixel
    assert between.mean() > 3.0
    assert (flow[:, 8:10] > 0).all()
    assert (flow[:, 10:] == 0).all()


def test_images_that_do_not_fit_are_refused() -> None:
    image = torch.zeros(20, 30)
    with pytest.raises(DataError, match=r"not \[20, 30\] and \[20, 31\]"):
        found(image, torch.zeros(20, 31))
    with pytest.raises(DataError, match="rescale it first"):
        estimate_flow(image, image, TorchMatcher(), torch.zeros(10, 15, 2))
