"""Mode adaptive through `Segmenter.step`: the laws, and what an operator counts on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast, TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from torch import nn, Tensor

from seg_node.core.block_history import BlockHistory
from seg_node.core.blocks import BlockLayout, grid_shape
from seg_node.core.budgeted import Budgeted
from seg_node.core.comparing import COLOURS
from seg_node.core.config import Config, Value
from seg_node.core.execution import Executor
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import filled, NOTHING, Remembers, UNTRAINED
from seg_node.core.types import Action, Frame, Plan, Reason, WARM_UP_CAMERA
from seg_node.data.street import Street
from seg_node.nets.build import build_network, NETWORKS
from test.core.flops import flop_counter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seg_node.core.policy import Past
    from seg_node.core.types import StepReport, StepResult

STEP_NS = 66_000_000
SIZE = (96, 128)
SIDE = 32


class Redness(nn.Module):
    """Tells red things from others; convolutions only, the face of any network.

    Args:
        gain: logits per share of red; the more, the more certain it is.

    """

    classes, stride, feature_channels = 2, 4, 1

    def __init__(self, gain: float = 40.0) -> None:
        """Set the weights by hand: they average, and subtract green and blue from red."""
        super().__init__()
        self.colour = nn.Conv2d(3, 1, 3, 2, 1, bias=False)
        self.smooth = nn.Conv2d(1, 1, 3, 2, 1, bias=False)
        self.head = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            weights = torch.tensor([1.0, -0.5, -0.5]) / 255 / 9
            self.colour.weight[:] = weights.view(1, 3, 1, 1).expand(1, 3, 3, 3)
            self.smooth.weight.fill_(1 / 9)
            self.head.weight[:] = torch.tensor([-gain, gain]).view(2, 1, 1, 1)
            cast("Tensor", self.head.bias)[:] = torch.tensor([gain, -gain]) * 0.3

    def features(self, image: Tensor) -> Tensor:
        """Map RGB to how red it is, at a quarter of the resolution."""
        found: Tensor = self.smooth(self.colour(image.to(self.colour.weight.dtype)))
        return found

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB to logits."""
        logits: Tensor = self.head(self.features(image))
        return logits


