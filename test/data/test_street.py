"""The synthetic street: repeatable, labelled, and exact about motion and occlusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.core.types import CAMVID_CLASSES, ConfigError
from seg_node.data.street import Street, StreetFrame
from seg_node.data.street_draw import Texture
from seg_node.data.street_geometry import Camera, View
from seg_node.data.street_paint import paint
from seg_node.data.street_scene import Builder, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ROAD, CAR = 3, 8
WIDTH, HEIGHT = 240, 180


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


def pair(seed: int, index: int, width: int = 480) -> tuple[StreetFrame, StreetFrame]:
    """Return frames index - 1 and index."""
    street = Street(seed, width, width * 3 // 4)
    return street.render(index - 1), street.render(index)


def pulled(
    picture: NDArray[np.uint8], flow: NDArray[np.float32], how: int = cv2.INTER_LINEAR
) -> NDArray[np.uint8]:
    """Return the earlier picture moved by the flow, computed apart from the module."""
    rows, columns = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return np.asarray(
        cv2.remap(picture, columns + flow[..., 0], rows + flow[..., 1], how), dtype=np.uint8
    )


def error(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean absolute difference of colours per pixel."""
    return np.asarray(np.abs(one.astype(np.float64) - other).mean(axis=2))


def same(one: StreetFrame, other: StreetFrame) -> bool:
    """Tell whether two frames agree bit for bit."""
    return (
        np.array_equal(one.frame.image, other.frame.image)
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.flow, other.flow)
        and np.array_equal(one.occluded, other.occluded)
        and one.frame.stamp_ns == other.frame.stamp_ns
    )


def test_random_access_equals_iteration() -> None:
    """Any order of asking gives the frames of plain iteration."""
    iterated = list(Street(3, WIDTH, HEIGHT).frames(5))
    street = Street(3, WIDTH, HEIGHT)
    for index in (4, 1, 3, 0, 2, 2):
        assert same(street.render(index), iterated[index])
    for frame, endless in zip(iterated, Street(3, WIDTH, HEIGHT), strict=False):
        assert same(frame, endless)


def test_far_index_is_the_same_from_a_fresh_street() -> None:
    """A frame does not depend on what was rendered before it."""
    street = Street(3, WIDTH, HEIGHT)
    list(street.frames(2))
    assert same(street.render(5000), Street(3, WIDTH, HEIGHT).render(5000))


def test_picture_equals_render() -> None:
    """The cheap path gives the same image and labels."""
    image, labels = Street(4, WIDTH, HEIGHT).picture(77)
    frame = Street(4, WIDTH, HEIGHT).render(77)
    assert np.array_equal(image, frame.frame.image)
    assert np.array_equal(labels, frame.labels)


def test_results_stay_what_they_were_when_the_next_frame_is_rendered() -> None:
    """No buffer is shared between frames."""
    street = Street(3, WIDTH, HEIGHT)
    first = street.render(1)
    image, flow = first.frame.image.copy(), first.flow.copy()
    street.render(2)
    assert np.array_equal(first.frame.image, image)
    assert np.array_equal(first.flow, flow)


def test_seeds_differ() -> None:
    """Each seed is another street."""
    images = [Street(seed, WIDTH, HEIGHT).picture(9)[0] for seed in range(4)]
    for number, image in enumerate(images):
        for other in images[:number]:
            assert error(image, other).mean() > 8


def test_frame_header() -> None:
    """Stamp and names are those of a camera message."""
    frame = Street(0, WIDTH, HEIGHT, rate_hz=10.0).render(7).frame
    assert (frame.stamp_ns, frame.frame_id, frame.camera) == (
        700_000_000,
        "street_camera",
        "street",
    )


def test_every_class_appears_and_no_other() -> None:
    """A few clips hold all 11 classes, and no void."""
    counts = np.zeros(256, np.int64)
    for seed in range(6):
        street = Street(seed, WIDTH, HEIGHT)
        for index in range(0, 200, 40):
            counts += np.bincount(street.picture(index)[1].ravel(), minlength=256)
    assert counts[len(CAMVID_CLASSES) :].sum() == 0
    assert (counts[: len(CAMVID_CLASSES)] > 100).all()
    assert counts[ROAD] > 0.15 * counts.sum()


