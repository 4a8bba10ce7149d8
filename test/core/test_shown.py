"""What was shown last moves along, says where it is in doubt, and counts in what is shown next."""

from __future__ import annotations

import torch

from seg_node.core.mixing import around, mixed
from seg_node.core.shown import Shown

SIZE = (6, 9)
ALL = torch.ones(SIZE, dtype=torch.bool)


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(1, 4, *SIZE, generator=torch.manual_seed(seed))


def picture(seed: int) -> torch.Tensor:
    return 255 * torch.rand(3, *SIZE, generator=torch.manual_seed(seed))


def flow(x: float = 0, y: float = 0) -> torch.Tensor:
    return torch.tensor((x, y)).expand(*SIZE, 2)


def after(result: torch.Tensor, image: torch.Tensor) -> Shown:
    shown = Shown()
    shown.keep(result, image)
    return shown


def test_where_nothing_was_computed_or_changed_it_is_shown_again_bit_for_bit() -> None:
    shown = after(logits(0), picture(0))
    shown.follow(flow(), ALL, picture(0))
    assert torch.equal(shown.mixed(logits(1), ~ALL), logits(0))


def test_what_is_computed_counts_half_of_it() -> None:
    shown = after(logits(0), picture(0))
    shown.follow(flow(), ALL, picture(0))
    found = shown.mixed(logits(1), ALL).softmax(1)
    expected = (logits(0).softmax(1) + logits(1).softmax(1)) / 2
    torch.testing.assert_close(found, expected)


def test_it_moves_with_its_picture() -> None:
    """By two pixels to the right and one up, where its doubt is then, too."""
    shown = after(logits(0), picture(0))
    doubt = shown.follow(flow(-2, 1), ALL, picture(0).roll((-1, 2), (1, 2)))
    inner = ..., slice(1, -2), slice(3, None)
    expected = logits(0).roll((-1, 2), (2, 3))
    assert torch.equal(shown.mixed(logits(1), ~ALL)[inner], expected[inner])
    confidence = expected.softmax(1).amax(1)[0]
    torch.testing.assert_close(doubt[inner], (1 - confidence)[inner])


def test_the_more_the_picture_changed_the_less_it_counts() -> None:
    """Of three colours the one that changed most; on average over the pixels around."""
    image = picture(0)
    image[2, :, 5:] += 12
    shown = after(logits(0), picture(0))
    shown.follow(flow(), ALL, image)
    change = around((image - picture(0))[2])
    new, old = (x[0].flatten(1).T for x in (logits(1), logits(0)))
    expected = mixed(new, old, change.flatten(), 1.0).T.reshape(1, 4, *SIZE)
    torch.testing.assert_close(shown.mixed(logits(1), ~ALL), expected)
    assert torch.equal(expected[..., :4], logits(0)[..., :4])
    assert not torch.equal(expected[..., 4:], logits(0)[..., 4:])


def test_a_frame_that_failed_is_followed_across() -> None:
    """Nothing was kept of it; result and picture have moved on together."""
    shown, image = after(logits(0), picture(0)), picture(0)
    for _ in range(2):
        image = image.roll(1, 2)
        shown.follow(flow(-1), ALL, image)
    found = shown.mixed(logits(1), ~ALL)
    assert torch.equal(found[..., 3:], logits(0).roll(2, 3)[..., 3:])


def test_where_motion_is_unknown_the_new_result_is_shown() -> None:
    valid = ALL.clone()
    valid[:, :3] = False
    shown = after(logits(0), picture(0))
    shown.follow(flow(), valid, picture(0))
    found = shown.mixed(logits(1), ~ALL)
    torch.testing.assert_close(found[..., :3], logits(1)[..., :3])
    assert torch.equal(found[..., 4:], logits(0)[..., 4:])


def test_results_in_half_precision_stay_so() -> None:
    shown = after(logits(0).half(), picture(0))
    shown.follow(flow(0.5), ALL, picture(0))
    assert shown.mixed(logits(1).half(), ALL).dtype == torch.float16
