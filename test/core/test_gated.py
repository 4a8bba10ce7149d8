"""Mode stmg through `Segmenter.step`: the laws, for three networks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from seg_node.core.bins import Part
from seg_node.core.blocks import grid_shape, to_pixels
from seg_node.core.config import Config, Value
from seg_node.core.flow import FlowEstimator
from seg_node.core.gate import Gated
from seg_node.core.gate_memory import Content, StageMemory
from seg_node.core.gated import GatedHistory
from seg_node.core.gated_modules import stages_of
from seg_node.core.motion import UNKNOWN_DISTORTION
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import NOTHING, UNTRAINED
from seg_node.core.residual import find_gated_modules, find_residual_blocks
from seg_node.core.tracking import OnHost
from seg_node.core.types import Action, ConfigError, Frame, Plan, Reason
from seg_node.data.street import Street
from seg_node.nets.build import build_network
from test.core.flops import flop_counter
from test.core.motions import picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn, Tensor

    from seg_node.core.policy import Past
    from seg_node.core.types import StepResult

STEP_NS = 66_000_000
SIZE = (45, 75)
SIDE = 32
NETS = ("swiftnet18-half", "bisenet18", "pspnet18")


class Chosen(Gated):
    """Keeps what given gates say, once the first frame is known."""

    def choose(self, gates: Sequence[NDArray[np.bool_]]) -> Chosen:
        """Take the gates of the frames after the first."""
        self.gates = list(gates)
        return self

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return the next gates."""
        first = super().plan(image, config, past)
        if past.lost is not None:
            return first
        return replace(first, gates=self.gates.pop(0))


def stmg(net: nn.Module, policy: Gated | None = None, **values: Value) -> Segmenter:
    settings = {"mode": "stmg", "block_size": SIDE, "device": "cpu", **values}
    config = Config().updated({name.replace("__", "."): x for name, x in settings.items()})
    policy = policy or Gated(find_gated_modules(net))
    return Segmenter(net, {**UNTRAINED, "stmg": policy}, config)


def dense(net: nn.Module) -> Segmenter:
    return Segmenter(net, UNTRAINED, Config(device="cpu", mode="dense"))


def frames(images: Sequence[NDArray[np.uint8]]) -> list[Frame]:
    """Return images at 15 Hz; stamps begin at one second."""
    return [
        Frame(image, 1_000_000_000 + i * STEP_NS, "optical", "front")
        for i, image in enumerate(images)
    ]


def still(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[Frame]:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return frames([np.asarray(image, np.uint8)] * count)


@pytest.fixture(scope="module")
def street() -> list[Frame]:
    cv2.setNumThreads(1)
    return frames([made.frame.image for made in Street(3, 128, 96).frames(12)])


@pytest.fixture(scope="module")
def small(street: list[Frame]) -> list[Frame]:
    return [replace(frame, image=frame.image[:64, :96].copy()) for frame in street[:3]]


@pytest.fixture(scope="module", params=NETS)
def any_net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    return build_network(request.param, 5).eval()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(1)
    return build_network("swiftnet18-half", 5).eval()


def assert_same(one: StepResult, other: StepResult) -> None:
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.confidence, other.confidence)


def some_gates(
    net: nn.Module, count: int, size: tuple[int, int] = SIZE
) -> list[NDArray[np.bool_]]:
    shape = (len(stages_of(find_gated_modules(net))), *grid_shape(*size, SIDE))
    gates = list(np.random.default_rng(0).random((count, *shape)) < 0.5)
    for gate in gates:
        gate[:, 0, 0], gate[:, 0, 1] = True, False
    return gates


def test_law_4_open_gates_are_the_network_without_gates(
    any_net: nn.Module, small: list[Frame]
) -> None:
    pipeline, reference = stmg(any_net, gate__threshold=0.0), dense(any_net)
    for index, frame in enumerate(small[:2]):
        found, expected = pipeline.step(frame), reference.step(frame)
        assert_same(found, expected)
        assert found.report.macs == expected.report.macs
        assert not found.age_ms.any()
        assert (found.plan.grid == Action.HIGH).all()
        assert found.plan.gates is not None
        assert found.plan.gates.all()
        assert found.plan.reason is (Reason.GATED if index else Reason.FIRST)


