"""One step: sizes, determinism, agreement with the bare network, and refused machines."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from seg_node.core.compute import choose_compute
from seg_node.core.config import Config, Value
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import AllLow, Ranked, UNTRAINED
from seg_node.core.scores import Heuristic
from seg_node.core.transfers import Uploads
from seg_node.core.types import Action, ConfigError, Frame, ImageError, Reason
from seg_node.nets.build import build_network
from test.core.flops import flop_counter

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = 11


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height)), np.uint8)


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(1)
    return build_network("swiftnet18-half", CLASSES).eval()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 33), (64, 96), (95, 127), (120, 65)])
def test_mask_has_the_size_of_the_image(net: torch.nn.Module, height: int, width: int) -> None:
    result = Segmenter(net, UNTRAINED, Config(mode="dense")).step(Frame(picture(height, width)))
    assert result.labels.shape == (height, width)
    assert result.confidence.shape == (height, width)
    assert result.labels.dtype == result.confidence.dtype == np.uint8
    assert result.labels.max() < CLASSES


def test_scaled_input_still_gives_a_full_size_mask(net: torch.nn.Module) -> None:
    full = Segmenter(net, UNTRAINED, Config(mode="dense")).step(Frame(picture(96, 128)))
    half = Segmenter(net, UNTRAINED, Config(mode="dense").updated({"input.scale": 0.5})).step(
        Frame(picture(96, 128))
    )
    assert half.labels.shape == (96, 128)
    assert half.report.macs == pytest.approx(full.report.macs / 4, rel=0.1)


def test_labels_are_the_bare_networks_argmax_and_confidence_its_probability(
    net: torch.nn.Module,
) -> None:
    image = picture(64, 96)
    result = Segmenter(net, UNTRAINED, Config(mode="dense")).step(Frame(image))
    with torch.no_grad():
        logits = net(torch.from_numpy(image).permute(2, 0, 1)[None])
        full = torch.nn.functional.interpolate(logits, size=(64, 96), mode="bilinear")
    probability, labels = full.softmax(1).max(1)
    assert np.mean(result.labels == labels[0].numpy()) > 0.9999
    np.testing.assert_allclose(result.confidence, probability[0].numpy() * 255, atol=0.51)


def test_two_runs_are_bit_identical_whatever_the_memory_layout(net: torch.nn.Module) -> None:
    image = picture(70, 90)
    padded = np.zeros((70, 100, 3), np.uint8)
    padded[:, :90] = image
    view = padded[:, :90]
    view.flags.writeable = False
    first = Segmenter(net, UNTRAINED, Config(mode="dense")).step(Frame(image))
    second = Segmenter(net, UNTRAINED, Config(mode="dense")).step(Frame(view))
    assert first.labels.tobytes() == second.labels.tobytes()
    assert first.confidence.tobytes() == second.confidence.tobytes()


def test_dense_plan_is_all_high_with_zero_age(net: torch.nn.Module) -> None:
    config = Config(mode="dense", block_size=64)
    result = Segmenter(net, UNTRAINED, config).step(Frame(picture(65, 97)))
    assert result.plan.grid.shape == (2, 2)
    assert result.plan.fraction(Action.HIGH) == 1.0
    assert result.plan.reason is Reason.DENSE
    assert not result.age_ms.any()
    assert result.report.macs == result.report.dense_macs > 0


def test_stage_times_come_from_the_given_clock(net: torch.nn.Module) -> None:
    ticks = count(0, 10)
    report = (
        Segmenter(net, UNTRAINED, Config(mode="dense"), clock=lambda: next(ticks))
        .step(Frame(picture(32, 32)))
        .report
    )
    assert list(report.stage_ns) == ["prepare", "motion", "plan", "execute", "decide", "finish"]
    assert set(report.stage_ns.values()) == {10}
    assert report.total_ns > sum(report.stage_ns.values())


def test_the_host_has_time_only_beside_a_device(
    net: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it prepares then is what the next step uses, unless the scale changed meanwhile."""
    config = Config().updated({"mode": "dense", "device": "cpu", "input.scale": 0.5})
    segmenter, plain = (Segmenter(net, UNTRAINED, config) for _ in range(2))
    frames = [Frame(np.full((40, 60, 3), value, np.uint8), value) for value in range(3)]
    calls: list[int] = []

    def meanwhile() -> None:
        calls.append(1)
        segmenter.send_ahead(frames[len(calls)])

    segmenter.step(frames[0], meanwhile)
    assert not calls
    monkeypatch.setattr(Uploads, "beside", True)
    segmenter.step(frames[0], meanwhile)
    ahead = segmenter._scaled(frames[1])
    assert ahead is segmenter._scaled(frames[1])
    segmenter.step(frames[1], meanwhile)
    smaller = config.updated({"input.scale": 0.25})
    for steps in (segmenter, plain):
        steps.reconfigure(smaller)
    assert segmenter._scaled(frames[2]).image.shape == (10, 15, 3)
    assert np.array_equal(segmenter.step(frames[2]).labels, plain.step(frames[2]).labels)
    assert len(calls) == 2


