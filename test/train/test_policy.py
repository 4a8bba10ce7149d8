"""A policy learns what is hard and how much it may spend, alone or with its network."""

from __future__ import annotations

from dataclasses import replace
import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from seg_node.core.tiles import halved
from seg_node.core.types import Action
from seg_node.nets.decision import ComplexityNet
from seg_node.train.augment import Picture
from seg_node.train.batches import BatchMaker, Pools
from seg_node.train.policy import Pair, PolicyTrainer, run_blocks
from seg_node.train.policy_settings import PolicyTraining
from seg_node.train.trainer import Run
from seg_node.train.validation import validate, validate_blocks
from test.train.samples import halves, network

if TYPE_CHECKING:
    from pathlib import Path

TINY = PolicyTraining(
    steps=6,
    batch=2,
    crop_width=128,
    crop_height=64,
    warmup=2,
    checkpoint_every=3,
    random_share=0.4,
)
STILL = PolicyTraining(
    steps=40,
    batch=16,
    crop_width=128,
    crop_height=64,
    frozen=True,
    policy_rate=5e-3,
    average=0.5,
    warmup=0,
    scale_min=1.0,
    scale_max=1.0,
    flip=0.0,
    jitter=0.0,
    blur=0.0,
    jpeg=0.0,
)
"""A frozen network on one picture that never changes."""