def test_law_2_what_stands_still_stays_bit_for_bit(any_net: nn.Module) -> None:
    """Also after bins were computed of another picture, though skips run anew."""
    blocks = find_gated_modules(any_net)
    some = some_gates(any_net, 1)
    policy = Chosen(blocks).choose([*some, *np.zeros((2, *some[0].shape), np.bool_)])
    pipeline = stmg(any_net, policy, motion__source="none")
    before, *others = still(4)
    image = others[0].image.copy()
    image[:40, :60] -= image[:40, :60] // 8
    pipeline.step(before)
    first, *results = [pipeline.step(replace(frame, image=image)) for frame in others]
    for result in results:
        assert_same(result, first)
        assert result.report.macs < first.report.macs
        assert (result.plan.grid == Action.REUSE).all() == (result.plan.distortion == 0)


@pytest.mark.parametrize("source", ["none", "flow"])
def test_law_2_nothing_moves_nothing_is_computed(net: nn.Module, source: str) -> None:
    pipeline = stmg(net, max_age_ms=60000.0, motion__source=source)
    first, *others = [pipeline.step(frame) for frame in still(5)]
    for index, result in enumerate(others, start=1):
        assert (result.plan.grid == Action.REUSE).all()
        assert_same(result, first)
        np.testing.assert_array_equal(result.age_ms, index * 66)


def test_bins_of_a_still_picture_are_those_of_the_dense_network(any_net: nn.Module) -> None:
    """Computed amid remembered ones, and remembered amid computed ones, time and again."""
    policy = Chosen(find_gated_modules(any_net)).choose(some_gates(any_net, 2))
    pipeline = stmg(any_net, policy, motion__source="none")
    first, *others = [pipeline.step(frame) for frame in still(3)]
    for result in others:
        off = np.abs(result.confidence.astype(int) - first.confidence)
        assert off.max() <= 1
        assert (result.labels != first.labels).mean() < 1e-3
        assert 0 < result.report.macs < result.report.dense_macs


def test_law_7_the_count_is_that_of_the_operations_that_run(
    any_net: nn.Module, small: list[Frame]
) -> None:
    policy = Chosen(find_gated_modules(any_net)).choose(some_gates(any_net, 2, (64, 96)))
    pipeline = stmg(any_net, policy)
    pipeline.step(small[0])
    for frame in small[1:]:
        with flop_counter() as counter:
            result = pipeline.step(frame)
        assert 0 < result.report.macs == counter.get_total_flops() // 2


def test_what_a_gated_convolution_alone_reads_or_feeds_runs_in_its_bins_alone(
    net: nn.Module,
) -> None:
    """The finest lateral connection before it, and the last layer behind it."""
    modules = find_gated_modules(net)
    gates = np.zeros((2, len(stages_of(modules)), *grid_shape(*SIZE, SIDE)), np.bool_)
    gates[1, -1, 0, 0] = True
    pipeline = stmg(net, Chosen(modules).choose(list(gates)), motion__source="none")
    first, *others = still(3)
    pipeline.step(first)
    none, one = (pipeline.step(frame).report.macs for frame in others)
    side = SIDE // modules[-1].stride
    lateral, blend = (
        net.get_parameter(f"decoder.2.{name}.0.weight") for name in ("lateral", "blend")
    )
    head = net.get_parameter("head.weight")
    # One pixel more below and to the right; above and to the left the image ends.
    read = (side + 1) ** 2 * lateral.numel()
    assert one - none == read + side**2 * (blend.numel() + head.numel())


