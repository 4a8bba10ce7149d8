"""Scores rank blocks by what they say they rank by, and cost what they say they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.costs import dense_macs
from seg_node.core.scores import Complexity, Heuristic, Middle, Oracle, Random, whole_blocks
from seg_node.core.types import ConfigError
from seg_node.nets.build import build_network
from seg_node.nets.decision import ComplexityNet

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 64


def image(height: int = 200, width: int = 330) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8)


def test_random_differs_from_frame_to_frame_and_is_the_same_in_every_run() -> None:
    first, again = Random(5), Random(5)
    runs = [[score(image(), SIDE) for _ in range(3)] for score in (first, again)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0][0] != runs[0][1]).all()


def test_middle_rows_come_first() -> None:
    scores = Middle()(image(64 * 5, 130), SIDE)
    assert scores.shape == (5, 3)
    assert np.argsort(-scores[:, 0], kind="stable").tolist() == [2, 1, 3, 0, 4]
    assert (scores == scores[:, :1]).all()


def test_heuristic_finds_the_block_with_detail() -> None:
    """A smooth ramp survives shrinking; a checkerboard does not. Edges count as the rest."""
    smooth = torch.linspace(0, 255, 330).expand(1, 3, 200, 330).clone().to(torch.uint8)
    board = (torch.arange(8)[:, None] + torch.arange(10)) % 2 * 255
    smooth[..., 192:200, 320:330] = board.to(torch.uint8)
    scores = Heuristic()(smooth, SIDE)
    assert scores.shape == (4, 6)
    assert scores.argmax() == 23
    assert scores.ravel()[:23].max() < 0.05 * scores.max()


def test_complexity_sees_whole_blocks_as_the_paper_does() -> None:
    """Every n-th pixel of a block, 32 a side; the image ends in copies of its last pixels."""
    seen: list[Tensor] = []

    class Spy(ComplexityNet):
        def forward(self, image: Tensor, grid: tuple[int, int]) -> Tensor:  # type: ignore[override]  # narrower: a tuple
            seen.append(image)
            return super().forward(image, grid)

    net = Spy(8).eval()
    scores = Complexity(net)(image(), SIDE)
    assert scores.shape == (4, 6)
    assert np.isfinite(scores).all()
    (padded,) = seen
    assert padded.shape == (1, 3, 256, 384)
    torch.testing.assert_close(padded[..., :200, :330], image())
    assert (padded[..., 200:, :330] == image()[..., -1:, :]).all()
    with torch.no_grad():
        expected = net(padded[..., ::2, ::2], (4, 6))
    np.testing.assert_allclose(scores, expected[0].numpy(), rtol=1e-6)


def test_complexity_costs_what_the_paper_counts() -> None:
    """0.34 GMAC at 1024 x 2048 in blocks of 128 pixels (papers.md section 3A)."""
    macs = Complexity(ComplexityNet()).macs((1024, 2048), 128)
    assert macs / 1e9 == pytest.approx(0.34, abs=0.01)
    assert macs == dense_macs(ComplexityNet(), 1024, 2048, (8, 16))


def test_one_logit_depends_on_its_surroundings_not_on_the_far_end() -> None:
    near, far = image(256, 640), image(256, 640)
    far[..., 576:] = 0
    net = ComplexityNet(8).eval()
    difference = np.abs(Complexity(net)(near, SIDE) - Complexity(net)(far, SIDE))
    assert difference[:, -1].min() > 0
    assert difference[:, :4].max() == 0


def test_a_trained_policy_knows_where_a_block_is() -> None:
    """Far rows of a plain grey picture score otherwise than near ones; untrained, they do not."""
    net = ComplexityNet(8).eval()
    plain = torch.full((1, 3, 640, 640), 90, dtype=torch.uint8)
    inner = Complexity(net)(plain, SIDE)[3:7, 3:7]  # away from where zeros lie around the picture
    np.testing.assert_allclose(inner, inner[0, 0], atol=1e-6)
    with torch.no_grad():
        net.place.weight.copy_(
            torch.tensor([0.0, 0.0, 10.0, 0.0]).view(1, 4, 1, 1).expand(8, -1, 1, 1)
        )
        net.logit.weight.fill_(1.0)
    scores = Complexity(net)(plain, SIDE)[3:7, 3:7]
    np.testing.assert_allclose(scores, scores[:, :1].repeat(4, 1), rtol=1e-5)
    assert scores[0, 0] > scores[1, 0] + 0.1  # by the square of the row: least in the middle
    assert scores[3, 0] > scores[2, 0] + 0.1


def test_weights_of_a_policy_that_knew_no_places_still_load() -> None:
    net = ComplexityNet(8)
    known = {key: value for key, value in net.state_dict().items() if "place" not in key}
    with torch.no_grad():
        net.place.weight.fill_(3.0)
    net.load_state_dict(known)
    assert (net.place.weight == 0).all()


def test_whole_images_are_not_copied() -> None:
    exact = image(128, 192)
    assert whole_blocks(exact, SIDE) is exact


def test_oracle_wants_the_block_that_half_resolution_costs_most() -> None:
    """Labels are what the network itself says at full resolution, but for one block."""
    torch.manual_seed(0)
    net = build_network("swiftnet18-half", 5).eval()
    pixels = image(128, 192)
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(net(pixels), scale_factor=4.0, mode="bilinear")
        low = torch.nn.functional.interpolate(
            net(torch.nn.functional.avg_pool2d(pixels.float(), 2)),
            scale_factor=8.0,
            mode="bilinear",
        )
    high_loss, low_loss = (x.log_softmax(1)[0] for x in (logits, low))
    gain = high_loss - low_loss
    labels = gain.argmin(0)  # where full resolution is the worst
    labels[64:, 64:128] = gain.argmax(0)[64:, 64:128]
    oracle = Oracle(net)  # type: ignore[arg-type]  # the networks have its face
    with pytest.raises(ConfigError, match="no labels"):
        oracle(pixels, SIDE)
    oracle.labels = labels
    scores = oracle(pixels, SIDE)
    assert scores.argmax() == 4
    expected = gain.gather(0, labels[None])[0][64:, 64:128].mean()
    assert scores[1, 1] == pytest.approx(float(expected), rel=1e-4)
    oracle.labels = torch.full_like(labels, 255)
    assert (oracle(pixels, SIDE) == 0).all()
