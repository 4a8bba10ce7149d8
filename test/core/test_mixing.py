"""What is computed counts in full where the picture changed, and half where it did not."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from seg_node.core.mixing import AROUND, around, CHANGE, mixed, RIM, RIM_SHARE, SHARE, shares

SURE, UNSURE = torch.tensor([[0.0, 4.0, 0.0]]), torch.tensor([[1.5, 0.0, 0.0]])


def test_where_nothing_changed_both_count_the_same() -> None:
    shown = mixed(SURE, UNSURE, torch.zeros(1)).softmax(1)
    torch.testing.assert_close(shown, (SURE.softmax(1) + UNSURE.softmax(1)) / 2)


def test_equal_results_stay_what_they_are() -> None:
    logits = 5 * torch.randn(20, 3, generator=torch.manual_seed(0), dtype=torch.float64)
    change = torch.linspace(0.0, 300.0, 20)
    torch.testing.assert_close(mixed(logits, logits + 7, change), logits, atol=1e-12, rtol=0)


def test_where_the_picture_changed_the_remembered_result_counts_less_and_less() -> None:
    shares = []
    for change in (0.0, CHANGE, 2 * CHANGE, 3 * CHANGE, 255.0):
        shown = mixed(SURE, UNSURE, torch.full((1,), change)).softmax(1)
        way = (SURE.softmax(1) - shown) / (SURE.softmax(1) - UNSURE.softmax(1))
        shares.append(float(way[0, 0]))
    expected = [(torch.e**-x - torch.e**-3) / (1 - torch.e**-3) * SHARE for x in range(4)]
    assert shares == pytest.approx([*expected, 0.0], abs=1e-4)


def test_a_class_that_is_sure_now_is_shown_whatever_was_remembered() -> None:
    """Also where the picture hardly changed, and the remembered logits are far larger."""
    was = torch.tensor([[200.0, 0.0, 0.0]])
    assert mixed(torch.tensor([[0.0, 20.0, 0.0]]), was, torch.full((1,), 0.5)).argmax() == 1


def test_at_the_rim_a_sure_class_is_shown_from_four_levels_of_change_on() -> None:
    """Both results are as sure as can be; below that the remembered one is shown."""
    was, now = torch.tensor([[50.0, 0.0, 0.0]]), torch.tensor([[0.0, 50.0, 0.0]])
    shown = [
        int(mixed(now, was, torch.full((1,), x), RIM_SHARE).argmax()) for x in (0.0, 3.0, 4.0)
    ]
    assert shown == [0, 0, 1]


def test_pixels_do_not_mingle_and_the_number_format_stays() -> None:
    new, old = torch.randn(7, 3, generator=torch.manual_seed(0)), torch.randn(7, 3)
    change = torch.linspace(0.0, 30.0, 7)
    whole = mixed(new, old, change)
    for i in range(7):
        torch.testing.assert_close(
            whole[i], mixed(new[i : i + 1], old[i : i + 1], change[i : i + 1])[0]
        )
    assert mixed(new.bfloat16(), old.bfloat16(), change).dtype == torch.bfloat16
    assert torch.isfinite(mixed(1e4 * new, old, change)).all()


def test_the_share_may_differ_by_pixel_and_be_the_whole() -> None:
    """Then what is remembered is shown, bit for bit, where nothing changed at all."""
    new, old = torch.randn(3, 4, generator=torch.manual_seed(0)), torch.randn(3, 4)
    share, change = torch.tensor([1.0, 0.5, 0.0]), torch.zeros(3)
    found = mixed(new, old, change, share)
    assert torch.equal(found[0], old[0])
    torch.testing.assert_close(found[1:2], mixed(new[1:2], old[1:2], change[1:2]))
    torch.testing.assert_close(found[2], new[2])


def test_the_remembered_result_counts_more_at_the_rim_of_what_is_computed() -> None:
    """By the distance from pixels that are not; the picture's own border is none."""
    computed = np.ones((40, 90), np.bool_)
    computed[:, :10] = False
    share = shares(computed).numpy()
    np.testing.assert_allclose(share[:, 10:], np.tile(share[:1, 10:], (40, 1)), atol=1e-6)
    assert share[0, 10] == pytest.approx(RIM_SHARE)
    assert share[0, 10 + int(RIM)] == pytest.approx(SHARE + (RIM_SHARE - SHARE) / math.e, abs=5e-3)
    assert share[0, -1] == pytest.approx(SHARE, abs=1e-3)
    assert (np.diff(share[0, 10:]) < 0).all()
    corner = np.ones((40, 40), np.bool_)
    corner[:4, :4] = False
    assert shares(corner)[4, 4] > shares(corner)[4, 30]


@pytest.mark.parametrize("size", [(7, 11), (1, 5), (2, 2)], ids=str)
def test_change_is_averaged_over_the_pixels_around(size: tuple[int, int]) -> None:
    values = np.random.default_rng(2).random(size).astype(np.float32)
    expected = cv2.blur(values, (AROUND, AROUND))
    np.testing.assert_allclose(around(torch.from_numpy(values)).numpy(), expected, rtol=1e-6)
