"""MACs equal the paper's count and an independent count of every convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn, Tensor

from seg_node.core.costs import dense_macs
from seg_node.nets.build import build_network


def hooked_macs(net: nn.Module, height: int, width: int) -> int:
    """Count multiply-accumulates of convolutions from the shapes that really flow."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        kernel = module.kernel_size[0] * module.kernel_size[1]
        total += output.numel() * kernel * inputs[0].shape[1] // module.groups

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, 3, height, width))
    return total


@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 51)])
def test_count_equals_the_operations_that_run(height: int, width: int) -> None:
    net = build_network("swiftnet18-half", 11).eval()
    assert dense_macs(net, height, width) == hooked_macs(net, height, width) > 0


def test_full_width_network_costs_what_the_paper_says() -> None:
    net = build_network("swiftnet18", 19).eval()
    # SegBlocks reports 103.6 GMAC for SwiftNet-RN18 at 1024x2048 (papers.md section 3).
    assert dense_macs(net, 1024, 2048) / 1e9 == pytest.approx(103.6, abs=0.3)
