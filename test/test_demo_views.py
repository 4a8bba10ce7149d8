"""What the demo shows of a frame, and how it gets its frames to the node and back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast, TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.config import Config
from seg_node.core.plan_drawing import draw_age, draw_plan
from seg_node.core.types import Action, CAMVID_CLASSES, Frame, Reason
from seg_node.data.datasets import Sample
from seg_node.demo.clip import REHEARSALS, rehearse
from seg_node.demo.views import made_plan, make_sheet, make_views
from seg_node.ros.recorded import RecordedStatus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.demo.views import Views
    from seg_node.ros.playback import Playback

IMAGE = np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)
LABELS = np.zeros((300, 400), np.uint8)
GRID = np.array([[2, 0], [0, 1]], np.uint8)
AGE_MS = np.array([[0, 900], [300, 0]], np.uint16)
STATUS = RecordedStatus("/segmentation: frame", 0, "", {"reason": Reason.REFRESHED.value})


def views(
    mode: str,
    grid: NDArray[np.uint8] | None = GRID,
    age_ms: NDArray[np.uint16] | None = AGE_MS,
) -> Views:
    """Return what is shown of a frame of 300x400 at half scale: blocks of 256 pixels."""
    config = Config().updated({"mode": mode, "block_size": 128, "input.scale": 0.5})
    return make_views(IMAGE, LABELS, made_plan(grid, STATUS), age_ms, CAMVID_CLASSES, config)


def test_a_mode_with_a_memory_shows_mask_plan_and_age() -> None:
    """Blocks are of the image's pixels, not of the network's input."""
    shown = views("adaptive")
    assert list(shown) == ["mask", "plan", "age"]
    assert {c.color for c in CAMVID_CLASSES} <= {
        tuple(c) for c in shown["mask"][360:].reshape(-1, 3).tolist()
    }
    plan = made_plan(GRID, STATUS)
    assert plan is not None
    np.testing.assert_array_equal(shown["plan"], draw_plan(IMAGE, plan, 256))
    np.testing.assert_array_equal(shown["age"], draw_age(IMAGE, AGE_MS, 2000.0, 256))


def test_mode_dense_shows_image_and_mask() -> None:
    shown = views("dense")
    assert list(shown) == ["image", "mask"]
    assert shown["image"].shape == shown["mask"].shape == (360, 480, 3)


def test_what_was_lost_on_the_way_is_left_out() -> None:
    assert list(views("warp", grid=None)) == ["mask", "age"]
    assert list(views("warp", age_ms=None)) == ["mask", "plan"]
    assert made_plan(None, STATUS) is None
    assert made_plan(GRID, None) is None


def test_a_plan_has_the_reason_that_the_node_gave() -> None:
    plan = made_plan(GRID, STATUS)
    assert plan is not None
    assert plan.reason is Reason.REFRESHED
    assert plan.fraction(Action.LOW) == 0.25


@pytest.mark.parametrize(("mode", "width"), [("adaptive", 6 + 1280 + 6), ("dense", 2 * 646 + 6)])
def test_sheet_has_a_row_for_three_pictures_and_two_pairs_in_one(mode: str, width: int) -> None:
    frames = [views(mode), views(mode)]
    sheet = make_sheet(frames, CAMVID_CLASSES)
    assert sheet.shape[1] == width
    assert (sheet.shape[0] > sheet.shape[1] / 2) == (mode == "adaptive")


def test_rehearsal_sends_different_frames_and_takes_the_longest_but_the_first() -> None:
    """In a mode that reuses results, one frame that is sent again and again takes no time."""
    sent: list[int] = []
    masks: dict[int, SimpleNamespace] = {}
    trips_ns = [900, 10, 20, 70, 30, 40]

    def send(image: NDArray[np.uint8], frame_id: str) -> int:
        del frame_id
        sent.append(int(image[0, 0, 0]))
        stamp_ns = 1000 * len(sent)
        masks[stamp_ns] = SimpleNamespace(received_ns=stamp_ns + trips_ns[len(sent) - 1])
        return stamp_ns

    camera = SimpleNamespace(masks=masks, send=send, forget=masks.clear)
    samples = [Sample(str(i), Frame(np.full((2, 2, 3), i, np.uint8)), None) for i in range(4)]
    longest_s = rehearse(cast("Playback", camera), samples, lambda: None)
    assert longest_s == pytest.approx(70e-9)
    assert sent == [0, 1, 2, 3, 0, 1]
    assert len(sent) == 1 + REHEARSALS
    assert not masks