def test_law_8_no_pixel_is_older_than_allowed(net: nn.Module, street: list[Frame]) -> None:
    """Though gates drop all they may; and not all bins are due at once."""
    pipeline = stmg(net, max_age_ms=330.0, gate__threshold=1.0)
    oldest, kept = [], []
    for frame in street:
        result = pipeline.step(frame)
        assert result.plan.gates is not None
        oldest.append(int(result.age_ms.max()))
        kept.append(float(result.plan.gates.mean()))
        assert result.age_ms.shape == result.plan.grid.shape
    assert 330 - 66 <= max(oldest) <= 330
    assert max(kept[1:]) < 0.75


def test_ages_are_those_of_what_a_bin_was_computed_from(net: nn.Module) -> None:
    """A block that is computed from an old result is as old as that."""
    gates = np.zeros((3, 7, *grid_shape(*SIZE, SIDE)), np.bool_)
    gates[0, 2:], gates[1, :, 0, 0] = True, True
    pipeline = stmg(net, Chosen(find_gated_modules(net)).choose(list(gates)))
    ages = [pipeline.step(frame).age_ms for frame in still(4)]
    np.testing.assert_array_equal(ages[1], 66)
    assert ages[2][0, 0] == 0
    assert ages[2].max() == 132
    assert (ages[3][0, 0], ages[3].max()) == (66, 198)


def test_bins_fit_the_size_of_a_cameras_images_also_when_it_changes(net: nn.Module) -> None:
    """About a third of the shorter side where `block_size` does not say it: 192, then 128."""
    pipeline, grids = stmg(net, block_size=0), []
    for frame in (*still(2, (480, 640)), *still(4, (360, 640))[2:]):
        result = pipeline.step(frame)
        grids.append((result.plan.grid.shape, result.age_ms.shape, result.plan.reason))
    first, second = ((3, 4), (3, 4)), ((3, 5), (3, 5))
    assert grids == [
        (*first, Reason.FIRST),
        (*first, Reason.GATED),
        (*second, Reason.CAMERA),
        (*second, Reason.GATED),
    ]


def test_stages_that_share_where_content_is_are_as_if_each_had_its_own(
    net: nn.Module, street: list[Frame]
) -> None:
    """They part where their gates differ, and meet where all of both are computed."""
    rng = np.random.default_rng(0)
    gates = rng.random((4, 4, 3, 4)) < 0.5
    gates[:, 1], gates[2, 2:] = gates[:, 0], True
    runs, shared = [], []
    for alone in (False, True):
        policy = Chosen(find_residual_blocks(net)).choose(list(gates))
        pipeline, results = stmg(net, policy), []
        for frame in street[:5]:
            results.append(pipeline.step(frame))
            history = pipeline._histories["front"]
            assert isinstance(history, GatedHistory)
            if alone:
                history._contents = [content.copy() for content in history._contents]
            else:
                shared.append([history._contents.index(content) for content in history._contents])
        runs.append(results)
    assert shared == [[0] * 4, [0, 0, 2, 3], [0, 0, 2, 3], [0, 0, 2, 2], [0, 0, 2, 3]]
    for one, other in zip(*runs, strict=True):
        assert_same(one, other)
        np.testing.assert_array_equal(one.age_ms, other.age_ms)
        assert one.report.macs == other.report.macs


def test_law_6_two_runs_are_bit_identical(net: nn.Module, street: list[Frame]) -> None:
    first, second = stmg(net), stmg(net)
    for frame in street[:4]:
        one, other = first.step(frame), second.step(frame)
        assert_same(one, other)
        assert one.plan.gates is not None
        assert other.plan.gates is not None
        np.testing.assert_array_equal(one.plan.gates, other.plan.gates)
        assert one.report.macs == other.report.macs


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": still(1, seed=9)[0].image}, Reason.SCENE_CUT),
        ({"image": still(1, (64, 128))[0].image}, Reason.CAMERA),
        ({"frame_id": "another"}, Reason.CAMERA),
        ({"stamp_ns": 10_000_000_000}, Reason.GAP),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)
