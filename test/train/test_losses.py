"""Losses on hand-checkable cases."""

from __future__ import annotations

from dataclasses import replace
import math

import pytest
import torch

from seg_node.train.batches import Batch
from seg_node.train.losses import (
    class_weights,
    cross_entropy,
    divergence,
    hard_cross_entropy,
    segmentation_loss,
    soft_jaccard,
)
from test.train.samples import TINY


def sure(labels: torch.Tensor, classes: int, confidence: float = 50.0) -> torch.Tensor:
    """Return logits that are certain of the given labels [N, H, W]."""
    return torch.nn.functional.one_hot(labels, classes).permute(0, 3, 1, 2) * confidence


def batch_of(labels: torch.Tensor, soft: torch.Tensor | None = None) -> Batch:
    return Batch(torch.zeros(1), labels, soft, low=False)


def test_rare_classes_weigh_more_and_the_mean_is_one() -> None:
    weights = class_weights(torch.tensor([900, 90, 10]))
    assert weights.mean() == pytest.approx(1.0)
    assert weights[0] < weights[1] < weights[2]
    expected = [1 / math.log(1.1 + share) for share in (0.9, 0.09, 0.01)]
    assert weights[2] / weights[0] == pytest.approx(expected[2] / expected[0], rel=1e-4)
    assert class_weights(torch.tensor([900, 100]), 0.0).tolist() == [1.0, 1.0]


def test_cross_entropy_is_that_of_torch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    labels[0, 0] = 255
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    ours = cross_entropy(logits.log_softmax(1), labels, weights)
    theirs = torch.nn.functional.cross_entropy(logits, labels, weights, ignore_index=255)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_hard_pixels_alone_count() -> None:
    # 32 pixels: 28 easy ones, 4 at even odds; the void one is no pixel at all.
    logits = torch.zeros(1, 2, 1, 33)
    logits[0, 0, 0, :28] = 50.0
    labels = torch.zeros(1, 1, 33, dtype=torch.long)
    labels[0, 0, 32] = 255
    loss = hard_cross_entropy(logits.log_softmax(1), labels, 0.7)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    # With none below the threshold, the hardest sixteenth (2 of 32) counts.
    assert hard_cross_entropy(logits.log_softmax(1), labels, 0.3).item() == pytest.approx(
        math.log(2), rel=1e-5
    )


def test_soft_jaccard_equals_the_hard_one_for_sure_predictions() -> None:
    truth = torch.tensor([[[0, 0, 1, 255]]])
    prediction = sure(torch.tensor([[[0, 1, 1, 0]]]), 3).log_softmax(1)
    # Class 0: 1 of 2, class 1: 1 of 2, class 2 absent, void ignored.
    assert soft_jaccard(prediction, truth).item() == pytest.approx(0.5, abs=1e-6)


def test_all_void_costs_nothing_and_has_a_gradient() -> None:
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    batch = batch_of(torch.full((1, 16, 16), 255))
    loss = segmentation_loss(logits, batch, torch.ones(3), TINY)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert loss.item() == 0.0


@pytest.mark.parametrize("phase", range(4))
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_right_logits_cost_almost_nothing_in_every_phase(phase: int, stride: int) -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[:, 16:] = 1
    logits = sure(labels[:, ::stride, ::stride], 2)
    right = segmentation_loss(logits, batch_of(labels), torch.ones(2), TINY, phase)
    wrong = segmentation_loss(logits, batch_of(1 - labels), torch.ones(2), TINY, phase)
    assert right < 2.5 < wrong


def test_jaccard_weight_zero_leaves_the_cross_entropy() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    config = replace(TINY, jaccard=0.0)
    loss = segmentation_loss(torch.zeros(1, 4, 2, 2), batch_of(labels), torch.ones(4), config)
    assert loss.item() == pytest.approx(math.log(4), rel=1e-5)


def test_divergence_counts_where_the_teacher_speaks() -> None:
    soft = torch.zeros(1, 2, 1, 3)
    soft[0, :, 0, 0] = torch.tensor([0.5, 0.5])
    soft[0, :, 0, 1] = torch.tensor([1.0, 0.0])
    logits = torch.zeros(1, 2, 1, 3)
    assert divergence(logits, soft).item() == pytest.approx((0.0 + math.log(2)) / 2, rel=1e-5)


def test_a_teacher_adds_its_weighted_share() -> None:
    labels = torch.full((1, 8, 8), 255)
    soft = torch.zeros(1, 2, 2, 2)
    soft[:, 0] = 1.0
    config = replace(TINY, distill=3.0)
    loss = segmentation_loss(
        torch.zeros(1, 2, 2, 2), batch_of(labels, soft), torch.ones(2), config
    )
    assert loss.item() == pytest.approx(3.0 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("loss", ["ce", "ohem"])
def test_a_sample_counts_by_its_emphasis(loss: str) -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 16, 16))
    soft = torch.rand(2, 3, 4, 4).softmax(1)
    config = replace(TINY, loss=loss, ohem_threshold=1.0, jaccard=0.7, distill=0.9)
    weights = torch.tensor([1.0, 1.0, 1.0])

    def whole(emphasis: list[float] | None, samples: slice = slice(2)) -> float:
        factors = None if emphasis is None else torch.tensor(emphasis)
        batch = Batch(torch.zeros(1), labels[samples], soft[samples], low=False, emphasis=factors)
        return segmentation_loss(logits[samples], batch, weights, config).item()

    alone = whole(None, slice(1))
    assert whole([1.0, 1.0]) == pytest.approx(whole(None), rel=1e-5)
    assert whole([2.0, 0.0]) == pytest.approx(alone, rel=1e-4)
    assert whole([3.0], slice(1)) == pytest.approx(3.0 * alone, rel=1e-5)


def test_emphasis_comes_to_the_device() -> None:
    batch = replace(batch_of(torch.zeros(1, 4, 4)), emphasis=torch.ones(1))
    there = batch.to(torch.device("meta"))
    assert there.emphasis is not None
    assert there.emphasis.is_meta
    assert batch_of(torch.zeros(1, 4, 4)).to(torch.device("meta")).emphasis is None
