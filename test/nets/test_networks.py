"""Every network that we ship keeps the promises of `core.execution.SegmentationNetwork`."""

from __future__ import annotations

import copy
from typing import cast, TYPE_CHECKING

import pytest
import torch
from torch import nn

from seg_node.nets.build import build_network, fold_batchnorm, NETWORKS
from seg_node.nets.plugin import check_face

if TYPE_CHECKING:
    from seg_node.core.execution import SegmentationNetwork

CLASSES = 5


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def net(request: pytest.FixtureRequest) -> nn.Module:
    """Return each network in turn, in eval mode, with BatchNorms that do something."""
    torch.manual_seed(3)
    net = build_network(request.param, CLASSES).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.6)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) * 0.2 + 0.2
    return net


def test_it_has_the_face_that_a_users_network_must_have(net: nn.Module) -> None:
    check_face("ours", net, CLASSES)


@pytest.mark.parametrize(("height", "width"), [(33, 31), (9, 130), (1, 1)])
def test_sizes_are_rounded_up(net: nn.Module, height: int, width: int) -> None:
    face = cast("SegmentationNetwork", net)
    size = (-(-height // face.stride), -(-width // face.stride))
    with torch.no_grad():
        features = face.features(torch.rand(1, 3, height, width) * 255)
        assert features.shape == (1, face.feature_channels, *size)
        assert face.head(features).shape == (1, CLASSES, *size)


def test_forward_is_head_of_features_and_uint8_equals_float(net: nn.Module) -> None:
    face = cast("SegmentationNetwork", net)
    image = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8)
    with torch.no_grad():
        whole = net(image)
        assert torch.equal(whole, face.head(face.features(image)))
        assert torch.equal(whole, net(image.float()))


def test_it_is_deterministic_and_images_of_a_batch_do_not_mix(net: nn.Module) -> None:
    images = torch.rand(2, 3, 40, 56) * 255
    with torch.no_grad():
        first, again = net(images), net(images)
        alone = net(images[1:])
    assert torch.equal(first, again)
    assert first[0].sub(first[1]).abs().max() > 1e-3
    torch.testing.assert_close(first[1:], alone, rtol=1e-4, atol=1e-4)


def test_folding_removes_every_batchnorm_and_changes_nothing(net: nn.Module) -> None:
    exact = copy.deepcopy(net).double()
    image = torch.rand(2, 3, 17, 29, dtype=torch.float64) * 255
    with torch.no_grad():
        before = exact(image)
        folded = fold_batchnorm(exact)
        after = folded(image)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert before.abs().mean() > 1e-3
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


def test_a_batch_trains_every_weight(net: nn.Module) -> None:
    fresh = copy.deepcopy(net).train()
    fresh(torch.rand(2, 3, 32, 32) * 255).square().mean().backward()
    idle = [k for k, p in fresh.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_only_training_drops_features() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 16, 16) * 255
    net = build_network("pspnet18", CLASSES).train()
    with torch.no_grad():
        assert not torch.equal(net(image), net(image))