def test_a_jump_forces_a_full_frame(
    net: nn.Module, change: dict[str, object], reason: Reason
) -> None:
    pipeline = stmg(net)
    before, after, _ = still(3)
    pipeline.step(before)
    frame = replace(after, **change)  # type: ignore[arg-type]  # fields of a frame
    result = pipeline.step(frame)
    assert result.plan.reason is reason
    assert_same(result, dense(net).step(frame))
    later = pipeline.step(replace(frame, stamp_ns=frame.stamp_ns + STEP_NS))
    assert later.plan.reason is Reason.GATED
    assert_same(later, result)


def test_an_asked_frame_is_computed_in_full(net: nn.Module) -> None:
    pipeline = stmg(net)
    first, second, third = still(3)
    pipeline.step(first)
    pipeline.ask_full_frame()
    assert pipeline.step(second).plan.reason is Reason.ASKED
    assert pipeline.step(third).plan.reason is Reason.GATED


def test_memory_follows_what_moves(net: nn.Module) -> None:
    """With all reused, moved features are nearly the dense ones, and give nearly what these do."""
    rng = np.random.default_rng(4)
    planes = [rng.integers(0, 256, (n, 2 * n, 3)).astype(np.uint8) for n in (5, 20, 60)]
    wide = np.mean([cv2.resize(p, (640, 160), interpolation=cv2.INTER_CUBIC) for p in planes], 0)
    shift = [np.array([[1, 0, -4.0 * i], [0, 1, -8]], np.float32) for i in range(5)]
    shown = frames([cv2.warpAffine(wide, m, (256, 96)).astype(np.uint8) for m in shift])
    expected = dense(net).step(shown[-1]).confidence.astype(float)
    first = _Result(net, 0)
    features = first.of(dense(net), shown)
    off, features_off = {}, {}
    for source in ("flow", "none"):
        pipeline = stmg(net, gate__threshold=1.0, motion__source=source)
        found = [pipeline.step(frame) for frame in shown][-1].confidence
        off[source] = np.abs(found - expected)[16:-16, 16:-48].mean()
        moved = first.of(stmg(net, gate__threshold=1.0, motion__source=source), shown)
        features_off[source] = float((moved - features).abs()[..., 4:-4, 4:-12].mean())
    assert off["flow"] < 0.5 * off["none"]
    assert features_off["flow"] < 0.5 * features_off["none"]