@pytest.mark.parametrize(("seed", "index"), [(0, 4), (3, 123), (8, 302), (11, 47), (5, 4000)])
def test_flow_moves_the_earlier_frame_onto_this_one(seed: int, index: int) -> None:
    """Image and labels of the frame before, pulled by the flow, give this frame."""
    before, now = pair(seed, index)
    clear = ~now.occluded
    moved = error(pulled(before.frame.image, now.flow), now.frame.image)[clear]
    still = error(before.frame.image, now.frame.image)[clear]
    assert clear.mean() > 0.85
    assert np.abs(now.flow[clear]).mean() > 1  # the camera drives in all of these
    assert moved.mean() < 4  # noise alone, twice sigma 1.6, makes about 1.8
    assert moved.mean() < 0.5 * still.mean()
    labels = pulled(before.labels, now.flow, cv2.INTER_NEAREST)
    assert (labels == now.labels)[clear].mean() > 0.99


def test_a_small_error_of_the_flow_would_be_seen() -> None:
    """The measure above is sharp: wrong size, sign, axes or offset raise it."""
    before, now = pair(3, 123)
    clear = ~now.occluded
    exact = error(pulled(before.frame.image, now.flow), now.frame.image)[clear].mean()
    for wrong in (now.flow * 0.9, -now.flow, now.flow[..., ::-1], now.flow + np.float32(0.7)):
        off = error(pulled(before.frame.image, np.ascontiguousarray(wrong)), now.frame.image)
        assert off[clear].mean() > 1.1 * exact


def test_flow_of_the_road_by_hand() -> None:
    """Follow road pixels through the two cameras with trigonometry only."""
    seed, index, rate = 3, 123, 15.0
    world = World(seed, 480, 360)
    here, there = (world.drive.camera(at / rate) for at in (index, index - 1))
    frame = Street(seed).render(index)
    rows, columns = np.nonzero((frame.labels == ROAD) & (np.arange(360) > 200)[:, None])
    assert len(rows) > 10_000
    depth = here.focal * here.position[2] / (rows - here.middle[1])
    aside = (columns - here.middle[0]) / here.focal * depth
    east = here.position[0] + aside * np.cos(here.yaw) + depth * np.sin(here.yaw)
    north = here.position[1] - aside * np.sin(here.yaw) + depth * np.cos(here.yaw)
    east, north = east - there.position[0], north - there.position[1]
    depth = east * np.sin(there.yaw) + north * np.cos(there.yaw)
    aside = east * np.cos(there.yaw) - north * np.sin(there.yaw)
    expected_x = there.middle[0] + there.focal * aside / depth - columns
    expected_y = there.middle[1] + there.focal * there.position[2] / depth - rows
    np.testing.assert_allclose(frame.flow[rows, columns, 0], expected_x, atol=2e-3)
    np.testing.assert_allclose(frame.flow[rows, columns, 1], expected_y, atol=2e-3)


def test_driving_forward_the_ground_came_from_higher_up() -> None:
    """Forward motion: the near ground was higher and nearer the middle before."""
    _, now = pair(3, 123)
    bottom = now.flow[-20:]
    assert (bottom[..., 1] < 0).all()
    assert bottom[:, :100, 0].mean() > bottom[:, -100:, 0].mean()


def test_what_left_or_was_hidden_is_occluded() -> None:
    """Points from outside, or from behind another class, are marked; few others are."""
    before, now = pair(8, 302)
    rows, columns = np.mgrid[:360, :480]
    x, y = columns + now.flow[..., 0], rows + now.flow[..., 1]
    outside = (x < -0.6) | (y < -0.6) | (x > 479.6) | (y > 359.6)
    assert now.occluded[outside].all()
    # Where another class was in the earlier frame, that surface hid this one.
    inside = (x > 1) & (y > 1) & (x < 478) & (y < 358)
    was = pulled(before.labels, now.flow, cv2.INTER_NEAREST)
    hidden = inside & (was != now.labels) & (now.labels != ROAD) & (was != ROAD)
    assert hidden.sum() > 50
    assert now.occluded[hidden].all()
    # And it is no larger than it must be: most pixels are seen in both.
    assert 0.002 < now.occluded.mean() < 0.15


def test_a_wall_before_the_camera_shows_its_picture_texel_for_texel() -> None:
    """A wall of 6.4 m by 4.8 m, 10 m ahead, at 100 pixels focal length, fills 64 x 48 pixels."""
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 4)).astype(np.uint8)
    picture[..., 3] = 255
    camera = Camera((0.0, 0.0, 2.4), 0.0, 100.0, (31.5, 23.5))
    wall = Builder()
    wall.wall((-3.2, 10.0), (3.2, 10.0), (0.0, 4.8), (Texture(picture), CAR, 1))
    nothing = wall.quads(0)[np.zeros(1, np.bool_)]
    sky = World(0, 64, 48).view(0.0).sky
    view = View(camera, sky, wall.quads(0), nothing, np.zeros((0, 4)))
    painting = paint(view, (48, 64), 0, 0.0)
    np.testing.assert_array_equal(painting.image, picture)
    assert (painting.labels() == CAR).all()


