"""Results are blended by what agrees and what has changed, from a picture that is remembered."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seg_node.core.blend import Blend, changed, CHANGES, HIDDEN, shrunk
from seg_node.core.comparing import COLOURS
from seg_node.core.costs import MacCounter
from seg_node.core.fusion import enlarge
from seg_node.core.tiles import halved
from seg_node.nets.build import build_network
from seg_node.nets.low import build_branch, LowBranch, ResultBranch

CLASSES = 4
SIZES = [(64, 96), (61, 83), (130, 70)]


def planes(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low, moved = torch.randn(2, 1, CLASSES, 12, 20, generator=generator)
    return low, moved, torch.rand(1, 1, 12, 20, generator=generator)


def test_a_new_blend_believes_both_alike() -> None:
    low, moved, change = planes()
    torch.testing.assert_close(Blend(CLASSES)(low, moved, change), (low + moved) / 2)


@pytest.mark.parametrize(("bias", "side"), [(50.0, 1), (-50.0, 0)])
def test_the_gate_decides_whom_to_believe(bias: float, side: int) -> None:
    low, moved, change = planes()
    blend = Blend(CLASSES)
    nn.init.constant_(blend.share.bias, bias)  # type: ignore[arg-type]  # it has one
    torch.testing.assert_close(blend(low, moved, change), (low, moved)[side])


def test_memory_that_is_not_valid_is_not_believed() -> None:
    low, moved, change = planes()
    valid = torch.zeros(1, 1, 12, 20, dtype=torch.bool)
    valid[..., :7] = True
    found = Blend(CLASSES)(low, moved, change, valid)
    torch.testing.assert_close(found[..., 7:], low[..., 7:], rtol=0, atol=0)
    torch.testing.assert_close(found[..., :7], (low + moved)[..., :7] / 2)


def test_a_blend_learns_to_believe_what_has_not_changed() -> None:
    """Both are as sure of classes drawn by lot; the truth is moved where nothing has changed."""
    torch.manual_seed(2)
    blend = Blend(CLASSES)
    optimizer = torch.optim.Adam(blend.parameters(), 0.02)

    def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        low, moved = 3.0 * torch.randn(2, 4, CLASSES, 12, 20)
        here = torch.rand(4, 1, 3, 5).gt(0.5).repeat_interleave(4, 2).repeat_interleave(4, 3)
        change = torch.where(here, 3.0, 0.3) * torch.rand(4, 1, 12, 20)
        return low, moved, change, torch.where(here, low, moved).argmax(1)

    for _ in range(150):
        *seen, truth = draw()
        loss = nn.functional.cross_entropy(blend(*seen), truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        optimizer.step()
    *seen, truth = draw()
    assert (blend(*seen).argmax(1) == truth).float().mean() > 0.9


def test_a_blend_costs_what_is_counted() -> None:
    with MacCounter() as counter:
        Blend(CLASSES)(*planes())
    assert counter.macs == 12 * 20 * HIDDEN * (9 * (2 * CLASSES + CHANGES) + 1)


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_that_stays_has_not_changed(size: tuple[int, int]) -> None:
    """What is shrunk of the whole image is what is shrunk of half of it, bit for bit."""
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    assert changed(shrunk(image, 8), shrunk(halved(image), 4)).abs().max() == 0.0
    assert changed(shrunk(image, 4), shrunk(255 - image, 4)).max() > 1.0


@pytest.mark.parametrize("size", SIZES)
def test_a_branch_blends_another_networks_results(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    net, low = (build_network(name, 11).eval() for name in ("swiftnet18", "swiftnet18-half"))
    branch = build_branch(low, "blend").eval()
    assert isinstance(branch, ResultBranch)
    assert not branch.of_features
    image = torch.randint(0, 256, (1, 3, *size)).float()
    with torch.no_grad():
        features = net.features(image)  # type: ignore[operator]  # features() is a method
        logits = net.head(features)  # type: ignore[operator]  # so is head()
        memory = branch.remembered(image, features, logits)
        found = branch(halved(image), memory)
        plane = logits.shape[-2], logits.shape[-1]
        expected = (enlarge(low(halved(image)), plane) + logits) / 2
    assert memory.shape == (1, 11 + COLOURS, *plane)
    torch.testing.assert_close(memory[:, :11], logits, rtol=0, atol=0)
    torch.testing.assert_close(found, expected)


def test_a_branch_sees_where_the_picture_has_changed() -> None:
    branch = build_branch(build_network("swiftnet18-half", 11), "blend").eval()
    seen = []
    branch.fusion.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    image = torch.randint(0, 256, (1, 3, 64, 96)).float()
    other = image.clone()
    other[..., 32:48] = 255.0 - image[..., 32:48]
    logits = torch.rand(1, 11, 16, 24)
    memory = branch.remembered(image, logits, logits)
    with torch.no_grad():
        for now in (image, other):
            branch(halved(now), memory)
    assert seen[0].abs().max() == 0.0
    there = torch.zeros(24, dtype=torch.bool)
    there[8:12] = True
    assert (seen[1][0, 0, :, there] > 1.0).float().mean() > 0.9
    assert seen[1][..., ~there].abs().max() == 0.0


def test_other_fusions_remember_features() -> None:
    branch = build_branch(build_network("swiftnet18-half", 11).eval(), "creff")
    assert isinstance(branch, LowBranch)
    image, features, logits = torch.rand(1, 3, 64, 64), torch.rand(1, 64, 16, 16), torch.rand(1)
    assert branch.remembered(image, features, logits) is features
