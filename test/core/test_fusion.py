"""Fusion is what the paper says, harmless when new, and costs what the papers count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from seg_node.core.costs import dense_macs, MacCounter
from seg_node.core.fusion import enlarge, Fusion, GATE_CHANNELS, GatedFusion, macs
from seg_node.core.tiles import halved
from seg_node.core.types import ModelError
from seg_node.loops import compiling
from seg_node.nets.build import build_network
from test.core.flops import flop_counter
from test.core.slow_attention import holes, slow_attention


def lively(channels: int) -> Fusion:
    """Return a fusion whose weights are all at work, as after training."""
    return alive(Fusion(channels))


def alive(net: Fusion) -> Fusion:
    """Give a fusion random weights."""
    torch.manual_seed(5)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.requires_grad_(requires_grad=False)


def test_logits_are_not_scaled_and_the_fused_features_are_added_to_low() -> None:
    """The whole of step 7, from its parts."""
    net = lively(4)
    low, memory = torch.randn(2, 1, 4, 6, 5)
    operands = (net.query(low), net.key(memory), net.value(memory))
    torch.testing.assert_close(net(low, memory), slow_attention(low, operands, None, 7))


def test_memory_that_is_not_valid_is_never_looked_at() -> None:
    net, valid = lively(4), holes(2, 12, 13)
    low, memory = torch.randn(2, 2, 4, 12, 13)
    first = net(low, memory, valid)
    changed = torch.where(valid, memory, memory * 100 + 1)
    assert torch.equal(net(low, changed, valid), first)
    assert not torch.allclose(net(low, changed), first)


def test_low_features_stay_where_nothing_valid_is_near() -> None:
    net = lively(4)
    low, memory = torch.randn(2, 1, 4, 12, 20)
    valid = torch.ones(1, 1, 12, 20, dtype=torch.bool)
    valid[..., 8:] = False
    found = net(low, memory, valid)
    assert torch.equal(found[..., 11:], low[..., 11:])
    assert (found[..., :11] != low[..., :11]).all()


def test_memory_valid_everywhere_is_as_if_nothing_was_said() -> None:
    net = lively(4)
    low, memory = torch.randn(2, 1, 4, 9, 8)
    valid = torch.ones(1, 1, 9, 8, dtype=torch.bool)
    torch.testing.assert_close(net(low, memory, valid), net(low, memory))


def test_a_new_fusion_changes_nothing_and_learns_all_the_same() -> None:
    """Low features lack what the memory has, one pixel away: a few steps find it."""
    torch.manual_seed(0)
    net = Fusion(8)
    memory = torch.randn(1, 8, 10, 10)
    whole = memory.roll(1, -1)
    low = whole * 0.5
    assert torch.equal(net(low, memory), low)
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    losses = []
    for _ in range(30):
        loss = (net(low, memory) - whole).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_training_in_mixed_precision_keeps_the_attention_in_float32() -> None:
    net = lively(16).requires_grad_()
    low, memory = torch.randn(2, 1, 16, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(low, memory)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, net(low, memory), rtol=0.05, atol=0.1)
    found.sum().backward()
    assert net.query.weight.grad is not None


@pytest.mark.parametrize(
    ("channels", "size", "gmac"),
    [
        (64, (720, 960), 5.5),
        (256, (90, 120), 0.35),
        (512, (128, 256), 2.1),
        (256, (128, 256), 1.05),
    ],
)
def test_macs_are_those_of_the_papers(channels: int, size: tuple[int, int], gmac: float) -> None:
    """The four rows of AR-Seg (papers.md, section 2c)."""
    assert macs(size, channels) / 1e9 == pytest.approx(gmac, rel=0.02)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(1, 2), (33, 70)])
def test_law_7_what_is_stated_is_what_runs(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch, *, masked: bool
) -> None:
    """Nothing is multiplied in vain, and both counters see every product."""
    net = Fusion(16)
    plane = torch.randn(1, 16, *size)
    valid = holes(1, *size) if masked else None
    with torch.no_grad(), MacCounter() as by_loops:
        net(plane, plane, valid)
    assert by_loops.macs == macs(size, 16)
    monkeypatch.setattr(compiling, "AVAILABLE", False)  # a loop is no operator
    with flop_counter() as operators, torch.no_grad(), MacCounter() as counter:
        net(plane, plane, valid)
    assert counter.macs == operators.get_total_flops() // 2 == macs(size, 16)


@pytest.mark.parametrize(("network", "percent"), [("pspnet18", 67.0), ("bisenet18", 67.6)])
def test_arseg_saves_what_the_paper_says(network: str, percent: float) -> None:
    """960x720, one HIGH frame of 12, the others LOW and fused (papers.md, section 2c)."""
    with torch.device("meta"):
        net: Any = build_network(network, 12)
    high, low = dense_macs(net, 720, 960), dense_macs(net, 360, 480)
    fused = low + macs((720 // net.stride, 960 // net.stride), net.feature_channels)
    saved = 1 - (high + 11 * fused) / (12 * high)
    assert 100 * saved == pytest.approx(percent, abs=0.5)


@pytest.mark.parametrize("size", [(64, 96), (71, 69)])
def test_law_3_without_fusion_all_low_is_the_network_on_the_half_image_enlarged(
    size: tuple[int, int],
) -> None:
    torch.manual_seed(2)
    net: Any = build_network("swiftnet18-half", 5).eval().double()
    image = torch.randint(0, 256, (1, 3, *size)).double()
    h, w = (-(-length // net.stride) for length in size)
    with torch.no_grad():
        found = net.head(enlarge(net.features(halved(image)), (h, w)))
        wide = nn.functional.interpolate(net(halved(image)), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(found, wide[..., :h, :w], rtol=1e-9, atol=1e-9)


def test_what_does_not_fit_is_refused() -> None:
    net = Fusion(4)
    plane = torch.zeros(1, 4, 6, 8)
    with pytest.raises(ModelError, match=r"\[1, 4, 3, 4\].*\[1, 4, 6, 8\].*enlarge"):
        net(plane[..., :3, :4], plane)
    for valid in (torch.ones(1, 1, 6, 8), torch.ones(1, 6, 8, dtype=torch.bool)):
        with pytest.raises(ModelError, match=r"valid of fusion is torch\.\w+ \[1, .*torch.bool"):
            net(plane, plane, valid)
    with pytest.raises(ModelError, match=r"\[1, 4, 6, 8\] are not half of \[6, 8\]"):
        enlarge(plane, (6, 8))
    with pytest.raises(ModelError, match="window of fusion is 4"):
        Fusion(4, 4)


def test_a_gate_leaves_low_features_where_no_memory_is_in_reach() -> None:
    low, memory = torch.randn(2, 1, 4, 12, 20)
    net = alive(GatedFusion(4))
    nothing = torch.zeros(1, 1, 12, 20, dtype=torch.bool)
    assert torch.equal(net(low, memory, nothing), low)
    corner = nothing.clone()
    corner[..., 0, 0] = True
    fused = net(low, memory, corner)
    assert torch.equal(fused[..., 4:, :], low[..., 4:, :])
    assert torch.equal(fused[..., :, 4:], low[..., :, 4:])
    assert (fused[..., :4, :4] != low[..., :4, :4]).all()


def test_a_gate_blends_between_low_and_what_was_found() -> None:
    """Wide open it is the attention alone, shut it is LOW alone, new it is half of each."""
    low, memory = torch.randn(2, 1, 4, 12, 20)
    net = GatedFusion(4)
    operands = (net.query(low), net.key(memory), net.value(memory))
    found = slow_attention(torch.zeros_like(low), operands, None, 7)
    last = net.gate[2]
    for bias, expected in ((50.0, found), (-50.0, low), (0.0, (low + found) / 2)):
        nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]  # it has one
        torch.testing.assert_close(net(low, memory), expected)


def test_a_gate_learns_to_take_the_memory_where_it_is_right() -> None:
    """Left the memory shows the truth and LOW a constant, right it is the other way round."""
    torch.manual_seed(2)
    truth, other = torch.randn(2, 1, 4, 12, 20)
    left = (torch.arange(20) < 10).expand(1, 1, 12, 20)
    low, memory = torch.where(left, 2.0, truth), torch.where(left, truth, other)
    net = GatedFusion(4)
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    losses = []
    for _ in range(60):
        loss = (net(low, memory) - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]


def test_a_gate_costs_what_is_counted() -> None:
    low, memory = torch.randn(2, 1, 4, 12, 20)
    with MacCounter() as counter:
        GatedFusion(4)(low, memory)
    assert counter.macs == macs((12, 20), 4) + 12 * 20 * GATE_CHANNELS * (2 * 4 + 1)
