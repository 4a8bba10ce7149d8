"""Memory: what it returns, what it matches, and the age of every block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from seg_node.core.memory import Memory
from seg_node.core.motion import still
from seg_node.core.types import DataError, Frame, Motion

SIDE = 32
MS = 1_000_000
FRAME = Frame(np.zeros((60, 101, 3), np.uint8), 5_000 * MS, "lens", "front")
"""2 x 4 blocks, 15 x 26 features at stride 4; the last row and column of blocks stick out."""


def filled(stamps_ns: list[list[int]] | None = None) -> Memory:
    torch.manual_seed(1)
    memory = Memory()
    stamps = None if stamps_ns is None else np.array(stamps_ns, np.int64)
    memory.store(FRAME, torch.randn(1, 6, 15, 26), SIDE, stamps)
    return memory


def moved(x: float, y: float, size: tuple[int, int] = (15, 26)) -> Motion:
    motion = still(size)
    return replace(motion, flow=motion.flow + np.array([x, y], np.float32))


def test_without_motion_the_features_come_back_bit_for_bit() -> None:
    memory = filled()
    assert memory.kept is not None
    features, valid = memory.warped(still((60, 101)))
    assert torch.equal(features, memory.kept.features)
    assert valid.shape == (1, 1, 15, 26)
    assert valid.all()


def test_motion_of_the_image_moves_the_features_by_its_share() -> None:
    memory = filled()
    assert memory.kept is not None
    # Two feature pixels to the right are 8 pixels of an image with 25 * 4 + 1 columns.
    features, _ = memory.warped(moved(8.0, 0.0, (60, 101)))
    torch.testing.assert_close(features[..., :-2], memory.kept.features[..., 2:])


def test_unknown_motion_is_unknown_at_the_features() -> None:
    motion = still((60, 101))
    motion.valid[:, 40:] = False
    _, valid = filled().warped(motion)
    assert valid[0, 0, :, :10].all()
    assert not valid[0, 0, :, 10:].any()


def test_it_matches_frames_of_its_camera_and_size_until_reset() -> None:
    memory = filled()
    later = replace(FRAME, stamp_ns=6_000 * MS)
    assert memory.matches(later)
    assert not memory.matches(replace(later, camera="rear"))
    assert not memory.matches(replace(later, frame_id="other"))
    assert not memory.matches(replace(later, image=np.zeros((60, 100, 3), np.uint8)))
    memory.reset()
    assert not memory.matches(later)
    with pytest.raises(DataError, match="nothing is remembered"):
        memory.warped(still((60, 101)))
    with pytest.raises(DataError, match="nothing is remembered"):
        memory.age_ms(0, still((60, 101)))


def test_age_counts_from_the_full_computation_and_rounds_up() -> None:
    memory = filled()
    age = memory.age_ms(FRAME.stamp_ns + 66 * MS + 1, still((60, 101)))
    assert age.dtype == np.uint16
    assert age.tolist() == [[67] * 4] * 2


@pytest.mark.parametrize(
    ("later_ms", "age"), [(-5, 0), (0, 0), (65_535, 65_535), (99_999, 65_535)]
)
def test_age_stays_in_its_range(later_ms: int, age: int) -> None:
    ages = filled().age_ms(FRAME.stamp_ns + later_ms * MS, still((60, 101)))
    assert ages.tolist() == [[age] * 4] * 2


def test_each_block_keeps_its_own_stamp() -> None:
    stamps = [[4_900, 5_000, 4_800, 5_000], [5_000, 4_700, 5_000, 5_000]]
    memory = filled([[ms * MS for ms in row] for row in stamps])
    ages = memory.age_ms(FRAME.stamp_ns, still((60, 101)))
    assert ages.tolist() == [[100, 0, 200, 0], [0, 300, 0, 0]]


def test_a_block_is_as_old_as_the_oldest_it_takes_content_from() -> None:
    stamps = [[5_000, 5_000, 4_800, 5_000], [5_000, 5_000, 5_000, 5_000]]
    memory = filled([[ms * MS for ms in row] for row in stamps])
    # One feature to the right: the second block reads the first column of the third.
    assert memory.age_ms(FRAME.stamp_ns, moved(1.0, 0.0))[0].tolist() == [0, 200, 200, 0]
    # A hundredth of that reads it too, bilinearly.
    assert memory.age_ms(FRAME.stamp_ns, moved(0.01, 0.0))[0].tolist() == [0, 200, 200, 0]
    # Eight features, a whole block: nothing of the third is seen in its own place.
    assert memory.age_ms(FRAME.stamp_ns, moved(8.0, 0.0))[0].tolist() == [0, 200, 0, 0]
    # Down into the row below, and up from it by a hundredth.
    assert memory.age_ms(FRAME.stamp_ns, moved(0.0, 8.0))[0].tolist() == [0, 0, 0, 0]
    memory = filled([[5_000 * MS] * 4, [4_800 * MS] * 4])
    assert memory.age_ms(FRAME.stamp_ns, moved(0.0, 0.01)).tolist() == [[200] * 4] * 2


def test_features_and_stamps_that_do_not_fit_are_refused() -> None:
    memory = Memory()
    with pytest.raises(DataError, match=r"features \[2, 6, 15, 26\]"):
        memory.store(FRAME, torch.zeros(2, 6, 15, 26), SIDE)
    with pytest.raises(DataError, match=r"stamps \[4, 2\].*\[2, 4\]"):
        memory.store(FRAME, torch.zeros(1, 6, 15, 26), SIDE, np.zeros((4, 2), np.int64))
    assert memory.kept is None