def test_errors_of_motion_do_not_add_up_where_it_is_estimated(net: nn.Module) -> None:
    """Frames are panned by fractions of a pixel, and the memory never learns of a new one.

    Motion is estimated roughly, so that there are errors to see.
    """
    wide = picture(3, (112, 220))
    steps = [np.array([[1, 0, -0.75 * i - 8], [0, 1, -8]], np.float32) for i in range(12)]
    shown = frames(
        [cv2.warpAffine(wide, m, (160, 96), flags=cv2.INTER_CUBIC).astype(np.uint8) for m in steps]
    )
    off = {}
    for corrected in (True, False):
        pipeline = stmg(net, gate__threshold=1.0, max_age_ms=60000.0)
        pipeline.step(shown[0])
        history = pipeline._histories["front"]
        assert isinstance(history, GatedHistory)
        assert isinstance(history._method, OnHost)
        history._method._estimator = FlowEstimator(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        if not corrected:
            nothing = np.zeros((96, 160, 2), np.float32)
            history._method.correct = lambda moved, image, most_left=1.0: nothing  # type: ignore[method-assign]  # noqa: ARG005, B023 - names are those of the method
        last = [pipeline.step(frame) for frame in shown[1:]][-1]
        assert last.plan.distortion is not None
        off[corrected] = last.plan.distortion
    assert off[True] < 0.9 * off[False]


def test_what_skips_brings_what_is_new(net: nn.Module) -> None:
    """With all reused on a picture that moves on, against results that are shown as they were.

    The picture also gets another brightness, which no motion explains.
    """
    blocks = find_residual_blocks(net)
    rng = np.random.default_rng(4)
    wide = cv2.resize(rng.integers(0, 256, (20, 60, 3)).astype(np.uint8), (480, 160))
    parts = [wide[8 : 8 + 96, 4 * i : 4 * i + 256] // 20 * (20 - i) for i in range(3)]
    shown = frames([np.ascontiguousarray(part, np.uint8) for part in parts])
    features = _Result(net)
    expected = features.of(dense(net), shown)
    copies = [replace(block, join=None) for block in blocks]
    stages = [
        [replace(b, join=b.join if b.passes_input else None) for b in blocks],
        blocks,
    ]
    off = []
    for kinds in (copies, *stages):
        none = [np.zeros((4, 3, 8), np.bool_)] * 2
        found = features.of(stmg(net, Chosen(kinds).choose(none)), shown)
        off.append(float((found - expected).abs().mean()))
    assert off[2] < 0.8 * off[1] < 0.8 * off[0]


class _Result:
    """What a residual block of a network made last; of the last block unless told."""

    def __init__(self, net: nn.Module, block: int = -1) -> None:
        """Watch the block of that number."""
        self.net, self.block = net, block

    def of(self, pipeline: Segmenter, shown: Sequence[Frame]) -> Tensor:
        """Return the features of the last frame."""
        seen: list[Tensor] = []
        last = find_residual_blocks(self.net)[self.block].module
        handle = last.register_forward_hook(lambda *given: seen.append(given[-1].clone()))
        for frame in shown:
            pipeline.step(frame)
        handle.remove()
        return seen[-1]


def test_the_network_is_left_as_it_was(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = stmg(net)
    first, second, _ = still(3)
    pipeline.step(first)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(StageMemory, "mixed", fail)
    with pytest.raises(MemoryError):
        pipeline.step(second)
    for block in find_gated_modules(net):
        assert "forward" not in vars(block.module)
    assert_same(dense(net).step(second), dense(net).step(first))


def test_a_network_without_residual_blocks_is_refused(net: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no residual block that can be gated"):
        Gated(())
    with pytest.raises(ConfigError, match=r"mode is 'stmg'.*no residual block"):
        Segmenter(net, UNTRAINED, Config(mode="stmg", device="cpu"))


def test_where_motion_is_unknown_bins_differ_as_much_as_can_be() -> None:
    grey = torch.rand((8, 12), generator=torch.Generator().manual_seed(1)) * 255
    content = Content((64, 96), 32)
    image = np.zeros((64, 96, 3), np.uint8)
    content.renew(np.ones((2, 3), np.bool_), image, grey, np.zeros((2, 3), np.int64))
    valid = torch.ones(8, 12, dtype=torch.bool)
    valid[:4, :2] = False
    found = content.distortion(grey + 3, valid)
    assert found[0, 0] == pytest.approx((UNKNOWN_DISTORTION + 3) / 2)
    assert found.ravel()[1:] == pytest.approx(3, abs=1e-3)


def test_a_stage_shows_what_was_computed_now_and_remembers_it(net: nn.Module) -> None:
    """In kept bins alone; the next frame reads it from there."""
    stage = stages_of(find_gated_modules(net))[1]
    memory, content = StageMemory(stage, SIZE, SIDE, torch.device("cpu")), Content(SIZE, SIDE)
    plane = torch.rand(1, stage[0].channels, 6, 10)
    memory.keep_all(0, plane)
    content.renew(np.ones((2, 3), np.bool_), *images_of(SIZE, content), np.ones((2, 3), np.int64))
    kept = np.array([[False, True, True], [True, False, False]])
    memory.start(memory.placed(kept, content))
    parts = [Part(area, torch.full_like(area.of(plane), 7.0)) for area in memory.areas]
    expected = torch.where(torch.from_numpy(to_pixels(kept, 4, (6, 10))), 7.0, plane)
    assert torch.equal(memory.mixed(0, parts), expected)
    content.renew(kept, *images_of(SIZE, content), np.full((2, 3), 2))
    memory.start(memory.placed(np.zeros((2, 3), np.bool_), content))
    assert torch.equal(memory.mixed(0, []), expected)


def images_of(size: tuple[int, int], content: Content) -> tuple[NDArray[np.uint8], Tensor]:
    """Return a black picture in colour, and grey as content is followed."""
    return np.zeros((*size, 3), np.uint8), torch.zeros(content.size)
