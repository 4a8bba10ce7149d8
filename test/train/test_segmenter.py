"""Training learns, resumes bit for bit, and refuses another run's folder."""

from __future__ import annotations

from dataclasses import replace
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.types import ConfigError, Frame
from seg_node.data.datasets import Sample
from seg_node.nets.swiftnet import SwiftNet
from seg_node.train.batches import augment, BatchMaker
from seg_node.train.segmenter import parameter_groups, SegmentTrainer
from seg_node.train.settings import Augmentation, SegmentTraining

if TYPE_CHECKING:
    from pathlib import Path

TINY = SegmentTraining(
    steps=6,
    batch=2,
    warmup=2,
    street_share=0.5,
    streets=2,
    augmentation=Augmentation(crop=(64, 64), early_crop=(48, 32), early_steps=2),
    checkpoint_every=3,
    validate_every=3,
)


def halves(count: int = 3) -> list[Sample]:
    """Return pictures whose dark left half is class 0 and bright right half class 1."""
    image = np.full((80, 96, 3), 30, np.uint8)
    image[:, 48:] = 220
    labels = np.zeros((80, 96), np.uint8)
    labels[:, 48:] = 1
    return [Sample(str(i), Frame(image), labels) for i in range(count)]


def network(seed: int = 0) -> SwiftNet:
    torch.manual_seed(seed)
    return SwiftNet(11, 0.125)


def test_a_batch_depends_on_seed_and_step_only() -> None:
    make, again = BatchMaker(halves(), TINY), BatchMaker(halves(), TINY)
    assert all(torch.equal(a, b) for a, b in zip(make(4), again(4), strict=True))
    other = BatchMaker(halves(), replace(TINY, seed=1))
    assert not torch.equal(make(4)[0], make(5)[0])
    assert not torch.equal(make(4)[0], other(4)[0])


def test_early_batches_are_smaller() -> None:
    make = BatchMaker(halves(), TINY)
    assert make(1)[0].shape == (2, 3, 32, 48)
    assert make(2)[0].shape == (2, 3, 64, 64)
    assert make(2)[1].shape == (2, 64, 64)


def test_labels_follow_their_pixels_through_augmentation() -> None:
    rng = np.random.default_rng(0)
    sample = halves(1)[0]
    assert sample.labels is not None
    flipped = 0
    for _ in range(20):
        how = Augmentation(jitter=0.0)
        image, labels = augment((sample.frame.image, sample.labels), how, (64, 48), rng)
        inside = labels != 255
        assert np.mean((image[..., 0] > 125)[inside] == (labels == 1)[inside]) > 0.97
        flipped += bool(labels[0, 0] == 1)
    assert 0 < flipped < 20


def test_every_sample_is_seen_once_an_epoch() -> None:
    make = BatchMaker(halves(5), TINY)
    assert sorted(make._index(i) for i in range(5)) == [0, 1, 2, 3, 4]
    assert sorted(make._index(i) for i in range(5, 10)) == [0, 1, 2, 3, 4]


def test_learning_rate_warms_up_and_ends_near_zero() -> None:
    config = SegmentTraining(steps=100, warmup=10, learning_rate=1.0)
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in {9, 10}
    assert rates[-1] < 0.001


def test_only_convolution_weights_decay() -> None:
    decayed, plain = parameter_groups(network(), 0.1)
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert isinstance(decayed["params"], list)
    assert all(p.ndim == 4 for p in decayed["params"])


@pytest.mark.slow
def test_a_resumed_run_ends_bit_for_bit_like_an_unbroken_one(tmp_path: Path) -> None:
    whole = SegmentTrainer(network(), halves(), TINY, tmp_path / "whole").run()

    class StopError(Exception):
        pass

    def stop(net: torch.nn.Module) -> dict[str, float]:
        assert not net.training
        raise StopError

    with pytest.raises(StopError):
        SegmentTrainer(network(), halves(), TINY, tmp_path / "broken", stop).run()
    second = SegmentTrainer(network(5), halves(), TINY, tmp_path / "broken")
    assert second.step == 3
    resumed = second.run()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.slow
def test_training_learns_dark_from_bright(tmp_path: Path) -> None:
    config = replace(TINY, steps=40, street_share=0.0, learning_rate=1e-2, average=0.8, warmup=4)
    net = SegmentTrainer(network(), halves(), config, tmp_path).run()
    with torch.no_grad():
        labels = net(torch.from_numpy(halves()[0].frame.image).permute(2, 0, 1)[None]).argmax(1)[0]
    assert float((labels[:, :10] == 0).float().mean()) > 0.9
    assert float((labels[:, 14:] == 1).float().mean()) > 0.9
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40]


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    config = replace(TINY, steps=1, street_share=0.0, checkpoint_every=1)
    SegmentTrainer(network(), halves(), config, tmp_path).run()
    with pytest.raises(ConfigError, match=r"other settings \({'steps': 1}\); use another folder"):
        SegmentTrainer(network(), halves(), replace(config, steps=2), tmp_path)
