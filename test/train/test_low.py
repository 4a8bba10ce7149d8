"""A LOW branch learns to make its network's features; the network stays as it is."""

from __future__ import annotations

import copy
from dataclasses import replace
import json
from typing import Any, TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from seg_node.core.blend import Blend
from seg_node.core.fusion import enlarge
from seg_node.core.tiles import halved
from seg_node.core.types import ConfigError, DataError
from seg_node.core.warp import move
from seg_node.data.clips import StreetClip
from seg_node.nets.low import build_branch, LowBranch
from seg_node.train.augment import Picture
from seg_node.train.low import divergence, LowTrainer, Resolutions
from seg_node.train.low_settings import LowTraining
from seg_node.train.low_validation import LowScores, scored_frames
from seg_node.train.pair_batches import PairMaker, PairPools
from seg_node.train.trainer import Run
from seg_node.train.validation import validate
from test.train.samples import network
from test.train.test_pairs import textured

if TYPE_CHECKING:
    from pathlib import Path

    from seg_node.nets.swiftnet import SwiftNet

TINY = LowTraining(
    steps=6,
    batch=2,
    crop_width=64,
    crop_height=64,
    warmup=2,
    checkpoint_every=3,
    validate_every=3,
    fusion_after=2,
    street_share=0.0,
)


def high() -> SwiftNet:
    """Return a network whose BatchNorms have seen the pictures."""
    net = network().train()
    images = torch.from_numpy(np.stack([textured(s).image for s in range(4)])).permute(0, 3, 1, 2)
    with torch.no_grad():
        net.head.weight.normal_()  # so that it tells several classes apart
        for _ in range(20):
            net(images)
    return net.eval()


def trainer(folder: Path, config: LowTraining = TINY, **wishes: Any) -> LowTrainer:
    net = high()
    pools = PairPools([textured(seed) for seed in range(3)])
    nets = Resolutions(net, build_branch(copy.deepcopy(net), config.fusion))
    return LowTrainer(nets, PairMaker(pools, config), torch.ones(11), Run(folder), **wishes)