def test_what_is_nearer_hides_what_is_farther() -> None:
    """Of two walls in one line of sight the nearer is seen, whichever was added first."""
    camera = Camera((0.0, 0.0, 2.4), 0.0, 100.0, (31.5, 23.5))
    gray = Texture(np.full((8, 8, 4), 255, np.uint8))
    for order in ((5.0, 10.0), (10.0, 5.0)):
        walls = Builder()
        for far in order:
            label = CAR if far == 5.0 else ROAD
            walls.wall((-far, far), (far, far), (0.0, 9.0), (gray, label, 1))
        quads = walls.quads(0)
        sky = World(0, 64, 48).view(0.0).sky
        view = View(camera, sky, quads, quads[np.zeros(2, np.bool_)], np.zeros((0, 4)))
        assert (paint(view, (48, 64), 0, 0.0).labels()[:40] == CAR).all()


def test_first_frame_has_no_motion_and_no_past() -> None:
    """Frame 0 has zero flow and nothing seen before."""
    first = Street(1, WIDTH, HEIGHT).render(0)
    assert not first.flow.any()
    assert first.occluded.all()


def test_the_drive_stops_and_goes_and_cars_move_while_it_stands() -> None:
    """At a stop the world stands still and the traffic does not."""
    street = Street(2, WIDTH, HEIGHT)
    cameras = [World(2, WIDTH, HEIGHT).drive.camera(index / 15) for index in range(420)]
    steps = np.diff([camera.position[1] for camera in cameras])
    assert steps.min() > -1e-9
    assert 0.3 < steps.max() < 2.0
    standing = np.flatnonzero(steps < 1e-6)
    assert 30 < len(standing) < 150
    moved = 0.0
    for index in standing[5:30:8]:
        frame = street.render(int(index) + 1)
        ground = (frame.labels == ROAD) & ~frame.occluded
        assert np.abs(frame.flow[ground]).max() < 1e-3
        assert np.abs(frame.flow[frame.labels == 0]).max() < 1e-3
        moved = max(moved, float(np.abs(frame.flow[~frame.occluded]).max()))
    assert moved > 0.5


def test_the_camera_turns() -> None:
    """The journey has turns."""
    yaws = [World(2, WIDTH, HEIGHT).drive.camera(float(second)).yaw for second in range(60)]
    assert np.ptp(yaws) > 0.1


@pytest.mark.parametrize(("width", "height"), [(16, 16), (97, 61), (61, 97), (640, 16), (17, 300)])
def test_odd_sizes(width: int, height: int) -> None:
    """Small, odd and long pictures work."""
    street = Street(5, width, height)
    for index in (0, 40, 41):
        frame = street.render(index)
        assert frame.frame.image.shape == (height, width, 3)
        assert frame.labels.shape == frame.occluded.shape == (height, width)
        assert frame.flow.shape == (height, width, 2)
        assert frame.flow.dtype == np.float32
        assert np.isfinite(frame.flow).all()
        assert frame.labels.max() < len(CAMVID_CLASSES)


def test_full_hd() -> None:
    """The motion is exact at 1920x1080 too."""
    before, now = Street(6, 1920, 1080).render(60), Street(6, 1920, 1080).render(61)
    clear = ~now.occluded
    moved = error(pulled(before.frame.image, now.flow), now.frame.image)[clear]
    assert moved.mean() < 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 15}, "15x360"),
        ({"height": 8}, "480x8"),
        ({"rate_hz": 0.0}, "rate_hz is 0.0"),
        ({"rate_hz": float("nan")}, "rate_hz is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_refusals_say_why(arguments: dict[str, float], words: str) -> None:
    """A refused argument is named with its value."""
    full: dict[str, float] = {"seed": 0, **arguments}
    with pytest.raises(ConfigError, match=words):
        Street(**full)  # type: ignore[arg-type]


def test_a_negative_index_is_refused() -> None:
    """There is nothing before frame 0."""
    street = Street(0, WIDTH, HEIGHT)
    with pytest.raises(ConfigError, match="frame -1"):
        street.render(-1)
    with pytest.raises(ConfigError, match="frame -2"):
        street.picture(-2)
