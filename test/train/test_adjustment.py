"""Offsets of logits: they raise mIoU where classes claim too much, and say what they are worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from seg_node.core.types import DataError, IGNORE_LABEL, ModelError
from seg_node.train import adjustment
from seg_node.train.adjustment import (
    draw_pixels,
    find_offsets,
    judge,
    LARGEST,
    last_bias,
    Pixels,
    STEP,
)
from seg_node.train.augment import Picture
from test.train.samples import network


def claimed(bias: float, seed: int = 0, count: int = 4000) -> Pixels:
    """Return pixels of three classes, of which the rare last one has `bias` too much of logit."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=(0.6, 0.35, 0.05))
    logits = rng.normal(0.0, 1.0, (count, 3))
    logits[np.arange(count), labels] += 2.0
    logits[:, 2] += bias
    drawn = torch.from_numpy(logits.astype(np.float32))
    return Pixels(drawn, torch.from_numpy(labels.astype(np.uint8)))


def test_what_claims_too_much_is_taken_back() -> None:
    pixels, none = claimed(2.0), torch.zeros(3)
    offsets = find_offsets([pixels])
    # For three classes, two differences are all there is: a fine grid knows the best.
    grid = torch.linspace(-3.0, 3.0, 25).tolist()
    best = max(pixels.miou(torch.tensor([0.0, b, c])) for b in grid for c in grid)
    assert pixels.miou(none) < best - 0.1
    assert pixels.miou(offsets) > best - 0.005
    assert offsets[2] < offsets[0] - 1.0


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_on_the_pixels_themselves(seed: int) -> None:
    torch.manual_seed(seed)
    pixels = Pixels(torch.randn(500, 4), torch.randint(3, (500,), dtype=torch.uint8))
    offsets = find_offsets([pixels])
    assert pixels.miou(offsets) >= pixels.miou(torch.zeros(4))
    assert offsets[3] == 0.0  # never labelled: nothing says where it belongs
    assert offsets.abs().max() <= LARGEST


def test_offsets_stay_within_their_bound() -> None:
    offsets = find_offsets([claimed(5.0)])
    assert offsets.abs().max() == LARGEST


@pytest.mark.parametrize("label", range(4))
def test_one_pass_counts_what_every_offset_would_score(label: int) -> None:
    torch.manual_seed(label)
    pixels = Pixels(torch.randn(300, 4), torch.randint(4, (300,), dtype=torch.uint8))
    offsets = torch.randn(4)
    score, offset = adjustment._best_of_class(pixels, offsets, label)
    tried = {}
    for value in torch.arange(-LARGEST, LARGEST + STEP / 2, STEP).tolist():
        changed = offsets.clone()
        changed[label] = value
        tried[value] = pixels.miou(changed)
    assert score == pytest.approx(max(tried.values()), abs=1e-6)
    assert tried[offset] == pytest.approx(score, abs=1e-6)


def test_frames_held_out_say_what_offsets_are_worth() -> None:
    alike = [claimed(2.0, seed) for seed in range(10)]
    gain = judge(alike, find_offsets(alike))
    assert gain.after > gain.before + 0.1
    assert gain.held_after > gain.held_before + 0.1
    # The last drive is one of its own: what helps the others harms it, and that is told.
    unlike = [claimed(2.5, seed) for seed in range(4)] + [claimed(-1.5, 9)]
    before = claimed(-1.5, 9).miou(torch.zeros(3))
    harmed = claimed(-1.5, 9).miou(find_offsets(unlike[:4]))
    assert harmed < before
    told = judge(unlike, find_offsets(unlike))
    parts = [frame.miou(torch.zeros(3)) for frame in unlike]
    assert told.held_before == pytest.approx(sum(parts) / 5, abs=1e-6)
    rest = [unlike[:k] + unlike[k + 1 :] for k in range(5)]
    held = [u.miou(find_offsets(o)) for u, o in zip(unlike, rest, strict=True)]
    assert told.held_after == pytest.approx(sum(held) / 5, abs=1e-6)
    less = judge(unlike, find_offsets(unlike), 0.3)
    held = [u.miou(0.3 * find_offsets(o)) for u, o in zip(unlike, rest, strict=True)]
    assert less.held_after == pytest.approx(sum(held) / 5, abs=1e-6)
    assert told.before == less.before < less.after < told.after


def test_a_single_frame_can_be_judged() -> None:
    frame = claimed(2.0)
    gain = judge([frame], find_offsets([frame]))
    assert gain.held_before == gain.held_after == pytest.approx(gain.before)


def test_pixels_are_labelled_ones_with_their_own_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are those of the labels' resolution, as `evaluate` has them."""
    rng = np.random.default_rng(3)
    labels = rng.integers(11, size=(48, 64)).astype(np.uint8)
    labels[:40] = IGNORE_LABEL
    picture = Picture(rng.integers(256, size=(48, 64, 3)).astype(np.uint8), labels)
    net = network().eval()
    (whole,) = draw_pixels(net, [picture])
    assert whole.labels.tolist().count(IGNORE_LABEL) == 0
    assert len(whole.labels) == 8 * 64
    with torch.inference_mode():
        logits = net(torch.from_numpy(picture.image).permute(2, 0, 1)[None])
        logits = nn.functional.interpolate(logits, (48, 64), mode="bilinear")[0]
    known = torch.from_numpy(labels) != IGNORE_LABEL
    expected = logits[:, known].T[torch.argsort(torch.from_numpy(labels)[known], stable=True)]
    found = whole.logits[torch.argsort(whole.labels, stable=True)]
    assert torch.equal(found.sort(0).values, expected.sort(0).values)
    monkeypatch.setattr(adjustment, "PIXELS", 30)
    drawn = draw_pixels(net, [picture, picture, picture])
    assert [len(pixels.labels) for pixels in drawn] == [10, 10, 10]
    assert not torch.equal(drawn[0].logits, drawn[1].logits)  # other pixels of the same frame
    rows = {tuple(row) for row in whole.logits.tolist()}
    assert {tuple(row) for row in drawn[2].logits.tolist()} <= rows


def test_frames_without_labels_are_refused() -> None:
    void = Picture(np.zeros((48, 64, 3), np.uint8), np.full((48, 64), IGNORE_LABEL, np.uint8))
    with pytest.raises(DataError, match="none of the 2 frames has a labelled pixel"):
        draw_pixels(network().eval(), [void, void])


def test_a_network_without_a_bias_at_its_end_is_refused() -> None:
    net = network()
    assert last_bias(net) is net.head.bias
    net.head = nn.Conv2d(net.feature_channels, 11, 1, bias=False)
    with pytest.raises(ModelError, match="head of SwiftNet is Conv2d: offsets need"):
        last_bias(net)
    net.head = nn.Sequential(nn.Conv2d(net.feature_channels, 11, 1))  # type: ignore[assignment]  # what a user may write
    with pytest.raises(ModelError, match="head of SwiftNet is Sequential"):
        last_bias(net)