def test_reconfigure_applies_from_the_next_frame(net: torch.nn.Module) -> None:
    segmenter = Segmenter(net, UNTRAINED, Config(mode="dense"))
    before = segmenter.step(Frame(picture(64, 64))).report.macs
    segmenter.reconfigure(Config(mode="dense").updated({"input.scale": 0.5}))
    assert segmenter.step(Frame(picture(64, 64))).report.macs < before


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 4), (4, 4, 4)])
def test_a_frame_must_be_rgb_with_pixels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="expected a uint8 array"):
        Frame(np.zeros(shape, np.uint8))


def test_fp16_on_cpu_is_refused_with_the_fix() -> None:
    with pytest.raises(ConfigError, match="use fp32 or bf16"):
        choose_compute(Config(device="cpu", precision="fp16"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_missing_gpu_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="device is 'cuda:1', but torch sees 0 GPUs"):
        choose_compute(Config(device="cuda:1"))


def test_bf16_agrees_with_fp32_on_most_pixels() -> None:
    torch.manual_seed(1)
    config = Config(device="cpu", precision="bf16", mode="dense")
    wide = Segmenter(
        build_network("swiftnet18-half", CLASSES), UNTRAINED, Config(device="cpu", mode="dense")
    )
    torch.manual_seed(1)
    slim = Segmenter(build_network("swiftnet18-half", CLASSES), UNTRAINED, config)
    image = Frame(picture(64, 64))
    assert np.mean(wide.step(image).labels == slim.step(image).labels) > 0.8


BLOCKS: dict[str, Value] = {"mode": "segblocks", "block_size": 64, "policy.high_fraction": 0.5}


def blocks_segmenter(net: torch.nn.Module, **settings: Value) -> Segmenter:
    policies = {**UNTRAINED, "segblocks": Ranked(Heuristic())}
    return Segmenter(net, policies, Config().updated({**BLOCKS, **settings}))


def test_segblocks_computes_the_share_that_is_asked_and_says_what_it_cost(
    net: torch.nn.Module,
) -> None:
    """Law 7 for a whole step: the report is what a counter sees."""
    segmenter = blocks_segmenter(net)
    frame = Frame(picture(128, 256))
    segmenter.step(frame)  # counts once per size
    with flop_counter() as counter:
        result = segmenter.step(frame)
    assert result.plan.fraction(Action.HIGH) == 0.5
    assert result.plan.fraction(Action.LOW) == 0.5
    assert result.plan.reason == Reason.BLOCKS
    assert result.labels.shape == (128, 256)
    assert result.report.macs == counter.get_total_flops() // 2
    assert 0.5 < result.report.macs / result.report.dense_macs < 0.7


def test_live_share_moves_the_next_frame(net: torch.nn.Module) -> None:
    segmenter = blocks_segmenter(net)
    frame = Frame(picture(128, 256))
    before = segmenter.step(frame)
    segmenter.reconfigure(segmenter.config.updated({"policy.high_fraction": 0.25}))
    after = segmenter.step(frame)
    assert after.plan.fraction(Action.HIGH) == 0.25
    assert after.report.macs < before.report.macs


def test_all_blocks_high_is_the_dense_step(net: torch.nn.Module) -> None:
    """Law 1 for the whole step, and all LOW is the dense step at half scale (law 3)."""
    frame = Frame(picture(100, 150))
    full = blocks_segmenter(net, **{"policy.high_fraction": 1.0}).step(frame)
    dense = Segmenter(net, UNTRAINED, Config(mode="dense")).step(frame)
    np.testing.assert_array_equal(full.labels, dense.labels)
    np.testing.assert_array_equal(full.confidence, dense.confidence)
    assert full.report.macs == dense.report.macs


def test_no_block_high_is_the_half_resolution_image_enlarged(net: torch.nn.Module) -> None:
    image = picture(128, 192)
    policies = {**UNTRAINED, "segblocks": AllLow()}
    segmenter = Segmenter(net, policies, Config().updated(BLOCKS))
    result = segmenter.step(Frame(image))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        logits = net(torch.nn.functional.avg_pool2d(pixels, 2))
        for factor in (2.0, 4.0):
            logits = torch.nn.functional.interpolate(logits, scale_factor=factor, mode="bilinear")
    assert (result.labels == logits[0].argmax(0).numpy()).mean() > 0.999
    assert result.report.macs == pytest.approx(result.report.dense_macs / 4, rel=0.01)


def test_blocks_of_full_resolution_are_the_dense_ones_far_from_the_others(
    net: torch.nn.Module,
) -> None:
    """The right half is HIGH; far from the border between the halves it is nearly dense."""

    class Right:
        def __call__(self, image: torch.Tensor, side: int) -> NDArray[np.float64]:
            return np.tile(np.arange(image.shape[-1] // side, dtype=float), (2, 1))

        def macs(self, size: tuple[int, int], side: int) -> int:  # noqa: ARG002 - nothing to decide
            return 0

    frame = Frame(picture(128, 512))
    policies = {**UNTRAINED, "segblocks": Ranked(Right())}
    mixed = Segmenter(net, policies, Config().updated(BLOCKS)).step(frame)
    dense = Segmenter(net, UNTRAINED, Config(mode="dense")).step(frame)
    same = mixed.labels == dense.labels
    assert same[:, 320:].mean() > same[:, :192].mean()


def test_mode_without_a_policy_is_refused_and_changes_nothing(net: torch.nn.Module) -> None:
    segmenter = Segmenter(net, UNTRAINED, Config(mode="dense"))
    blocks = Config().updated(BLOCKS)
    with pytest.raises(ConfigError, match="mode is 'segblocks', but this model has no learned"):
        segmenter.reconfigure(blocks)
    assert segmenter.config.mode == "dense"
    with pytest.raises(ConfigError, match=r"policy\.score"):
        Segmenter(net, UNTRAINED, blocks)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 31), (63, 65), (129, 64)])
def test_blocks_larger_than_the_image_and_odd_sizes_are_padded(
    net: torch.nn.Module, height: int, width: int
) -> None:
    result = blocks_segmenter(net).step(Frame(picture(height, width)))
    assert result.labels.shape == (height, width)
    assert result.plan.grid.shape == (-(-height // 64), -(-width // 64))


def test_block_size_that_cannot_be_halved_is_refused_by_name(net: torch.nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"block_size is 32, but LOW blocks .* multiple of 64"):
        blocks_segmenter(net, block_size=32).step(Frame(picture(128, 128)))