class Chosen:
    """Computes the blocks of given grids, one after the other, once the first frame is known."""

    remembers = Remembers.BLOCKS

    def __init__(self, grids: Sequence[NDArray[np.uint8]]) -> None:
        """Take the grids."""
        self.grids = list(grids)

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return the next grid."""
        if past.lost is not None:
            return Plan(filled(image, config, Action.HIGH), past.lost)
        return Plan(self.grids.pop(0), Reason.REFRESHED)

    def learn(self, camera: str, plan: Plan, report: StepReport, interval_ns: int) -> None:
        """Forget it."""

    def macs(self, size: tuple[int, int], side: int) -> int:  # noqa: ARG002 - the same for all
        """Return 0."""
        return 0


def adaptive(
    net: nn.Module, policy: Budgeted | Chosen | None = None, **values: Value
) -> Segmenter:
    settings = {"mode": "adaptive", "block_size": SIDE, "device": "cpu", **values}
    config = Config().updated({name.replace("__", "."): x for name, x in settings.items()})
    return Segmenter(net, {**UNTRAINED, "adaptive": policy or Budgeted()}, config)


def dense(net: nn.Module) -> Segmenter:
    return Segmenter(net, UNTRAINED, Config(device="cpu", mode="dense"))


def frames(images: Sequence[NDArray[np.uint8]], camera: str = "front") -> list[Frame]:
    """Return images at 15 Hz; stamps begin at one second."""
    return [
        Frame(image, 1_000_000_000 + i * STEP_NS, "optical", camera)
        for i, image in enumerate(images)
    ]


def still(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[Frame]:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return frames([np.asarray(image, np.uint8)] * count)


def panned(count: int, pixels: float = 2.0, size: tuple[int, int] = SIZE) -> list[Frame]:
    """Return frames of a camera that pans, and back, over detail of several sizes."""
    rng = np.random.default_rng(4)
    planes = [rng.integers(0, 256, (n, 2 * n, 3)).astype(np.uint8) for n in (5, 20, 60)]
    wide = np.mean([cv2.resize(p, (640, 160), interpolation=cv2.INTER_CUBIC) for p in planes], 0)
    at = [pixels * (i if i % 200 < 100 else 100 - i % 100) % 400 for i in range(count)]
    shift = [np.array([[1, 0, -x], [0, 1, -8]], np.float32) for x in at]
    return frames([cv2.warpAffine(wide, m, size[::-1]).astype(np.uint8) for m in shift])


@pytest.fixture(scope="module")
def street() -> list[Frame]:
    """Return 100 frames of the street, driven to and fro."""
    cv2.setNumThreads(1)
    drive = [street_frame.frame.image for street_frame in Street(3, SIZE[1], SIZE[0]).frames(11)]
    turns = [*range(10), *range(10, 0, -1)]
    return frames([drive[turns[i % 20]] for i in range(100)])


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(1)
    return build_network("swiftnet18-half", 5).eval()


def history(pipeline: Segmenter, camera: str = "front") -> BlockHistory:
    found = pipeline._histories[camera]
    assert isinstance(found, BlockHistory)
    return found


def remembered(pipeline: Segmenter) -> Tensor:
    """Return the logits that are remembered of all pixels after a step."""
    kept = history(pipeline)
    assert kept._origins is not None
    return kept._results.read(kept._origins)[:, :-COLOURS]


def assert_same(one: StepResult, other: StepResult) -> None:
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.confidence, other.confidence)


# ---- laws 2 and 5 -------------------------------------------------------------------------------


def test_law_5_without_limits_it_is_dense(net: nn.Module, street: list[Frame]) -> None:
    pipeline = adaptive(net, budget__compute=1.0, reuse__threshold=0.0)
    reference = dense(net)
    for index, frame in enumerate(street[:6]):
        found, expected = pipeline.step(frame), reference.step(frame)
        assert_same(found, expected)
        assert found.report.macs == found.report.dense_macs == expected.report.macs
        assert found.plan.reason is (Reason.REFRESHED if index else Reason.FIRST)


@pytest.mark.parametrize("source", ["none", "flow"])
def test_law_2_what_stands_still_stays_bit_for_bit(net: nn.Module, source: str) -> None:
    pipeline = adaptive(net, motion__source=source, max_age_ms=60000.0)
    first, *others = [pipeline.step(frame) for frame in still(6)]
    for index, result in enumerate(others, start=1):
        assert (result.plan.grid == Action.REUSE).all()
        assert result.report.macs == 0
        assert_same(result, first)
        np.testing.assert_array_equal(result.age_ms, index * 66)


def test_law_2_holds_after_blocks_were_computed(net: nn.Module) -> None:
    """Also where a block was computed of another picture than its neighbours."""
    some = np.array([[2, 0, 0, 2], [0, 2, 0, 0], [0, 0, 2, 0]], np.uint8)
    none = np.zeros_like(some)
    pipeline = adaptive(net, Chosen([some, none, none]), motion__source="none")
    before, changed = still(1)[0], still(4, seed=0)
    image = changed[0].image.copy()
    image[:40, :60] //= 2
    pipeline.step(before)
    results = [pipeline.step(replace(frame, image=image)) for frame in changed[1:]]
    assert results[0].plan.fraction(Action.HIGH) == 1 / 3
    for result in results[1:]:
        assert_same(result, results[0])
        assert result.report.macs == 0


# ---- refreshed blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "size", "dtype", "tolerance"),
    [
        (32, (71, 101), torch.float64, 1e-9),
        (64, (130, 75), torch.float64, 1e-9),
        (32, (64, 96), torch.float32, 1e-4),
    ],
    ids=["32", "64", "float32"],
)
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_blocks_of_a_still_picture_are_the_dense_ones(
    name: str, side: int, size: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    """What surrounds them comes out of tiles: for every network, and also for the next ones."""
    torch.manual_seed(1)
    shape = grid_shape(*size, side)
    rng = np.random.default_rng(0)
    grids = [np.where(rng.random(shape) < 0.5, 2, 0).astype(np.uint8) for _ in range(3)]
    for grid in grids:
        grid.flat[:2] = 2, 0
    pipeline = adaptive(build_network(name, 5), Chosen(grids), block_size=side)
    pipeline._executor.net.to(dtype)
    shown = still(4, size)
    pixels = torch.from_numpy(shown[0].image).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = pipeline._executor.net(pixels)
    scale = float(expected.std())
    for index, frame in enumerate(shown):
        result = pipeline.step(frame)
        if index:
            assert 0 < result.plan.fraction(Action.HIGH) < 1
        off = float((remembered(pipeline) - expected).abs().max())
        assert off / scale < tolerance


def test_blocks_of_a_moving_picture_are_nearly_the_dense_ones(net: nn.Module) -> None:
    """Far more alike than blocks that see nothing of what surrounds them."""
    shown = panned(8)
    half = np.tile(np.array([[2, 0], [0, 2]], np.uint8), (2, 2))[:3]
    pipeline = adaptive(net, Chosen([half, 2 - half] * 4))
    for frame in shown:
        pipeline.step(frame)
    with torch.inference_mode():
        pixels = torch.from_numpy(shown[-1].image).permute(2, 0, 1)[None]
        expected = pipeline._executor.net(pixels)
    off = (remembered(pipeline) - expected).abs().mean() / expected.std()
    assert float(off) < 0.25


# ---- laws 6, 7 and 8 ----------------------------------------------------------------------------


def test_law_6_two_runs_are_bit_identical(net: nn.Module, street: list[Frame]) -> None:
    first, second = adaptive(net), adaptive(net)
    for frame in street[:25]:
        one, other = first.step(frame), second.step(frame)
        assert_same(one, other)
        np.testing.assert_array_equal(one.plan.grid, other.plan.grid)
        np.testing.assert_array_equal(one.age_ms, other.age_ms)
        assert one.report.macs == other.report.macs


def test_law_6_warming_up_changes_no_plan(street: list[Frame]) -> None:
    cold, warm = (adaptive(Redness(), budget__compute=0.15) for _ in range(2))
    warm.warm_up(*street[0].image.shape[:2])
    for frame in street[:20]:
        plans = [pipeline.step(frame).plan for pipeline in (cold, warm)]
        np.testing.assert_array_equal(plans[0].grid, plans[1].grid)


def test_law_7_blocks_cost_their_share(street: list[Frame]) -> None:
    """Halos are free: of a network without pooled context, k of n blocks cost k / n of it."""
    pipeline = adaptive(Redness(), reuse__threshold=0.0, budget__compute=0.15)
    shares = []
    for frame in street[:20]:
        result = pipeline.step(frame)
        shares.append(result.plan.fraction(Action.HIGH))
        assert result.report.macs * result.plan.grid.size == result.report.dense_macs * round(
            shares[-1] * result.plan.grid.size
        )
    assert shares[0] == 1
    assert np.mean(shares[1:]) == pytest.approx(0.15, abs=0.02)


def test_law_7_the_count_is_that_of_the_operations_that_run(net: nn.Module) -> None:
    pipeline = adaptive(net, reuse__threshold=0.0)
    first, second, third = panned(3, size=(75, 140))
    pipeline.step(first)
    for frame in (second, third):
        with flop_counter() as counter:
            result = pipeline.step(frame)
        assert 0 < result.report.macs == counter.get_total_flops() // 2
        assert result.report.macs < 0.4 * result.report.dense_macs


@pytest.mark.parametrize("max_age_ms", [150.0, 700.0])
def test_law_8_no_pixel_is_older_than_allowed(street: list[Frame], max_age_ms: float) -> None:
    """Nothing is worth computing here: blocks are computed because they are due, a few a frame."""
    pipeline = adaptive(Redness(), max_age_ms=max_age_ms, reuse__threshold=255.0)
    counts, oldest = [], []
    for frame in street:
        result = pipeline.step(frame)
        counts.append(int((result.plan.grid == Action.HIGH).sum()))
        oldest.append(int(result.age_ms.max()))
        assert result.age_ms.shape == result.plan.grid.shape == (3, 4)
        assert not result.age_ms[result.plan.grid == Action.HIGH].any()
    assert max(oldest) <= max_age_ms
    assert max(oldest) > max_age_ms - 66
    assert max(counts[1:]) < 12
    assert 0 < np.mean(counts[1:]) < 2.5 * 12 * 66 / max_age_ms


def test_law_8_no_age_at_all_is_dense(net: nn.Module, street: list[Frame]) -> None:
    pipeline, reference = adaptive(net, max_age_ms=0.0), dense(net)
    for frame in street[:4]:
        result = pipeline.step(frame)
        assert not result.age_ms.any()
        assert_same(result, reference.step(frame))
        assert result.report.macs == result.report.dense_macs


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": still(1, seed=9)[0].image}, Reason.SCENE_CUT),
        ({"image": still(1, (64, 128))[0].image}, Reason.CAMERA),
        ({"frame_id": "another"}, Reason.CAMERA),
        ({"stamp_ns": 10_000_000_000}, Reason.GAP),
        ({"stamp_ns": 1}, Reason.GAP),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)
def test_a_cut_or_jump_is_answered_in_the_same_frame(
    net: nn.Module, change: dict[str, object], reason: Reason
) -> None:
    pipeline = adaptive(net)
    shown = still(4)
    for frame in shown[:3]:
        pipeline.step(frame)
    odd = replace(shown[3], **change)  # type: ignore[arg-type]  # fields of a frame
    result = pipeline.step(odd)
    assert result.plan.reason is reason
    assert_same(result, dense(net).step(odd))
    assert result.report.macs == result.report.dense_macs
    after = pipeline.step(replace(odd, stamp_ns=odd.stamp_ns + STEP_NS))
    assert after.plan.reason is Reason.REFRESHED
    assert_same(after, result)


# ---- what an operator counts on -----------------------------------------------------------------


def scene_with(square: tuple[int, int] | None, size: tuple[int, int] = (128, 192)) -> Frame:
    """Return a bright grey scene with a dark red square of 12 pixels at (row, column)."""
    image = still(1, size)[0].image.copy()
    image[:] = image.mean(2, keepdims=True).astype(np.uint8) // 3 + 150
    if square is not None:
        image[square[0] : square[0] + 12, square[1] : square[1] + 12] = (200, 10, 10)
    return Frame(image, 0, "optical", "front")


@pytest.mark.parametrize("gain", [6.0, 40.0, 400.0], ids=["doubtful", "sure", "certain"])
def test_a_small_fast_object_is_in_the_mask_in_the_frame_in_which_it_comes(gain: float) -> None:
    """12 pixels wide, it crosses a still scene at 18 pixels a frame, in a few of 24 blocks."""
    pipeline, reference = adaptive(Redness(gain)), dense(Redness(gain))
    path = [None, None, None, *[(41, 3 + 18 * i) for i in range(10)], None]
    shares = []
    for index, square in enumerate(path):
        frame = replace(scene_with(square), stamp_ns=index * STEP_NS)
        result, expected = pipeline.step(frame), reference.step(frame).labels
        assert expected.any() == (square is not None)
        assert result.labels.any() == (square is not None)  # nor does it stay where it was
        if square is not None:
            both = (result.labels & expected).sum() / (result.labels | expected).sum()
            assert both > 0.7
        shares.append(result.plan.fraction(Action.HIGH))
    assert max(shares[1:]) <= 0.25
    assert np.mean(shares[1:]) <= 0.15


def test_an_object_as_bright_as_its_background_is_seen() -> None:
    """Red on green of equal grey: no grey picture tells one from the other."""
    green, red = (60, 100, 60), (170, 42, 63)
    pixels = np.array([[green, red]], np.uint8)
    assert np.ptp(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(int)) <= 1
    pipeline, shown = adaptive(Redness(40.0)), []
    for index in range(4):
        image = np.full((128, 192, 3), green, np.uint8)
        if index == 3:
            image[40:60, 100:120] = red
        shown.append(pipeline.step(Frame(image, index * STEP_NS, "optical", "front")))
    assert shown[2].plan.fraction(Action.HIGH) == 0
    assert 0 < shown[3].plan.fraction(Action.HIGH) < 0.25
    assert (shown[3].labels[46:56, 106:116] == 1).all()


def test_a_budget_is_turned_while_driving(street: list[Frame]) -> None:
    pipeline = adaptive(Redness(), reuse__threshold=0.0)
    means = []
    for share, part in ((0.15, street[:20]), (0.5, street[20:40]), (0.1, street[40:60])):
        pipeline.reconfigure(pipeline.config.updated({"budget.compute": share}))
        results = [pipeline.step(frame) for frame in part]
        counts = [r.plan.fraction(Action.HIGH) for r in results if r.plan.reason != Reason.FIRST]
        assert max(counts) <= share + 2 / 12
        means.append(np.mean(counts))
    assert means == pytest.approx([0.15, 0.5, 0.1], abs=0.03)


def test_memory_is_bounded_for_hundreds_of_frames() -> None:
    pipeline = adaptive(Redness(), reuse__threshold=0.0, budget__compute=0.3)
    tiles, features, rows = [], [], []
    for frame in panned(300, 2.7):
        pipeline.step(frame)
        kept = history(pipeline)
        assert kept.features is not None
        tiles.append(len(kept._results.stamps_ns))
        features.append(kept.features.capacity)
        rows.append(len(kept.features._rows))
    assert tiles[0] == 2 * 12
    assert max(tiles) <= 6 * 12
    assert max(tiles[100:]) == max(tiles)
    assert set(features) == {18}
    assert max(rows) <= 2  # windows of the two convolutions, of this frame only


def test_cameras_do_not_mix(net: nn.Module) -> None:
    """Two cameras in turns, of different scenes, each get what they get alone."""

    def limited() -> Segmenter:  # the budget is shared, what is due is not
        return adaptive(net, reuse__threshold=255.0, max_age_ms=200.0)

    front, rear = panned(8), frames([f.image[::-1].copy() for f in panned(8, -3.0)], "rear")
    both, alone = limited(), [limited(), limited()]
    for pair in zip(front, rear, strict=True):
        for frame, own in zip(pair, alone, strict=True):
            together, apart = both.step(frame), own.step(frame)
            np.testing.assert_array_equal(together.plan.grid, apart.plan.grid)
            assert_same(together, apart)


def test_a_full_frame_can_be_asked_for_and_everything_be_forgotten(net: nn.Module) -> None:
    pipeline, shown = adaptive(net), panned(8)
    told = [pipeline.step(frame).plan.reason for frame in shown[:2]]
    pipeline.ask_full_frame()
    told += [pipeline.step(frame).plan.reason for frame in shown[2:4]]
    pipeline.reset()
    told += [pipeline.step(frame).plan.reason for frame in shown[4:5]]
    for mode in ("warp", "adaptive"):
        pipeline.reconfigure(pipeline.config.updated({"mode": mode}))
        told.append(pipeline.step(shown[len(told)]).plan.reason)
    first, more = Reason.FIRST, Reason.REFRESHED
    assert told == [first, more, Reason.ASKED, more, first, first, first]


def test_warming_up_leaves_nothing_behind(net: nn.Module) -> None:
    pipeline = adaptive(net)
    pipeline.warm_up(*SIZE)
    assert WARM_UP_CAMERA not in pipeline._histories
    assert pipeline.step(still(1)[0]).plan.reason is Reason.FIRST


def test_warming_up_computes_blocks_and_leaves_their_room_to_the_first_camera(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What takes long at first would else be taken for what blocks cost."""
    counts, on_blocks = [], Executor._on_blocks

    def counted(self: Executor, image: Tensor, layout: BlockLayout, *args: Any) -> Any:
        counts.append(layout.count(Action.HIGH))
        return on_blocks(self, image, layout, *args)

    monkeypatch.setattr(Executor, "_on_blocks", counted)
    pipeline = adaptive(Redness())
    pipeline.warm_up(*SIZE)
    assert counts == [1, 1]  # of one block, and of an eighth of twelve
    warm = pipeline._spare
    assert warm is not None
    rooms = [tensor.data_ptr() for tensor in warm.tensors()]
    pipeline.step(still(1)[0])
    assert history(pipeline) is warm
    assert set(rooms) & {tensor.data_ptr() for tensor in warm.tensors()}


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (65, 97), (20, 200)])
def test_blocks_larger_than_the_image_and_odd_sizes(net: nn.Module, size: tuple[int, int]) -> None:
    pipeline = adaptive(net, reuse__threshold=0.0, budget__compute=0.5, max_age_ms=200.0)
    for frame in panned(5, 1.3, size):
        result = pipeline.step(frame)
        assert result.labels.shape == size
        assert result.plan.grid.shape == result.age_ms.shape == grid_shape(*size, SIDE)
        assert result.age_ms.max() <= 200


def test_precision_does_not_make_a_still_picture_change(net: nn.Module) -> None:
    """Grey levels are remembered in the network's own number format."""
    with torch.random.fork_rng():
        slim = build_network("swiftnet18-half", 5)
    slim.load_state_dict(net.state_dict())
    pipeline = adaptive(slim, precision="bf16")
    results = [pipeline.step(frame) for frame in still(3)]
    assert results[2].report.macs == 0
    assert_same(results[2], results[0])
