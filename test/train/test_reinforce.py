"""The policy's loss is REINFORCE on its own choices, and what is drawn is rounded up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional

from seg_node.train.policy_settings import PolicyTraining
from seg_node.train.reinforce import (
    block_losses,
    Draw,
    draw_any_share,
    draw_blocks,
    policy_lesson,
    reward_at_share,
    reward_at_target,
    shifted_to,
)

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN = math.nan


def drawn(wished: list[bool], high: list[bool]) -> Draw:
    return Draw(np.array([[wished]]), np.array([[high]]))


def gradient(draw: Draw, losses: list[float], config: PolicyTraining, scores: Tensor) -> Tensor:
    """Return the gradient of the policy's loss to its scores, [K]."""
    worth = reward_at_target(torch.tensor([[losses]], dtype=scores.dtype), draw.high, config)
    lesson = policy_lesson(scores, draw, worth)
    lesson.loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert scores.grad is not None
    return scores.grad.flatten()


def some_scores(*values: float) -> Tensor:
    return torch.tensor([[values]], dtype=torch.float64, requires_grad=True)


def test_the_gradient_is_that_of_reinforce_computed_by_hand() -> None:
    scores = some_scores(0.3, -1.2, 0.8, -0.4)
    # The third block was not drawn, and is HIGH because of the rounding only.
    draw = drawn([True, True, False, False], [True, True, True, False])
    config = PolicyTraining(target=0.5, size_weight=2.0)
    found = gradient(draw, [1.0, 3.0, 2.0, UNKNOWN], config, scores)

    p = scores.detach().flatten().sigmoid()
    room = 2.0 * (0.5 - 0.75)
    rewards = [(1.0 - 2.0) + room, (3.0 - 2.0) + room, 0.0, -(0.0 + room)]
    # d log p / d score is 1 - p of HIGH and -p of LOW; three choices were the policy's own.
    slopes = [float(1.0 - p[0]), float(1.0 - p[1]), 0.0, -float(p[3])]
    expected = [-r * s / 3 for r, s in zip(rewards, slopes, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_the_figures_are_what_they_are_called() -> None:
    draw = drawn([True, False, False, False], [True, True, False, False])
    config = PolicyTraining(target=0.5, size_weight=1.0)
    losses = torch.tensor([[[4.0, 2.0, 0.0, UNKNOWN]]], dtype=torch.float64)
    reward = reward_at_target(losses, draw.high, config)
    figures = policy_lesson(some_scores(0.0, 0.0, 0.0, 0.0), draw, reward).figures
    assert figures["baseline"] == pytest.approx(2.0)
    assert figures["high_wished"] == 0.25
    assert figures["entropy"] == pytest.approx(math.log(2))
    assert figures["reward"] == pytest.approx((2.0 + 2.0 + 0.0) / 3)
    assert figures["policy_loss"] == pytest.approx(math.log(2) * 4.0 / 3)


def test_forced_blocks_get_no_gradient() -> None:
    rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(2)
    scores = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    scores = scores.sub_(1.0).requires_grad_()
    draw = draw_blocks(scores.detach().sigmoid().numpy(), rng)
    forced = torch.from_numpy(draw.high & ~draw.wished)
    assert forced.any()
    losses = torch.rand(2, 5, 7, generator=generator, dtype=torch.float64)
    reward = reward_at_target(losses, draw.high, PolicyTraining())
    policy_lesson(scores, draw, reward).loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert scores.grad is not None
    assert torch.equal(scores.grad == 0.0, forced)


@pytest.mark.parametrize("was_high", [True, False])
def test_what_is_hard_becomes_high_whatever_was_drawn(was_high: bool) -> None:  # noqa: FBT001 - a case
    draw = drawn([was_high, was_high], [was_high, was_high])
    config = PolicyTraining(size_weight=0.0)
    slope = gradient(draw, [3.0, 1.0], config, some_scores(0.0, 0.0))
    assert slope[0] < 0.0 < slope[1]  # descent raises the first score and lowers the second


@pytest.mark.parametrize(("target", "sign"), [(0.9, -1.0), (0.1, 1.0)])
def test_the_target_pulls_every_score(target: float, sign: float) -> None:
    draw = drawn([True, False], [True, False])
    slope = gradient(
        draw, [UNKNOWN, UNKNOWN], PolicyTraining(target=target), some_scores(0.5, -0.5)
    )
    assert torch.equal(slope.sign(), torch.full((2,), sign, dtype=torch.float64))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_shifted_scores_have_the_share_in_every_image(share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = (
        30.0 * torch.randn(3, 4, 5, generator=generator)
        + torch.tensor([-9.0, 0.0, 50.0])[:, None, None]
    )
    shifted = shifted_to(scores, share)
    torch.testing.assert_close(
        shifted.sigmoid().mean((1, 2)), torch.full((3,), share), atol=1e-4, rtol=0.0
    )
    added = (shifted - scores).flatten(1)
    torch.testing.assert_close(added, added[:, :1].expand_as(added), atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_or_all_decides_every_block(share: float) -> None:
    shifted = shifted_to(torch.tensor([[[-40.0, 3.0, 60.0]]]), share)
    assert (shifted.sigmoid() - share).abs().max() < 1e-3


def test_the_shift_is_a_constant_to_the_gradient() -> None:
    scores = some_scores(0.3, -1.2, 0.8)
    shifted_to(scores, 0.2)[0, 0, 1].backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert scores.grad is not None
    assert scores.grad.flatten().tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(("share", "last"), [(0.0, 7.0), (0.25, 4.0), (0.5, 3.0), (1.0, 1.0)])
def test_at_a_share_a_block_is_worth_what_it_has_over_the_last_one(
    share: float, last: float
) -> None:
    losses = torch.tensor([[[3.0, 1.0, 4.0, 7.0, 2.0, UNKNOWN]], [[0.0] * 6]])
    losses[0, 0, 4] = 3.0
    reward = reward_at_share(losses, share)
    expected = [3.0 - last, 1.0 - last, 4.0 - last, 7.0 - last, 3.0 - last, 0.0]
    assert reward.of_high[0, 0].tolist() == pytest.approx(expected)
    assert reward.of_high[1].abs().max() == 0.0
    assert reward.baseline == pytest.approx(last / 2)


def test_an_image_without_labels_teaches_nothing_at_a_share() -> None:
    reward = reward_at_share(torch.full((2, 2, 3), UNKNOWN), 0.4)
    assert reward.of_high.abs().max() == 0.0
    assert reward.baseline == 0.0


def test_drawn_blocks_are_rounded_up_to_a_sixteenth() -> None:
    rng = np.random.default_rng(0)
    probability = np.full((2, 8, 8), 0.3)
    probability[:, 0] = 1.0
    for _ in range(20):
        draw = draw_blocks(probability, rng)
        assert draw.wished[:, 0].all()
        assert not (draw.wished & ~draw.high).any()
        assert draw.high.sum() % 8 == 0
        assert draw.high.sum() - draw.wished.sum() < 8


def test_the_rounding_takes_any_block() -> None:
    rng = np.random.default_rng(0)
    wished = np.zeros((1, 8, 8))
    wished[0, 0, 0] = 1.0
    forced = np.sum([draw_blocks(wished, rng).high for _ in range(300)], axis=0)
    assert forced[0, 0, 0] == 300
    others = forced.flatten()[1:]
    assert others.min() > 0
    assert others.max() < 40


def test_a_single_low_block_is_never_left() -> None:
    rng = np.random.default_rng(0)
    probability = np.ones((1, 2, 2))
    probability[0, 0, 0] = 0.0
    draw = draw_blocks(probability, rng)
    assert draw.high.all()
    assert draw.wished.sum() == 3


def test_every_share_of_random_blocks_occurs() -> None:
    rng = np.random.default_rng(0)
    counts = [int(draw_any_share((2, 2, 3), rng).high.sum()) for _ in range(600)]
    assert set(counts) == set(range(11)) | {12}
    assert np.mean(counts) == pytest.approx(6.0, abs=0.5)


def test_block_losses_are_means_over_labelled_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 12, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 64, 96), generator=generator)
    labels[0, :32, :32] = 255
    labels[1, 32:, 40:60] = 255
    weights = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    found = block_losses(logits, labels, weights, 32, phase=2)
    seen = labels[:, ::2, 1::2]
    sure = functional.interpolate(logits, (32, 48), mode="bilinear").log_softmax(1)
    for n, row, column in np.ndindex(2, 2, 3):
        part = (slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16))
        true = seen[n][part]
        known = true != 255
        values = [-float(weights[c] * sure[n, c][part][true == c].sum()) for c in range(3)]
        mean = sum(values) / int(known.sum()) if known.any() else UNKNOWN
        assert float(found[n, row, column]) == pytest.approx(mean, nan_ok=True)
    assert int(found.isnan().sum()) == 1