class Brightness(nn.Module):
    """Takes what is dark for class 0 and what is bright for class 1, pixel by pixel."""

    def __init__(self) -> None:
        """Set the weights by hand."""
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.layer.weight.copy_(
                torch.tensor([-0.005, 0.005]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
            )
            self.layer.bias.copy_(torch.tensor([1.9, -1.9]))  # type: ignore[union-attr]  # it has one

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map [N, 3, H, W] to logits [N, 2, H, W]."""
        logits: torch.Tensor = self.layer(image.to(torch.float32))
        return logits


def pair(seed: int = 0) -> Pair:
    torch.manual_seed(seed)
    return Pair(network(seed), ComplexityNet(8))


def trainer(folder: Path, config: PolicyTraining = TINY, seed: int = 0) -> PolicyTrainer:
    pools = Pools(halves())
    return PolicyTrainer(pair(seed), BatchMaker(pools, config), torch.ones(11), Run(folder))


def still_trainer(folder: Path, config: PolicyTraining, *bright: int) -> PolicyTrainer:
    """Train on one picture of blocks of such brightness that are all labelled dark."""
    row = np.repeat(np.array(bright, np.uint8), 64)
    image = np.tile(row[None, :, None], (64, 1, 3))
    pools = Pools([Picture(image, np.zeros(image.shape[:2], np.uint8))])
    torch.manual_seed(0)
    nets = Pair(Brightness(), ComplexityNet(8))
    return PolicyTrainer(nets, BatchMaker(pools, config), torch.ones(2), Run(folder))


def ranks(run: PolicyTrainer) -> list[float]:
    """Return the score of each block of the only picture, as in training."""
    image = torch.from_numpy(run.batches.pools.labelled[0].image).permute(2, 0, 1)[None]
    with torch.no_grad():
        scores = run.policy.net.train()(image, (1, image.shape[-1] // 64))
    return [float(score) for score in scores.flatten()]


def chosen(run: PolicyTrainer) -> list[float]:
    """Return the probability of HIGH for the blocks of the only picture, as in training."""
    return [1.0 / (1.0 + math.exp(-score)) for score in ranks(run)]


def figures(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in a.state_dict().items())


def test_the_side_with_the_higher_loss_is_chosen(tmp_path: Path) -> None:
    config = replace(STILL, target=0.5)
    run = still_trainer(tmp_path, config, 30, 220)
    run.run()
    easy, hard = chosen(run)
    assert hard > 0.9
    assert easy < 0.1
    last = figures(tmp_path)[-1]
    assert last["reward"] > 0.5
    assert last["entropy"] < 0.3


@pytest.mark.parametrize(("reward", "side"), [("loss", 0), ("gain", 1)])
def test_what_resolution_helps_is_not_what_is_hard(tmp_path: Path, reward: str, side: int) -> None:
    """The left block is wrong at any resolution; the stripes of the right one need the full.

    The network looks at every second pixel, so at half resolution at every second stripe.
    """
    stripes = np.arange(64) // 2 % 2
    image, labels = np.full((64, 128, 3), 220, np.uint8), np.zeros((64, 128), np.uint8)
    image[:, 64:], labels[:, 64:] = (30 + 190 * stripes)[:, None], stripes
    torch.manual_seed(0)
    config = replace(STILL, reward=reward, target=0.5)
    pools = Pools([Picture(image, labels)])
    net = Brightness()
    net.layer.stride = (2, 2)
    nets = Pair(net, ComplexityNet(8))
    run = PolicyTrainer(nets, BatchMaker(pools, config), torch.ones(2), Run(tmp_path))
    run.run()
    wanted = chosen(run)
    assert wanted[side] > 0.9
    assert wanted[1 - side] < 0.1


def test_a_network_learns_the_same_whatever_the_policy_is_rewarded_for(tmp_path: Path) -> None:
    """The passes that tell the gain leave nothing in its norms."""
    config = replace(TINY, steps=1, warmup=0, random_share=0.0)
    runs = [trainer(tmp_path / x, replace(config, reward=x)) for x in ("loss", "gain")]
    for run in runs:
        run.run()
    assert same(runs[0].network, runs[1].network)
    assert runs[1].network.training
    assert not same(runs[0].policy.net, runs[1].policy.net)


def test_every_share_ranks_blocks_that_a_target_leaves_alike(tmp_path: Path) -> None:
    """The losses of the blocks are 0.1, 0.5, 1.1 and 2.8; the target is one of four."""
    config = replace(STILL, target=0.25, crop_width=256, batch=8)
    gaps = []
    for every_share in (True, False):
        settings = replace(config, every_share=every_share)
        run = still_trainer(tmp_path / str(every_share), settings, 20, 130, 190, 240)
        run.run()
        gaps.append(np.diff(ranks(run)))
    every, one = gaps
    assert (every > 0.5).all()
    assert one[0] < 0.3


@pytest.mark.parametrize("target", [0.2, 0.75])
def test_the_target_is_approached_where_nothing_is_hard(tmp_path: Path, target: float) -> None:
    run = still_trainer(tmp_path, replace(STILL, target=target), 30, 30)
    run.run()
    assert float(np.mean(chosen(run))) == pytest.approx(target, abs=0.1)


def test_frozen_leaves_the_network_as_it_is(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(TINY, frozen=True, random_share=0.0))
    trained, fresh = run.run(), pair()
    assert same(trained.network, fresh.network)
    assert not same(trained.policy, fresh.policy)
    assert all(p.grad is None for p in trained.network.parameters())


@pytest.mark.slow
def test_both_learn_together_and_a_resumed_run_ends_bit_for_bit_alike(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole").run()
    fresh = pair()
    assert not same(whole.network, fresh.network)
    assert not same(whole.policy, fresh.policy)

    def stop(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "broken").run(stop)
    second = trainer(tmp_path / "broken", seed=5)
    assert second.step == 4
    resumed = second.run()
    assert same(whole.network, resumed.network)
    assert same(whole.policy, resumed.policy)


@pytest.mark.slow
def test_the_policy_waits_for_the_network(tmp_path: Path) -> None:
    config = replace(TINY, random_steps=3, random_share=0.0)
    run, fresh = trainer(tmp_path, config), pair()

    def look(done: int) -> None:
        assert same(run.policy.net, fresh.policy) == (done <= 3)
        assert not same(run.network, fresh.network)

    run.run(look)


def test_a_policy_that_wants_nothing_is_pulled_to_its_target(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(TINY, random_share=0.0, size_weight=100.0))
    logit = run.policy.net.get_parameter("logit.bias")
    with torch.no_grad():
        logit.fill_(-50.0)
    found = run._learn(0, run.batches(0))
    assert found["high"] == found["high_wished"] == 0.0
    assert np.isfinite(found["loss"])
    with torch.no_grad():
        logit.fill_(-3.0)
    run._learn(0, run.batches(0))
    assert logit.grad is not None
    assert float(logit.grad) < 0.0  # descent raises it


def test_the_norms_of_the_policy_follow_slowly(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    norms = [m for m in run.policy.net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert {m.momentum for m in norms} == {0.02}


@pytest.mark.slow
def test_bf16_takes_a_step_on_blocks(tmp_path: Path) -> None:
    config = replace(TINY, precision="bf16", random_share=0.0, steps=1)
    trainer(tmp_path, config).run()


def test_blocks_of_one_kind_run_as_whole_images() -> None:
    net = network().eval()
    images = torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.uint8)
    grids = np.full((2, 1, 2), Action.HIGH, np.uint8)
    with torch.no_grad():
        assert torch.equal(run_blocks(net, images, grids, 64), net(images))
        low = run_blocks(net, images, np.full_like(grids, Action.LOW), 64)
        assert torch.equal(low, net(halved(images)))
        assert low.shape == (2, 11, 8, 16)
        grids[1, 0, 0] = Action.LOW
        mixed = run_blocks(net, images, grids, 64)
    assert mixed.shape == (2, 11, 16, 32)


def test_a_policy_that_may_have_everything_scores_as_dense() -> None:
    rng = np.random.default_rng(0)
    pictures = [
        Picture(
            rng.integers(0, 256, (80, 150, 3), np.uint8), rng.integers(0, 3, (80, 150), np.uint8)
        )
        for _ in range(2)
    ]
    nets = Pair(network().eval(), ComplexityNet(8).eval())
    whole = validate_blocks(nets, pictures, 11, PolicyTraining(target=1.0))
    assert whole["val_miou"] == whole["val_dense_miou"]
    assert whole["val_dense_miou"] == pytest.approx(
        validate(nets.network, pictures, 11), abs=0.002
    )
    assert 1.0 < whole["val_macs"] < 1.3
    some = validate_blocks(nets, pictures, 11, PolicyTraining(target=0.2))
    assert some["val_dense_miou"] == whole["val_dense_miou"]
    assert 0.25 < some["val_macs"] < whole["val_macs"]
