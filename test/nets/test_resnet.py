"""A dilated encoder computes what the strided one computes, at more places."""

from __future__ import annotations

import pytest
import torch

from seg_node.nets.resnet import BasicBlock, Normalise, ResNet18


@pytest.mark.parametrize("output_stride", [4, 8, 16])
@pytest.mark.parametrize(("height", "width"), [(64, 32), (39, 45)])
def test_every_nth_pixel_of_a_dilated_stage_is_the_strided_stages(
    output_stride: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
    strided = ResNet18(0.125).double().eval()
    dilated = ResNet18(0.125, output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    image = torch.rand(1, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        stages = zip((4, 8, 16, 32), strided(image), dilated(image), strict=True)
        for stride, few, many in stages:
            own = min(stride, output_stride)
            assert many.shape[-2:] == (-(-height // own), -(-width // own))
            step = stride // own
            torch.testing.assert_close(many[..., ::step, ::step], few, rtol=0, atol=1e-12)


def test_the_blocks_that_a_gate_may_drop_are_the_same() -> None:
    def identities(output_stride: int) -> list[bool]:
        net = ResNet18(0.125, output_stride)
        return [m.is_identity for m in net.modules() if isinstance(m, BasicBlock)]

    assert identities(8) == identities(32)
    assert sum(identities(8)) == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_pixels_are_rounded_to_half_precision_once(dtype: torch.dtype) -> None:
    """However often the network is moved, there and back."""
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, -1, -1)
    exact = Normalise()(image)
    for net in (Normalise().to(dtype), Normalise().to(dtype).cpu(), Normalise().to(dtype).float()):
        found = net(image)
        assert found.equal(exact.to(found.dtype))
    assert Normalise().to(dtype).cpu()(image).dtype == dtype
    assert Normalise().to(dtype).float()(image).dtype == torch.float32


def test_pixels_follow_to_double_precision() -> None:
    image = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    found = Normalise().double()(image)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), Normalise()(image))
