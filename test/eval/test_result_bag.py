"""The result bag: every picture with its type, stamp and meaning, and all of it read back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from seg_node.core.drawing import color_table
from seg_node.core.types import Action, CAMVID_CLASSES, DataError, Frame, Plan, Reason
from seg_node.data.sources import Sample
from seg_node.eval.result_bag import Made, read_made, ResultBag, Stats
from test.eval.runs import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

STAMP_NS = 1_700_000_000_123_456_789
PICTURES = {"/image", "/segmentation/overlay", "/segmentation/plan/image"} | {
    "/segmentation/age/image",
    "/segmentation/reference/overlay",
    "/segmentation/error",
}
PLANES = {"/segmentation/confidence", "/segmentation/reference"}
SIZE = (64, 96)


def sample(index: int) -> Sample:
    """Return a frame that was received 5 ns after its stamp."""
    image = np.full((*SIZE, 3), (200, 40, 90), np.uint8)
    stamp_ns = STAMP_NS + index
    return Sample(str(index), Frame(image, stamp_ns, frame_id="front"), None, stamp_ns + 5)


def made(index: int) -> Made:
    """Return what was made of it: no two pixels or blocks alike that could hide a swapped axis."""
    pixels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE)
    grid = np.array([[0, 1, 2], [2, 0, index]], np.uint8)
    return Made(
        mask=(pixels % 11).astype(np.uint8),
        stats=Stats("/segmentation: frame", "moved", {"reason": Reason.MOVED.value}),
        plan=Plan(grid, Reason.MOVED),
        confidence=(pixels % 256).astype(np.uint8),
        age_ms=np.array([[0, 100, 300], [400, 500, 60_000]], np.uint16),
        reference=np.where(pixels % 7, pixels % 11, 255).astype(np.uint8),
    )


def write(path: Path, *frames: Made) -> Path:
    """Write a bag of these frames."""
    with ResultBag(path, CAMVID_CLASSES, color_table(CAMVID_CLASSES), CONFIG) as bag:
        for index, frame in enumerate(frames):
            bag.write(sample(index), frame, np.full((*SIZE, 3), 9, np.uint8))
    return path


def read(path: Path) -> dict[str, list[tuple[int, str, Any]]]:
    """Return (receive time, type, message) by topic, as another tool reads them."""
    found: dict[str, list[tuple[int, str, Any]]] = {}
    with AnyReader([path]) as reader:
        for connection, receive_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append(
                (receive_ns, connection.msgtype, message)
            )
    return found


def decoded(message: Any) -> NDArray[np.uint8]:
    """Return a compressed picture as any decoder sees it: grey, or RGB."""
    picture = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return np.asarray(picture if picture.ndim == 2 else picture[:, :, ::-1], np.uint8)


def test_every_topic_has_the_type_and_times_that_tools_expect(tmp_path: Path) -> None:
    found = read(write(tmp_path / "bag", made(0), made(1)))
    compressed = {f"{name}/compressed" for name in PICTURES | PLANES}
    raw = {"/segmentation/mask", "/segmentation/plan", "/segmentation/age"}
    others = {"/segmentation/stats", "/segmentation/legend"}
    assert set(found) == compressed | raw | others
    for topic, messages in found.items():
        types = {kind for _, kind, _ in messages}
        if topic in compressed:
            assert types == {"sensor_msgs/msg/CompressedImage"}, topic
        elif topic in raw:
            assert types == {"sensor_msgs/msg/Image"}, topic
        if topic != "/segmentation/legend":
            assert [
                (receive_ns, m.header.stamp.sec * 10**9 + m.header.stamp.nanosec)
                for receive_ns, _, m in messages
            ] == [(STAMP_NS + i + 5, STAMP_NS + i) for i in range(2)], topic
        if topic in compressed | raw:
            assert {m.header.frame_id for _, _, m in messages} == {"front"}


def test_pictures_show_what_their_names_say(tmp_path: Path) -> None:
    found = read(write(tmp_path / "bag", made(0)))
    pictures = {name: found[f"{name}/compressed"][0][2] for name in sorted(PICTURES | PLANES)}
    for name, message in pictures.items():
        lossless = name in PLANES
        wanted = "mono8; png compressed mono8" if lossless else "rgb8; jpeg compressed bgr8"
        assert message.format == wanted, name
    assert np.abs(decoded(pictures["/image"]).astype(int) - (200, 40, 90)).max() < 5
    assert np.abs(decoded(pictures["/segmentation/overlay"]).astype(int) - 9).max() < 5
    frame = made(0)
    assert frame.confidence is not None
    assert np.array_equal(decoded(pictures["/segmentation/confidence"]), frame.confidence)
    plan = decoded(pictures["/segmentation/plan/image"])[:320]
    lit, dark = plan[100, 400], plan[100, 60]
    assert lit.mean() > dark.mean() + 40, "the block in the upper right was computed"
    assert decoded(pictures["/segmentation/age/image"]).shape[1] == 480
    error = decoded(pictures["/segmentation/error"])
    void = made(0).reference == 255
    assert error[void].mean() > error[~void].mean() + 60


def test_raw_arrays_are_as_the_node_publishes_them(tmp_path: Path) -> None:
    found = read(write(tmp_path / "bag", made(0)))
    for name, encoding in (("mask", "mono8"), ("plan", "mono8"), ("age", "mono16")):
        ((_, _, message),) = found[f"/segmentation/{name}"]
        assert message.encoding == encoding
        assert message.step == message.width * (2 if encoding == "mono16" else 1)


def test_what_was_made_is_read_back(tmp_path: Path) -> None:
    frames = [made(0), made(1)]
    for found, frame in zip(read_made(write(tmp_path / "bag", *frames)), frames, strict=True):
        assert found.stats == frame.stats
        assert found.plan is not None
        assert frame.plan is not None
        assert found.plan.reason is Reason.MOVED
        pairs = [(found.plan.grid, frame.plan.grid), (found.mask, frame.mask)]
        pairs += [
            (getattr(found, name), getattr(frame, name))
            for name in ("confidence", "age_ms", "reference")
        ]
        for ours, theirs in pairs:
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    """As in the demo, where only masks come back."""
    path = write(tmp_path / "bag", Made(made(0).mask))
    assert set(read(path)) == {
        "/image/compressed",
        "/segmentation/mask",
        "/segmentation/overlay/compressed",
        "/segmentation/legend",
    }
    (found,) = read_made(path)
    assert (found.plan, found.confidence, found.age_ms, found.reference) == (None,) * 4


def test_what_only_some_frames_have_stays_with_them(tmp_path: Path) -> None:
    """As where labels are of every second frame."""
    frames = [replace(made(0), reference=None), made(1), replace(made(2), reference=None)]
    found = list(read_made(write(tmp_path / "bag", *frames)))
    assert [frame.reference is not None for frame in found] == [False, True, False]
    grids = [None if frame.plan is None else frame.plan.grid[1, 2] for frame in found]
    assert grids == [0, 1, 2]


def test_a_plan_of_another_size_is_refused(tmp_path: Path) -> None:
    plan = Plan(np.full((9, 9), Action.HIGH, np.uint8), Reason.DENSE)
    with pytest.raises(DataError, match="9x9 blocks of 32 pixels do not cover"):
        write(tmp_path / "bag", replace(made(0), plan=plan))
