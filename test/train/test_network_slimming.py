"""Which channels go: the least important for their MACs, in eights, and never a whole layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from seg_node.core.types import ConfigError
from seg_node.train.channels import ChannelGraph, trace_channels
from seg_node.train.network_slimming import (
    Chooser,
    Importance,
    Limits,
    limits_of,
    press,
    refuse_too_small,
)
from seg_node.train.surgery import cut_out
from test.train.slim_samples import network, TINY


def vectors_of(graph: ChannelGraph, value: float = 1.0) -> dict[str, Tensor]:
    """Return the same importance for all channels of all BatchNorms."""
    return {
        norm.name: torch.full((sum(graph.sizes[group] for group in norm.groups),), value)
        for norm in graph.free_norms()
    }


def test_channels_go_in_eights_and_the_target_is_met() -> None:
    net = network()
    graph = trace_channels(net, 64, 64)
    limits = limits_of(net, graph, TINY)
    whole = graph.macs(graph.sizes)
    cut = Chooser(graph, vectors_of(graph), limits).cut(0.6 * whole)
    assert 0.5 * whole < graph.macs(cut.sizes, cut.removed) <= 0.6 * whole
    for group in cut.kept:
        assert cut.sizes[group] % 8 == 0
        assert cut.sizes[group] >= limits.floors[group] or cut.sizes[group] == 0
    assert not set(cut.kept) & graph.fixed


def test_the_least_important_channels_go_first() -> None:
    net = network()
    graph = trace_channels(net, 64, 64)
    vectors = vectors_of(graph)
    lone = "encoder.stages.0.0.conv1.1"  # no other BatchNorm shares its channels
    vectors[lone] = torch.arange(24.0).flip(0) / 1e6
    (group,) = next(norm.groups for norm in graph.norms if norm.name == lone)
    limits = Limits(tuple(8 if g == group else size for g, size in enumerate(graph.sizes)), ())
    target = graph.macs(graph.sizes) - 1
    cut = Chooser(graph, vectors, limits).cut(target)
    assert cut.kept.keys() == {group}
    assert cut.kept[group].tolist() == list(range(16))


def test_channels_that_meet_are_judged_together() -> None:
    net = network()
    graph = trace_channels(net, 64, 64)
    vectors = vectors_of(graph)
    stem, second = "encoder.stem.1", "encoder.stages.0.0.conv2.1"
    vectors[stem] = torch.arange(24.0)
    vectors[second] = 3.0 * torch.arange(24.0).flip(0)
    (group,) = next(norm.groups for norm in graph.norms if norm.name == stem)
    limits = Limits(tuple(8 if g == group else size for g, size in enumerate(graph.sizes)), ())
    cut = Chooser(graph, vectors, limits).cut(graph.macs(graph.sizes) - 1)
    assert cut.kept[group].tolist() == list(range(16))


def test_macs_decide_between_layers_that_matter_as_much() -> None:
    net = network()
    graph = trace_channels(net, 64, 64)
    cut = Chooser(graph, vectors_of(graph), limits_of(net, graph, TINY)).cut(
        0.97 * graph.macs(graph.sizes)
    )
    costs = {}
    for group in graph.normed():
        sizes = [size - 8 * (g == group) for g, size in enumerate(graph.sizes)]
        count = len(graph.normed()[group])
        costs[group] = (graph.macs(graph.sizes) - graph.macs(sizes)) / (8 * count)
    assert max(costs, key=costs.__getitem__) in cut.kept


def test_a_scale_that_matters_little_goes_as_a_whole() -> None:
    net = network()
    graph = trace_channels(net, 64, 64)
    vectors = vectors_of(graph)
    vectors["decoder.1.lateral.1"] *= 1e-9
    vectors["pyramid.branches.2.1"] *= 1e-9
    limits = limits_of(net, graph, TINY)
    assert limits.parts == net.removable
    cut = Chooser(graph, vectors, limits).cut(0.8 * graph.macs(graph.sizes))
    assert set(cut.removed) == {"decoder.1.lateral", "pyramid.branches.2"}
    small = cut_out(net, cut)
    assert small.get_parameter("pyramid.merge.0.weight").shape[1] == sum(
        cut.sizes[group]
        for conv in graph.convolutions
        if conv.name == "pyramid.merge.0"
        for group in conv.inputs
    )


def test_a_target_that_would_remove_a_layer_is_refused_with_the_numbers() -> None:
    net = network()
    graph = trace_channels(net, 64, 64)
    config = replace(TINY, least_share=0.5)
    limits = limits_of(net, graph, config)
    text = (
        r"inference_macs 0.1 asks for 0\.00\d of 0\.0\d+ GMAC; 0\.0\d+ remain when every layer "
        r"has only its least channels .* remove a whole layer: ask for 0\.\d+ or more"
    )
    with pytest.raises(ConfigError, match=text) as refused:
        refuse_too_small(graph, limits, 0.1)
    least = float(str(refused.value).split("ask for ")[1].split()[0])
    refuse_too_small(graph, limits, least)
    with pytest.raises(ConfigError, match="asks for"):
        refuse_too_small(graph, limits, least - 2e-3)
    branches = {conv.output for conv in graph.convolutions if ".branches." in conv.name}
    sizes = [0 if group in branches else floor for group, floor in enumerate(limits.floors)]
    exact = graph.macs(sizes, limits.parts)
    refuse_too_small(graph, limits, (exact + 0.1) / graph.macs(graph.sizes))
    with pytest.raises(ConfigError, match="asks for"):
        refuse_too_small(graph, limits, (exact - 1) / graph.macs(graph.sizes))
    choose = Chooser(graph, vectors_of(graph), limits)
    choose.cut(least * graph.macs(graph.sizes))
    with pytest.raises(ConfigError, match=r"no layer may lose more channels at 0.\d+ GMAC, and"):
        choose.cut((least - 2e-3) * graph.macs(graph.sizes))


def test_taylor_sees_what_silence_would_change() -> None:
    net = network()
    graph = trace_channels(net, 64, 64)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    importance = Importance("taylor")
    for _ in range(2):
        net.zero_grad()
        net.train()(images).square().mean().backward()
        importance.observe(net, graph)
    norm = net.get_submodule("encoder.stem.1")
    expected = sum(p.detach() * p.grad for p in norm.parameters() if p.grad is not None)
    found = importance.vectors(net, graph)["encoder.stem.1"]
    torch.testing.assert_close(found, 2 * torch.as_tensor(expected).square())
    again = Importance("taylor")
    again.load(importance.state())
    assert torch.equal(again.vectors(net, graph)["encoder.stem.1"], found)
    importance.forget()
    with pytest.raises(ConfigError, match="nothing was learned before the first cut"):
        importance.vectors(net, graph)


def test_scales_compare_within_their_layer() -> None:
    net = network()
    graph = trace_channels(net, 64, 64)
    norm = net.get_submodule("encoder.stem.1")
    with torch.no_grad():
        norm.get_parameter("weight").copy_(torch.arange(24.0) - 3.0)
    found = Importance("scale").vectors(net, graph)["encoder.stem.1"]
    assert found.argmin() == 3
    assert float(found.mean()) == pytest.approx(1.0)


def test_sparsity_presses_all_scales_towards_zero() -> None:
    net = network()
    graph = trace_channels(net, 64, 64)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    scale = net.get_parameter("encoder.stem.1.weight")
    with torch.no_grad():
        scale[0] = -1.0
    press(net, graph, 0.25)
    assert scale.grad is not None
    assert scale.grad[:2].tolist() == [-0.25, 0.25]
    assert not net.get_parameter("encoder.stem.0.weight").grad.any()  # type: ignore[union-attr]  # set above
