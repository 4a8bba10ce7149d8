"""Motion as training sees it: estimated as the node does, or disturbed as a codec's."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from seg_node.core.flow import FlowEstimator, work_image
from seg_node.core.motion import fit
from seg_node.core.types import Motion
from seg_node.train.pairs import inside

if TYPE_CHECKING:
    from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)
BLOCK_SIDES = (8, 16)
"""Sides of a codec's blocks in pixels."""
SUB_PEL = 4
"""A codec's vectors are whole numbers of such parts of a pixel."""
OFFSET_PX, DRIFT_PX = 1.5, 2.0
"""Largest standard deviation of the errors of blocks, and of those that are smooth."""
LOST = 0.08
"""Largest share of blocks that lose their vector."""
DRIFT_CELL = 48
"""Pixels over which smooth errors stay about the same."""


def estimated(key: NDArray[np.uint8], image: NDArray[np.uint8]) -> Motion:
    """Estimate the motion from an image to an earlier one, as the node does.

    Args:
        key: the earlier image, RGB, uint8 [H, W, 3].
        image: the present one.

    Returns:
        the motion at the size of the images; valid where it leads into the earlier one.

    """
    # One for each call: estimators keep buffers, and batches are made in several threads.
    motion = FlowEstimator().estimate(work_image(key), work_image(image))
    return fit(motion, (image.shape[0], image.shape[1]))


def disturbed(motion: Motion, rng: np.random.Generator) -> Motion:
    """Make a motion wrong as estimates and codecs are.

    Smooth errors are added; in half of the cases the flow is then made of blocks, each with one
    vector and an error of its own, in quarters of a pixel, and some blocks lose their vector.
    Those do not move; half of the times they are marked as not valid.
    """
    flow = motion.flow + _smooth(motion.flow.shape[:2], rng)
    if rng.random() < 0.5:  # noqa: PLR2004 - a fair coin
        return Motion(flow, motion.valid & inside(flow))
    side = int(rng.choice(BLOCK_SIDES))
    height, width = motion.valid.shape
    cells = (-(-width // side), -(-height // side))
    blocks = cv2.resize(flow, cells, interpolation=cv2.INTER_AREA)
    blocks = blocks + rng.normal(0.0, rng.uniform(0, OFFSET_PX), blocks.shape)
    blocks = np.round(blocks * SUB_PEL) / SUB_PEL
    lost = rng.random(blocks.shape[:2]) < rng.uniform(0, LOST)
    blocks[lost] = 0.0
    flow = _enlarged(blocks.astype(np.float32), side)[:height, :width]
    valid = motion.valid & inside(flow)
    if rng.random() < 0.5:  # noqa: PLR2004 - a fair coin
        valid &= ~_enlarged(lost, side)[:height, :width]
    return Motion(flow, valid)


def _smooth(size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    height, width = size
    cells = (max(2, height // DRIFT_CELL), max(2, width // DRIFT_CELL), 2)
    coarse = rng.normal(0.0, rng.uniform(0, DRIFT_PX), cells).astype(np.float32)
    return np.asarray(
        cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32
    )


def _enlarged(blocks: NDArray[Number], side: int) -> NDArray[Number]:
    return blocks.repeat(side, 0).repeat(side, 1)
