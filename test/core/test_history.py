"""Modes with a memory: what is reused, what forces a full frame, and how old it gets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from seg_node.core.config import Config, Value
from seg_node.core.costs import dense_macs
from seg_node.core.masks import decide
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import Interval, UNTRAINED
from seg_node.core.tiles import halved
from seg_node.core.types import Action, Frame, Reason, WARM_UP_CAMERA
from seg_node.nets.build import build_network
from seg_node.nets.low import build_branch, LowBranch

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = (96, 128)
STEP_NS = 66_000_000
POLICIES = {**UNTRAINED, "arseg": Interval(Action.LOW)}


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def drive(count: int, *, pixels: int = 1, seed: int = 0) -> list[Frame]:
    """Return frames of a camera that looks ever further right; stamps begin at one second."""
    wide = picture(seed, (SIZE[0], SIZE[1] + count * pixels))
    cuts = [wide[:, i * pixels : i * pixels + SIZE[1]].copy() for i in range(count)]
    return [
        Frame(cut, 1_000_000_000 + i * STEP_NS, "optical", "front") for i, cut in enumerate(cuts)
    ]


@pytest.fixture(scope="module")
def nets() -> tuple[torch.nn.Module, LowBranch]:
    torch.manual_seed(1)
    net, low = (build_network("swiftnet18-half", 11) for _ in range(2))
    branch = LowBranch(low)
    for parameter in branch.fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net.eval(), branch.eval()


def segmenter(nets: tuple[torch.nn.Module, LowBranch], **values: Value) -> Segmenter:
    settings = {
        "mode": "warp",
        "block_size": 64,
        "keyframe_interval": 100,
        "motion.source": "flow",
        **values,
    }
    config = Config().updated({k.replace("__", "."): v for k, v in settings.items()})
    return Segmenter(nets[0], POLICIES, config, nets[1])


def reasons(pipeline: Segmenter, frames: list[Frame]) -> list[Reason]:
    return [pipeline.step(frame).plan.reason for frame in frames]


@pytest.mark.parametrize("source", ["none", "flow"])
def test_a_still_camera_gets_the_same_mask_bit_for_bit(
    nets: tuple[torch.nn.Module, LowBranch], source: str
) -> None:
    """Law 2: no block active and zero motion is the previous result."""
    pipeline = segmenter(nets, motion__source=source)
    frame = drive(1)[0]
    full = pipeline.step(frame)
    for index in (1, 2):
        again = pipeline.step(replace(frame, stamp_ns=frame.stamp_ns + index * STEP_NS))
        assert (again.plan.grid == Action.REUSE).all()
        assert again.report.macs == 0
        np.testing.assert_array_equal(again.labels, full.labels)
        np.testing.assert_array_equal(again.confidence, full.confidence)


def test_a_moving_camera_moves_the_mask_with_the_picture(
    nets: tuple[torch.nn.Module, LowBranch],
) -> None:
    frames = drive(4, pixels=4)
    moved = segmenter(nets)
    stuck = segmenter(nets, motion__source="none")
    first = moved.step(frames[0])
    stuck.step(frames[0])
    for frame in frames[1:]:
        result, copied = moved.step(frame), stuck.step(frame)
    expected = first.labels[:, 12:]
    inside = np.s_[8:-8, 8:-32]
    agreement = [np.mean(r.labels[:, :-12][inside] == expected[inside]) for r in (result, copied)]
    assert agreement[0] > 0.95
    assert agreement[0] > agreement[1] + 0.05


def test_every_nth_frame_is_the_dense_one(nets: tuple[torch.nn.Module, LowBranch]) -> None:
    frames = drive(5)
    dense = Segmenter(nets[0], POLICIES, Config(mode="dense"))
    for mode in ("warp", "arseg"):
        pipeline = segmenter(nets, mode=mode, keyframe_interval=3)
        results = [pipeline.step(frame) for frame in frames]
        kinds = [bool((r.plan.grid == Action.HIGH).all()) for r in results]
        assert kinds == [True, False, False, True, False]
        assert results[3].plan.reason is Reason.INTERVAL
        np.testing.assert_array_equal(results[3].labels, dense.step(frames[3]).labels)
        assert results[3].report.macs == results[3].report.dense_macs


def test_arseg_is_the_low_branch_on_what_was_moved(
    nets: tuple[torch.nn.Module, LowBranch],
) -> None:
    net, low = nets
    pipeline = segmenter(nets, mode="arseg", motion__source="none")
    frames = drive(2)
    pipeline.step(frames[0])
    result = pipeline.step(frames[1])
    first, second = (torch.from_numpy(f.image).permute(2, 0, 1)[None] for f in frames)
    with torch.no_grad():
        memory = net.features(first)  # type: ignore[operator]  # features() is a method
        features = low(
            halved(second), memory, torch.ones(1, 1, *memory.shape[-2:], dtype=torch.bool)
        )
        labels, _ = decide(net.head(features), 4, SIZE)  # type: ignore[operator]  # so is head()
    assert (result.plan.grid == Action.LOW).all()
    assert result.plan.reason is Reason.SHARPENED
    assert np.mean(result.labels == labels) > 0.999
    half = dense_macs(low.net, SIZE[0] // 2, SIZE[1] // 2)
    assert half < result.report.macs < 0.5 * result.report.dense_macs


@pytest.mark.parametrize("moved", [False, True])
def test_arseg_blends_results_with_what_is_remembered_of_them(moved: bool) -> None:  # noqa: FBT001 - a case
    """The branch is a narrower network than the one whose results are remembered."""
    torch.manual_seed(3)
    net = build_network("swiftnet18", 11).eval()
    branch = build_branch(build_network("swiftnet18-half", 11), "blend").eval()
    torch.nn.init.normal_(branch.fusion.get_parameter("share.weight"), std=0.5)
    frames = drive(2)
    if not moved:
        frames[1] = replace(frames[0], stamp_ns=frames[1].stamp_ns)
    config = Config(mode="arseg", block_size=64).updated({"motion.source": "none"})
    pipeline = Segmenter(net, POLICIES, config, branch)
    pipeline.step(frames[0])
    result = pipeline.step(frames[1])
    first, second = (torch.from_numpy(f.image).permute(2, 0, 1)[None] for f in frames)
    with torch.no_grad():
        logits = net(first)
        memory = branch.remembered(first, logits, logits)
        labels, _ = decide(branch(halved(second), memory), 4, SIZE)
    assert result.plan.reason is Reason.SHARPENED
    assert np.mean(result.labels == labels) > 0.999
    half = dense_macs(branch.net, SIZE[0] // 2, SIZE[1] // 2)
    assert half < result.report.macs < 0.15 * result.report.dense_macs


def test_a_scene_cut_forces_a_full_frame(nets: tuple[torch.nn.Module, LowBranch]) -> None:
    frames = drive(3)
    cut = replace(frames[2], image=picture(seed=9))
    assert reasons(segmenter(nets), [*frames[:2], cut]) == [
        Reason.FIRST,
        Reason.MOVED,
        Reason.SCENE_CUT,
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stamp_ns": 10_000_000_000}, Reason.GAP),
        ({"stamp_ns": 1}, Reason.GAP),
        ({"frame_id": "another"}, Reason.CAMERA),
        ({"image": picture(0, (64, 128))}, Reason.CAMERA),
    ],
)
def test_a_jump_forces_a_full_frame(
    nets: tuple[torch.nn.Module, LowBranch], change: dict[str, object], reason: Reason
) -> None:
    """Law 8, of time, camera and size; the frames after it go on from there."""
    frames = drive(3)
    pipeline = segmenter(nets)
    assert reasons(pipeline, frames[:2]) == [Reason.FIRST, Reason.MOVED]
    odd = replace(frames[2], **change)  # type: ignore[arg-type]  # fields of a frame
    assert pipeline.step(odd).plan.reason is reason
    after = replace(odd, stamp_ns=odd.stamp_ns + STEP_NS)
    assert pipeline.step(after).plan.reason is Reason.MOVED


def test_no_pixel_is_older_than_max_age(nets: tuple[torch.nn.Module, LowBranch]) -> None:
    pipeline = segmenter(nets, max_age_ms=200.0)
    results = [pipeline.step(frame) for frame in drive(12)]
    oldest = [int(result.age_ms.max()) for result in results]
    assert oldest == [0, 66, 132, 198] * 3
    assert results[4].plan.reason is Reason.AGE
    assert results[1].age_ms.shape == results[1].plan.grid.shape == (2, 2)
    never = segmenter(nets, max_age_ms=0.0)
    assert all(never.step(frame).age_ms.max() == 0 for frame in drive(3))


def test_cameras_do_not_mix(nets: tuple[torch.nn.Module, LowBranch]) -> None:
    """Two cameras in turns, of different scenes, each get what they get alone."""
    front = drive(3)
    rear = [replace(frame, camera="rear") for frame in drive(3, seed=5)]
    both, alone = segmenter(nets), [segmenter(nets), segmenter(nets)]
    for pair in zip(front, rear, strict=True):
        for frame, own in zip(pair, alone, strict=True):
            together, apart = both.step(frame), own.step(frame)
            assert together.plan.reason is apart.plan.reason
            np.testing.assert_array_equal(together.labels, apart.labels)


def test_a_full_frame_can_be_asked_for_and_everything_be_forgotten(
    nets: tuple[torch.nn.Module, LowBranch],
) -> None:
    frames = drive(6)
    pipeline = segmenter(nets)
    told = reasons(pipeline, frames[:2])
    pipeline.ask_full_frame()
    told += reasons(pipeline, frames[2:4])
    pipeline.reset()
    told += reasons(pipeline, frames[4:])
    expected = [Reason.FIRST, Reason.MOVED, Reason.ASKED, Reason.MOVED, Reason.FIRST, Reason.MOVED]
    assert told == expected


def test_the_mode_changes_while_driving(nets: tuple[torch.nn.Module, LowBranch]) -> None:
    frames = drive(7)
    pipeline = segmenter(nets)
    told = reasons(pipeline, frames[:2])
    for mode, part in (("arseg", frames[2:4]), ("dense", frames[4:5]), ("warp", frames[5:])):
        pipeline.reconfigure(pipeline.config.updated({"mode": mode}))
        told += reasons(pipeline, part)
    between = [Reason.SHARPENED, Reason.SHARPENED, Reason.DENSE]
    assert told == [Reason.FIRST, Reason.MOVED, *between, Reason.FIRST, Reason.MOVED]


def test_warming_up_leaves_nothing_behind(nets: tuple[torch.nn.Module, LowBranch]) -> None:
    pipeline = segmenter(nets, mode="arseg")
    pipeline.warm_up(*SIZE)
    assert pipeline.step(drive(1)[0]).plan.reason is Reason.FIRST
    black = Frame(np.zeros((*SIZE, 3), np.uint8), 2_000_000, camera=WARM_UP_CAMERA)
    assert pipeline.step(black).plan.reason is Reason.FIRST


def test_scaled_input_is_remembered_at_its_own_size(
    nets: tuple[torch.nn.Module, LowBranch],
) -> None:
    pipeline = segmenter(nets, input__scale=0.5)
    results = [pipeline.step(frame) for frame in drive(2)]
    assert results[1].plan.reason is Reason.MOVED
    assert results[1].age_ms.shape == results[1].plan.grid.shape == (1, 1)
    assert results[1].labels.shape == SIZE
