"""MACs equal the paper's count and an independent count of every convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn, Tensor

from seg_node.core.blocks import BlockLayout, grid_shape
from seg_node.core.costs import dense_macs, MacCounter
from seg_node.core.sparse import split
from seg_node.core.types import Action
from seg_node.nets.build import build_network, NETWORKS
from test.core.flops import flop_counter


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


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [(128, 192), (140, 75)])
def test_law_7_the_count_of_a_plan_is_that_of_the_operations_that_run(
    network: str, size: tuple[int, int]
) -> None:
    """Torch's own counter sees the operators below, whatever they work on."""
    net = build_network(network, 5).eval().to("meta")
    shape = grid_shape(*size, 64)
    grid = np.full((1, *shape), Action.LOW, np.uint8)
    grid.flat[:3] = Action.HIGH
    layout = BlockLayout(grid, 64, size, device=torch.device("meta"))
    image = torch.empty(1, 3, *size, device="meta")
    with flop_counter() as operators, torch.no_grad(), MacCounter() as counter:
        net(split(image, layout))
    assert counter.macs == operators.get_total_flops() // 2 > 0


def test_law_7_a_grid_of_high_blocks_costs_what_the_dense_network_costs() -> None:
    """Where the blocks fit the image; LOW blocks cost a quarter, but for the pooled context."""
    net = build_network("swiftnet18-half", 5).eval()
    dense = dense_macs(net, 128, 192)
    for action, expected in ((Action.HIGH, dense), (Action.LOW, dense_macs(net, 64, 96))):
        layout = BlockLayout(np.full((1, 2, 3), action, np.uint8), 64, (128, 192))
        with torch.no_grad(), MacCounter() as counter:
            net(split(torch.zeros(1, 3, 128, 192), layout))
        assert counter.macs == expected


def test_products_of_plain_tensors_count() -> None:
    with MacCounter() as counter:
        torch.nn.functional.linear(torch.zeros(7, 5), torch.zeros(3, 5))
        torch.zeros(2, 7, 5) @ torch.zeros(2, 5, 3)
        torch.relu(torch.zeros(9, 9))
    assert counter.macs == 7 * 5 * 3 + 2 * 7 * 5 * 3


def test_products_that_are_added_to_something_count_whatever_they_are_added_to() -> None:
    with MacCounter() as counter:
        torch.addmm(torch.zeros(1, 3), torch.zeros(7, 5), torch.zeros(5, 3))
        total = torch.zeros(2, 7, 3)
        torch.baddbmm(total, torch.zeros(2, 7, 5), torch.zeros(2, 5, 3), out=total)
    assert counter.macs == 7 * 5 * 3 + 2 * 7 * 5 * 3
