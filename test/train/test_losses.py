"""Losses on hand-checkable cases."""

from __future__ import annotations

import math

import pytest
import torch

from seg_node.train.losses import class_weights, segmentation_loss, soft_jaccard


def sure(labels: torch.Tensor, classes: int, confidence: float = 50.0) -> torch.Tensor:
    """Return logits that are certain of the given labels [N, H, W]."""
    return torch.nn.functional.one_hot(labels, classes).permute(0, 3, 1, 2) * confidence


def test_rare_classes_weigh_more_and_the_mean_is_one() -> None:
    weights = class_weights(torch.tensor([900, 90, 10]))
    assert weights.mean() == pytest.approx(1.0)
    assert weights[0] < weights[1] < weights[2]
    expected = [1 / math.log(1.1 + share) for share in (0.9, 0.09, 0.01)]
    assert weights[2] / weights[0] == pytest.approx(expected[2] / expected[0], rel=1e-4)


def test_soft_jaccard_equals_the_hard_one_for_sure_predictions() -> None:
    truth = torch.tensor([[[0, 0, 1, 255]]])
    prediction = sure(torch.tensor([[[0, 1, 1, 0]]]), 3).log_softmax(1)
    # Class 0: 1 of 2, class 1: 1 of 2, class 2 absent, void ignored.
    assert soft_jaccard(prediction, truth).item() == pytest.approx(0.5, abs=1e-6)


def test_all_void_costs_nothing_and_has_a_gradient() -> None:
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = soft_jaccard(logits.log_softmax(1), torch.full((1, 2, 2), 255))
    loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert loss.item() == 0.0


@pytest.mark.parametrize("phase", range(4))
def test_right_logits_cost_almost_nothing_in_every_phase(phase: int) -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[:, 16:] = 1
    logits = sure(labels[:, ::4, ::4], 2)
    right = segmentation_loss(logits, labels, torch.ones(2), jaccard=0.5, phase=phase)
    wrong = segmentation_loss(logits, 1 - labels, torch.ones(2), jaccard=0.5, phase=phase)
    assert right < 1.5 < wrong


def test_jaccard_weight_zero_leaves_the_cross_entropy() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    loss = segmentation_loss(torch.zeros(1, 4, 2, 2), labels, torch.ones(4), jaccard=0.0)
    assert loss.item() == pytest.approx(math.log(4), rel=1e-5)
