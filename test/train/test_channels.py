"""Groups of channels: what is added stays together, and MACs are those of the counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn, Tensor

from seg_node.core.costs import dense_macs
from seg_node.nets.build import build_network, NETWORKS
from seg_node.train.channels import ChannelGraph, Convolution, is_within, trace_channels
from test.train.slim_samples import network


def writers(graph: ChannelGraph, name: str) -> set[str]:
    """Return the convolutions that write the same channels as one."""
    outputs = {conv.name: conv.output for conv in graph.convolutions}
    return {conv for conv, group in outputs.items() if group == outputs[name]}


def test_what_is_added_belongs_together() -> None:
    graph = trace_channels(network(), 64, 64)
    stage = "encoder.stages.0"
    together = {"encoder.stem.0", f"{stage}.0.conv2.0", f"{stage}.1.conv2.0"}
    assert writers(graph, "encoder.stem.0") == together
    assert writers(graph, f"{stage}.0.conv1.0") == {f"{stage}.0.conv1.0"}
    assert writers(graph, "decoder.1.lateral.0") == {"decoder.0.blend.0", "decoder.1.lateral.0"}


def test_what_is_concatenated_keeps_its_order() -> None:
    graph = trace_channels(network(), 64, 64)
    by_name = {conv.name: conv for conv in graph.convolutions}
    parts = [f"pyramid.branches.{index}.0" for index in range(3)]
    expected = [by_name[name].output for name in ("pyramid.bottleneck.0", *parts)]
    assert list(by_name["pyramid.merge.0"].inputs) == expected
    assert graph.owned("pyramid.branches.1") == (by_name[parts[1]].output,)
    assert graph.owned("decoder.1.lateral") == ()


def test_image_and_classes_are_fixed() -> None:
    graph = trace_channels(network(), 64, 64)
    assert sorted(graph.sizes[group] for group in graph.fixed) == [2, 3]
    assert not graph.fixed & set(graph.normed())


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_are_those_of_the_counter(name: str) -> None:
    with torch.device("meta"):
        net = build_network(name, 5)
    graph = trace_channels(net, 70, 90)
    assert graph.macs(graph.sizes) == dense_macs(net, 70, 90) > 0


def test_a_module_is_within_itself_and_its_parents_only() -> None:
    assert is_within("a.b.0", ("a.b",))
    assert is_within("a.b", ("x", "a.b"))
    assert not is_within("a.bc", ("a.b",))


class Attentive(nn.Module):
    """Compares every pixel with every other, which is no convolution."""

    def __init__(self) -> None:
        """Build two layers."""
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [1, 3, h, w] to [1, 2, h, w]."""
        x = self.first(x)
        flat = x.flatten(2)[0]
        out: Tensor = self.last((flat @ (flat.T @ flat)).view(x.shape))
        return out


def test_what_is_no_convolution_costs_too() -> None:
    graph = trace_channels(Attentive(), 6, 8)
    assert graph.others == 2 * 48 * 48 * 8
    assert graph.macs(graph.sizes) == dense_macs(Attentive(), 6, 8)


class Odd(nn.Module):
    """Has a depthwise convolution, and a sum over channels."""

    def __init__(self) -> None:
        """Build six layers."""
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 1)
        self.free = nn.BatchNorm2d(16)
        self.third = nn.Conv2d(16, 6, 1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, h, w] to [N, 2, h, w]."""
        x = self.free(self.second(self.norm(self.depthwise(self.first(x)))))
        x = self.third(x)
        out: Tensor = self.last(x * x.sum(1, keepdim=True).sigmoid())
        return out


def test_what_cannot_be_cut_is_fixed() -> None:
    net = Odd()
    graph = trace_channels(net, 8, 8)
    by_name = {conv.name: conv for conv in graph.convolutions}
    assert by_name["depthwise"] == Convolution(
        "depthwise", (by_name["first"].output,), by_name["depthwise"].output, 9 * 64, 8
    )
    assert {by_name[name].output for name in ("first", "depthwise", "third")} <= graph.fixed
    assert list(graph.normed()) == [by_name["second"].output]
    assert graph.macs(graph.sizes) == dense_macs(net, 8, 8)
    assert torch.equal(net.free.weight, torch.ones(16))
