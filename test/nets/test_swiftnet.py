"""The network keeps its promises about sizes, alignment and folding."""

from __future__ import annotations

import pytest
import torch

from seg_node.nets.build import fold_batchnorm
from seg_node.nets.swiftnet import SwiftNet, upsample


def settled(width: float = 0.25) -> SwiftNet:
    """Return an eval-mode network whose BatchNorm statistics are not the trivial ones."""
    torch.manual_seed(3)
    net = SwiftNet(5, width).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(2, 3, 64, 64) * 255)
    return net.eval()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 31), (65, 97), (7, 200)])
def test_features_lie_at_stride_four_rounded_up(height: int, width: int) -> None:
    net = settled()
    with torch.no_grad():
        features = net.features(torch.zeros(1, 3, height, width))
        logits = net.head(features)
    size = (-(-height // 4), -(-width // 4))
    assert features.shape == (1, net.feature_channels, *size)
    assert logits.shape == (1, 5, *size)


def test_forward_is_head_of_features_and_uint8_equals_float() -> None:
    net = settled()
    image = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(net(image), net.head(net.features(image)))
        assert torch.equal(net(image), net(image.float()))


def test_folding_removes_every_batchnorm_and_changes_nothing() -> None:
    net = settled().double()
    image = torch.rand(2, 3, 65, 97, dtype=torch.float64) * 255
    with torch.no_grad():
        before = net(image)
        folded = fold_batchnorm(net)
        after = folded(image)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)


def test_upsampling_is_the_same_everywhere_whatever_the_size() -> None:
    x = torch.rand(1, 2, 9, 11)
    whole = upsample(x, 2, (18, 22))
    assert torch.equal(upsample(x, 2, (17, 21)), whole[..., :17, :21])
    # A window with a one-pixel halo reproduces the inside of the whole, bit for bit.
    window = upsample(x[..., 2:7, 3:9], 2, (10, 12))
    assert torch.equal(window[..., 2:8, 2:10], whole[..., 6:12, 8:16])


def test_full_width_has_the_papers_channels() -> None:
    net = SwiftNet(19)
    assert net.encoder.channels == (64, 128, 256, 512)
    assert net.feature_channels == 128
    identity = [m for m in net.modules() if getattr(m, "is_identity", False)]
    assert len(identity) == 5  # the residual blocks that a gate may drop (papers.md section 6)


def test_a_bright_spot_stays_where_it_is() -> None:
    # Mirror symmetry of position: the response to a flipped image, flipped back, must not move
    # by more than the half feature pixel that stride-4 sampling of an even size allows.
    net = settled()
    image = torch.full((1, 3, 64, 64), 90.0)
    image[..., 24:32, 40:48] = 250.0
    with torch.no_grad():
        change = (net.features(image) - net.features(torch.full_like(image, 90.0))).abs().sum(1)[0]
    weight = change**4 / (change**4).sum()
    row = float((weight.sum(1) * torch.arange(16)).sum())
    column = float((weight.sum(0) * torch.arange(16)).sum())
    assert row == pytest.approx(27.5 / 4, abs=1.0)
    assert column == pytest.approx(43.5 / 4, abs=1.0)
