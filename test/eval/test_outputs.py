"""The preview shows the plan beside the mask, in every mode but dense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.config import Config
from seg_node.core.types import Action, CAMVID_CLASSES, Frame, Plan, Reason
from seg_node.data.datasets import Sample
from seg_node.data.video import VideoReader
from seg_node.eval.outputs import Outputs
from seg_node.eval.result_bag import Made

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIDE = 64
ROAD = 3


def plan_with(*high: tuple[int, int]) -> Plan:
    """Return a plan of 5x8 blocks, all REUSE but these."""
    grid = np.full((5, 8), Action.REUSE, np.uint8)
    for at in high:
        grid[at] = Action.HIGH
    return Plan(grid, Reason.REFRESHED)


def preview(out: Path, mode: str, plans: list[Plan | None], side: int) -> list[NDArray[np.uint8]]:
    """Write frames of 16x10 times `side` grey pixels; returns the pictures of the preview."""
    image = np.full((5 * side, 8 * side, 3), 160, np.uint8)
    labels = np.full(image.shape[:2], ROAD, np.uint8)
    config = Config().updated({"mode": mode, "block_size": SIDE, "input.scale": SIDE / side})
    with Outputs(out, CAMVID_CLASSES, config, 10.0, frozenset()) as outputs:
        for index, plan in enumerate(plans):
            sample = Sample(str(index), Frame(image, index * 10**8), None)
            outputs.write(sample, Made(labels, plan=plan))
    with VideoReader(out / "preview.mp4") as video:
        return [sample.image for sample in video.frames()]


@pytest.mark.parametrize("side", [64, 160])
def test_plans_are_shown_right_of_the_mask(tmp_path: Path, side: int) -> None:
    """A block that is computed is bright where it is in the image, in its own frame only."""
    pictures = preview(tmp_path, "adaptive", [plan_with((1, 6)), plan_with((3, 0))], side)
    width = min(8 * side, 640)
    drawn = width / 8
    for picture, high, other in zip(pictures, ((1, 6), (3, 0)), ((3, 0), (1, 6)), strict=True):
        assert picture.shape[1] == 2 * width + 6
        lit, dark = (
            picture[int((row + 0.5) * drawn), int(width + 6 + (column + 0.5) * drawn)]
            for row, column in (high, other)
        )
        assert lit.mean() > dark.mean() + 50
        road = picture[int(drawn), int(drawn)].astype(int)
        assert np.abs(road - (144, 112, 144)).max() < 12, "(160 + road's 128, 64, 128) / 2"
        assert picture.shape[0] > 5 * drawn + 40, "legends below"


def test_a_plan_that_was_lost_leaves_its_place_dark(tmp_path: Path) -> None:
    """Masks stay where they were."""
    first, second = preview(tmp_path, "adaptive", [plan_with((1, 6)), None], SIDE)
    assert first.shape == second.shape
    assert np.abs(first[:300, :500].astype(int) - second[:300, :500]).max() < 25
    assert second[:300, 530:].max() < 45


def test_mode_dense_shows_the_mask_alone(tmp_path: Path) -> None:
    (picture,) = preview(tmp_path, "dense", [plan_with((1, 6))], SIDE)
    assert picture.shape[1] == 8 * SIDE