def figures(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """Return the names of the tensors that differ."""
    theirs = after.state_dict()
    return {k for k, v in before.state_dict().items() if not torch.equal(v, theirs[k])}


def norm_tensors(net: nn.Module) -> set[str]:
    return {
        f"{name}.{part}"
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in module.state_dict()
    }


@pytest.mark.parametrize(
    ("weights", "aim"), [("own", "similarity"), ("norms", "similarity"), ("own", "task")]
)
def test_what_counts_falls_and_the_network_stays(tmp_path: Path, weights: str, aim: str) -> None:
    config = replace(TINY, steps=20, weights=weights, learning_rate=1e-2, fusion_after=0)
    config = replace(config, similarity=float(aim != "task"), task=float(aim == "task"))
    run = trainer(tmp_path, config)
    fresh_fusion = copy.deepcopy(run.branch.fusion)
    batch = run.batches(0)
    run._begin()
    found = [run._learn(step, batch)[aim] for step in range(config.steps)]
    assert np.mean(found[-4:]) < (0.5 if weights == "own" else 0.9) * np.mean(found[:2])
    assert changed(high(), run.high) == set()
    assert not run.high.training
    assert all(p.grad is None for p in run.high.parameters())
    learned = changed(high(), run.branch.net)
    assert not {name for name in learned if name.startswith("head.")}
    convolutions = {n for n, p in high().named_parameters() if p.ndim > 1} - {"head.weight"}
    assert learned >= norm_tensors(high())
    assert learned & convolutions == (convolutions if weights == "own" else set())
    fusion = run.branch.fusion
    assert changed(fresh_fusion, fusion) == {name for name, _ in fusion.named_parameters()}
    made = run.averaged()
    assert changed(made.net, high()) & {"head.weight", "head.bias"} == set()


def test_a_blend_learns_the_result_with_a_head_of_its_own(tmp_path: Path) -> None:
    config = replace(TINY, steps=20, learning_rate=1e-2, fusion_after=0, fusion="blend", task=0.0)
    run = trainer(tmp_path, config)
    batch = run.batches(0)
    run._begin()
    found = [run._learn(step, batch)["similarity"] for step in range(config.steps)]
    assert np.mean(found[-4:]) < 0.7 * np.mean(found[:2])
    assert changed(high(), run.high) == set()
    learned = changed(high(), run.branch.net)
    assert {"head.weight", "head.bias"} < learned
    assert changed(Blend(11), run.branch.fusion) == {n for n, _ in Blend(11).named_parameters()}


def test_a_blend_is_to_come_near_the_result_not_to_cover_it(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(TINY, fusion="blend"))
    batch = run.batches(0)
    run._begin()
    with torch.no_grad():
        wanted = run.high(batch.images).softmax(1)
        low = enlarge(run.branch.net(halved(batch.images)), (16, 16)).log_softmax(1)
    expected = functional.kl_div(low, wanted, reduction="none").sum(1).mean()
    assert run._learn(0, batch)["similarity"] == pytest.approx(float(expected), rel=1e-4)


def test_a_blend_alone_learns_behind_a_network_that_stays(tmp_path: Path) -> None:
    config = replace(TINY, fusion_after=0, fusion="blend", weights="none")
    branch = trainer(tmp_path, config).run()
    assert changed(high(), branch.net) == set()
    assert "share.weight" in changed(Blend(11), branch.fusion)


def test_divergence_is_that_of_kullback_and_leibler() -> None:
    torch.manual_seed(4)
    made, wanted = torch.randn(2, 2, 3, 4, 5)
    p, q = wanted.softmax(1), made.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(divergence(made, wanted), expected)
    assert float(divergence(made, made)) == 0.0


def test_the_fusion_joins_when_it_is_to(tmp_path: Path) -> None:
    run, fresh = trainer(tmp_path), LowBranch(high())

    def look(done: int) -> None:
        assert bool(changed(fresh.fusion, run.branch.fusion)) == (done > 2)
        assert changed(fresh.net, run.branch.net)

    run.run(look)


def test_memory_is_what_the_network_makes_of_the_key_moved(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    batch = run.batches(0)
    seen = []
    run.branch.register_forward_pre_hook(lambda _, args: seen.append(args))
    run._begin()
    run._learn(5, batch)
    ((image, memory, valid),) = seen
    assert torch.equal(image, halved(batch.images))
    with torch.no_grad():
        expected = move(run.high.features(batch.keys), batch.flow, batch.valid)  # type: ignore[operator]  # a method
    assert torch.allclose(memory, expected[0], atol=1e-4)
    assert torch.equal(valid, expected[1])
    assert not memory.requires_grad


@pytest.mark.parametrize("fusion", ["gated", "blend"])
def test_scores_of_a_fresh_branch_follow_its_kind(fusion: str) -> None:
    net, clip = high(), StreetClip(5, 8, (128, 96))
    branch = build_branch(copy.deepcopy(net), fusion).eval()
    scores = LowScores(Resolutions(net, branch), clip, 11, 1)(branch)
    assert scores["val_arseg_1_miou"] not in {scores["val_low_miou"], scores["val_warp_1_miou"]}
    with torch.no_grad():
        for name, parameter in branch.fusion.named_parameters():
            if name in {"share.bias", "gate.2.bias"}:
                parameter.fill_(-50.0)  # believe LOW alone
    low = LowScores(Resolutions(net, branch), clip, 11, 1)(branch)
    assert low["val_arseg_1_miou"] == low["val_low_miou"] == scores["val_low_miou"]


@pytest.mark.parametrize("weights", ["own", "norms"])
def test_a_resumed_run_ends_bit_for_bit_alike(tmp_path: Path, weights: str) -> None:
    config = replace(TINY, weights=weights)
    whole = trainer(tmp_path / "whole", config).run()

    def stop(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "broken", config).run(stop)
    second = trainer(tmp_path / "broken", config)
    assert second.step == 4
    assert changed(whole, second.run()) == set()
    assert changed(LowBranch(high()), whole)


def test_bf16_and_ohem_take_a_step_with_all_void(tmp_path: Path) -> None:
    config = replace(TINY, steps=2, fusion_after=1, precision="bf16", loss="ohem", jaccard=0.0)
    run = trainer(tmp_path, config)
    batch = run.batches(0)
    run._begin()
    found = run._learn(1, replace(batch, labels=torch.full_like(batch.labels, 255)))
    assert all(np.isfinite(value) for value in found.values())
    assert found["similarity"] > 0.0


def test_scores_tell_dense_moved_low_and_fused_apart() -> None:
    net, clip = high(), StreetClip(5, 8, (128, 96))
    scores = LowScores(Resolutions(net, LowBranch(net)), clip, 11, 6)
    branch = LowBranch(copy.deepcopy(net), "creff").eval()  # new, it changes nothing
    fresh = scores(branch)
    moving = {f"val_{kind}_{d}_miou" for kind in ("warp", "arseg") for d in (1, 5)}
    assert set(fresh) == {"val_dense_miou", "val_low_miou"} | moving
    samples = [clip.load(index) for index in (5, 6, 7)]
    pictures = [Picture(s.frame.image, s.labels) for s in samples if s.labels is not None]
    assert fresh["val_dense_miou"] == pytest.approx(validate(net, pictures, 11), abs=1e-6)
    assert fresh["val_low_miou"] == pytest.approx(validate(net, pictures, 11, low=True), abs=0.01)
    assert fresh["val_arseg_1_miou"] == fresh["val_arseg_5_miou"] == fresh["val_low_miou"]
    with torch.no_grad():
        for conv in (branch.fusion.value, branch.fusion.query):
            conv.weight.normal_()
    fused = scores(branch)
    assert fused["val_arseg_1_miou"] != fused["val_arseg_5_miou"]
    unchanged = {name for name in fresh if "arseg" not in name}
    assert {name: fused[name] for name in unchanged} == {name: fresh[name] for name in unchanged}
    with torch.no_grad():
        branch.net.get_parameter("encoder.stem.1.weight").mul_(-1.0)
    other = scores(branch)
    assert {name for name in fused if other[name] != fused[name]} == set(fused) - {
        "val_dense_miou",
        "val_warp_1_miou",
        "val_warp_5_miou",
    }


def test_scored_frames_have_their_past() -> None:
    runs = scored_frames(StreetClip(5, 60, (64, 48)), 11)
    assert len(runs) == 20
    names = [[int(ref.name) for ref in run] for run in runs]
    assert all(run == list(range(run[-1] - 11, run[-1] + 1)) for run in names)
    assert (names[0][-1], names[-1][-1]) == (11, 59)
    text = "no labelled frame of street:5 has 11 frames before it at 5 Hz or more"
    with pytest.raises(DataError, match=text):
        scored_frames(StreetClip(5, 11, (64, 48)), 11)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"crop_width": 352}, "the crop is 352x256; sides must be multiples of 64"),
        ({"fusion_after": 3000}, "fusion_after is 3000 of 3000 steps: the fusion would never"),
        ({"similarity": 0.0, "task": 0.0}, "similarity and task are both 0"),
        ({"distill": 1.0}, "distill is 1.0; allowed are 0.0 to 0.0"),
        ({"weights": "some"}, "weights is 'some'; choose one of own, norms, none"),
        ({"weights": "none"}, "weights is none and fusion_after 1000: nothing would be learned"),
        ({"distance_max": 0}, "distance_max is 0; allowed are 1 to 100"),
        ({"street_frames": 1}, "street_frames is 1; allowed are 2 to"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        LowTraining(**changes)
