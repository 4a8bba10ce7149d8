"""A cut network does exactly what the masked one does, and nothing of the training is mixed up."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn, Tensor

from seg_node.core.costs import dense_macs
from seg_node.core.types import ModelError
from seg_node.nets.resnet import Removed
from seg_node.train.channels import ChannelGraph, trace_channels
from seg_node.train.optimizers import parameter_names
from seg_node.train.surgery import Cut, cut_moments, cut_out, cut_values, mask, refuse_unfaithful
from test.train.slim_samples import network, settled, shipped


def random_cut(graph: ChannelGraph, removed: tuple[str, ...] = ()) -> Cut:
    """Return a cut that keeps a random half of every group."""
    random = torch.Generator().manual_seed(2)
    kept = {
        group: torch.randperm(graph.sizes[group], generator=random)[: graph.sizes[group] // 2]
        for group in graph.normed()
    }
    kept = {group: indices.sort().values for group, indices in kept.items()}
    for part in removed:
        kept |= {group: torch.arange(0) for group in graph.owned(part)}
    return Cut(graph, kept, removed)


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("swiftnet18-half", ()),
        ("swiftnet18-half", ("pyramid.branches.0", "decoder.1.lateral")),
        ("bisenet18", ()),
    ],
)
def test_a_cut_network_is_the_masked_one(name: str, removed: tuple[str, ...]) -> None:
    net = shipped(name).double().eval()
    graph = trace_channels(net, 70, 90)
    cut = random_cut(graph, removed)
    image = torch.rand(1, 3, 70, 90, generator=torch.Generator().manual_seed(4)).double() * 255
    with torch.no_grad():
        whole = net(image)
        small = cut_out(net, cut)
        found = small(image)
        assert torch.equal(net(image), whole)  # the network itself stays as it is
        expected = mask(net, cut)(image)
    assert not torch.allclose(whole, expected, rtol=1e-2)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert graph.macs(cut.sizes, removed) == dense_macs(small, 70, 90)
    assert all(isinstance(small.get_submodule(part), Removed) for part in removed)


def test_moments_follow_their_channels() -> None:
    net = network()
    graph = trace_channels(net, 64, 64)
    cut = random_cut(graph, ("decoder.0.lateral",))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    for parameter in net.parameters():
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    for weight, known in optimizer.state.items():
        known["exp_avg"] = weight.detach().clone()  # so that they can be told apart
    small = cut_out(net, cut)
    names = [[name for name, _ in one.named_parameters()] for one in (net, small)]
    state = cut_moments(optimizer.state_dict(), (names[0], names[1]), cut)
    fresh = torch.optim.AdamW(small.parameters(), 1e-3)
    fresh.load_state_dict(state)
    assert len(names[1]) == len(names[0]) - 3 == len(fresh.state)
    for weight, known in fresh.state.items():
        assert torch.equal(known["exp_avg"], weight)
        assert known["exp_avg_sq"].shape == weight.shape
        assert known["step"] == 1


def test_names_are_in_the_order_of_the_optimisers_groups() -> None:
    names = parameter_names(network())
    assert names[0] == "encoder.stem.0.weight"
    assert names.index("head.weight") < names.index("encoder.stem.1.weight")


def test_values_of_an_average_are_cut_under_their_prefix() -> None:
    net = network()
    cut = random_cut(trace_channels(net, 64, 64), ("pyramid.branches.2",))
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    found = cut_values({"n_averaged": torch.tensor(7), **state}, cut, "module.")
    expected = cut_out(net, cut).state_dict()
    assert found.pop("n_averaged") == 7
    assert found.keys() == {f"module.{key}" for key in expected}
    assert all(torch.equal(value, found[f"module.{key}"]) for key, value in expected.items())


class Mixing(nn.Module):
    """Normalises over channels, which a mask cannot know."""

    feature_channels = 8

    def __init__(self) -> None:
        """Build three layers."""
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, h, w] to [N, 2, h, w]."""
        out: Tensor = self.head(self.norm(self.first(x)).softmax(1))
        return out


def test_a_network_that_mixes_channels_is_refused() -> None:
    net = settled(Mixing())
    graph = trace_channels(net, 8, 8)
    cut = random_cut(graph)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ModelError, match=r"a Mixing cannot be slimmed: .* differs by"):
        refuse_unfaithful(net, cut)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
