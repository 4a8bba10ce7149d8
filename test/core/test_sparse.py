"""Networks on blocks: laws 1 and 3, REUSE over a background, gradients, training, refusals."""

from __future__ import annotations

import copy
from typing import Any, cast, TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn, Tensor
from torch.nn import functional

from seg_node.core import tiles as tiles_module
from seg_node.core.background import Recorder, Recording
from seg_node.core.blocks import BlockLayout, grid_shape
from seg_node.core.sparse import BlockTensor, known_functions, split
from seg_node.core.tiles import convolved_as_matrix
from seg_node.core.types import Action, ConfigError, ModelError
from seg_node.nets.build import build_network, fold_batchnorm, NETWORKS
from test.core.slow_blocks import averaged

if TYPE_CHECKING:
    from collections.abc import Callable

HIGH, LOW, REUSE = Action.HIGH, Action.LOW, Action.REUSE
CLASSES = 5
SIDE = 64
ODD = (71, 69)
SIZES = [(64, 128), ODD, (40, 50)]
"""Two exact blocks, four with odd borders, and one that is larger than the image."""


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def net(request: pytest.FixtureRequest) -> nn.Module:
    """Return each network in turn, in float64, folded after BatchNorms that do something."""
    return lively(request.param)


def lively(name: str) -> nn.Module:
    torch.manual_seed(3)
    net = build_network(name, CLASSES).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.6)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) * 0.2 + 0.2
    return fold_batchnorm(net).double().requires_grad_(requires_grad=False)


def picture(*shape: int, seed: int = 0) -> Tensor:
    """Return an image whose halves differ much from pixel to pixel, [N, 3, H, W], 0..255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).double()


def uniform_layout(action: Action, size: tuple[int, int], images: int = 1) -> BlockLayout:
    grids = np.full((images, *grid_shape(*size, SIDE)), action, np.uint8)
    return BlockLayout(grids, SIDE, size)


def mixed_grids(shape: tuple[int, ...], actions: tuple[Action, ...], seed: int = 0) -> Any:
    """Return random grids in which every action occurs."""
    values = np.resize(np.array(actions, np.uint8), shape)
    return np.random.default_rng(seed).permutation(values.ravel()).reshape(shape)


def run(net: nn.Module, image: Tensor, layout: BlockLayout, shown: Tensor | None = None) -> Any:
    """Run a network on blocks; REUSE blocks show what it makes of `shown`."""
    background = None
    if shown is not None:
        background = Recording()
        with Recorder(background):
            net(shown)
    found = net(split(image, layout, background))
    assert isinstance(found, BlockTensor)
    assert background is None or next(found.background or iter(()), None) is None  # all were read
    return found


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# ---- laws 1 and 3 ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_all_blocks_high_is_the_dense_network(net: nn.Module, size: tuple[int, int]) -> None:
    image = picture(1, 3, *size)
    expected = net(image)
    assert expected.std() > 0.1
    near(run(net, image, uniform_layout(HIGH, size)).combined(), expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_all_blocks_low_is_the_dense_network_at_half_resolution(
    net: nn.Module, size: tuple[int, int]
) -> None:
    image = picture(1, 3, *size)
    near(run(net, image, uniform_layout(LOW, size)).combined(), net(averaged(image)))


def test_both_laws_hold_in_float32(net: nn.Module) -> None:
    single = copy.deepcopy(net).float()
    image = picture(1, 3, *ODD).float()
    for action, seen in ((HIGH, image), (LOW, averaged(image))):
        found = run(single, image, uniform_layout(action, ODD)).combined()
        assert found.dtype == torch.float32
        near(found, single(seen), 1e-4)


# ---- batches, memory, number formats ---------------------------------------------------------


@pytest.mark.parametrize("name", ["swiftnet18-half", "bisenet18"])
def test_images_of_a_batch_do_not_mix(name: str) -> None:
    net = lively(name)
    images = picture(2, 3, *ODD)
    grids = mixed_grids((2, 2, 2), (HIGH, LOW))
    together = run(net, images, BlockLayout(grids, SIDE, ODD)).combined()
    for n in range(2):
        alone = BlockLayout(grids[n : n + 1], SIDE, ODD)
        near(together[n : n + 1], run(net, images[n : n + 1], alone).combined())


def test_bytes_and_channels_last_give_what_floats_give() -> None:
    net = lively("swiftnet18-half")
    image = picture(1, 3, *ODD)
    grids = mixed_grids((1, 2, 2), (HIGH, LOW))
    layout = BlockLayout(grids, SIDE, ODD)
    expected = run(net, image, layout).combined()
    near(run(net, image.byte(), layout).combined(), expected)
    last = image.contiguous(memory_format=torch.channels_last)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    near(run(net, last, layout).combined(), expected)


def test_high_blocks_over_a_memory_of_the_same_image_are_the_dense_network(
    net: nn.Module,
) -> None:
    image = picture(1, 3, *ODD)
    expected = net(image)
    layout = BlockLayout(mixed_grids((1, 2, 2), (HIGH, REUSE)), SIDE, ODD, background=1)
    near(run(net, image, layout, image).combined(base=expected), expected)


def test_low_blocks_over_a_low_memory_of_the_same_image_are_the_dense_low_network(
    net: nn.Module,
) -> None:
    image = picture(1, 3, *ODD)
    low = averaged(image)
    expected = net(low)
    layout = BlockLayout(mixed_grids((1, 2, 2), (LOW, REUSE)), SIDE, ODD, background=2)
    near(run(net, image, layout, low).combined(base=expected), expected)


@pytest.mark.parametrize("background", [1, 2])
def test_a_frame_of_nothing_but_memory_is_the_memory(background: int) -> None:
    net = lively("bisenet18")
    image = picture(1, 3, *ODD)
    expected = net(image)
    layout = BlockLayout(mixed_grids((1, 2, 2), (REUSE,)), SIDE, ODD, background)
    found = run(net, image * 0, layout, image if background == 1 else averaged(image))
    assert found.combined(base=expected).equal(expected)


def test_what_reuse_blocks_show_reaches_high_blocks_across_their_borders() -> None:
    net = lively("swiftnet18-half")
    image = picture(1, 3, 64, 128)
    layout = BlockLayout(np.array([[[HIGH, REUSE]]], np.uint8), SIDE, (64, 128))
    same = run(net, image, layout, image).of(HIGH)
    changed = image.clone()
    changed[..., 64:] = 0  # in the REUSE block alone
    other = run(net, image, layout, changed).of(HIGH)
    assert (same - other)[..., -1].abs().max() > 1e-3


def test_reuse_blocks_without_a_background_are_refused() -> None:
    layout = BlockLayout(np.array([[[HIGH, REUSE]]], np.uint8), SIDE, (64, 128))
    with pytest.raises(ModelError, match="REUSE blocks, but there is no background"):
        lively("swiftnet18-half")(split(picture(1, 3, 64, 128), layout))


# ---- gradients and training ------------------------------------------------------------------


def test_gradients_of_image_and_weights_are_exact() -> None:
    size, side = (7, 11), 8
    layout = BlockLayout(np.array([[[HIGH, LOW]]], np.uint8), side, size)
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, dtype=torch.float64, generator=generator)
        return values.requires_grad_()

    def tiny(image: Tensor, first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
        x: Any = split(image, layout)
        x = functional.conv2d(torch.sigmoid(x), first, bias, (2, 2), (1, 1))
        y = functional.max_pool2d(torch.tanh(x), 3, 2, 1)
        y = functional.conv2d(y, second, None, (1, 1), (1, 1))
        y = functional.interpolate(y, scale_factor=2, mode="bilinear")
        y = y[..., : x.shape[-2], : x.shape[-1]]
        y = y * torch.sigmoid(x.mean((2, 3), keepdim=True))
        whole: Tensor = (y + x).combined()
        return whole

    inputs = (random(1, 1, *size), random(2, 1, 3, 3), random(2, 2, 3, 3), random(2))
    assert torch.autograd.gradcheck(tiny, inputs)


def statistics(*tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel of a set of blocks."""
    pixels = torch.cat([t.movedim(1, 0).flatten(1) for t in tiles], 1)
    return pixels.mean(1), pixels.var(1, correction=0)


@pytest.mark.parametrize("actions", [(HIGH, LOW), (HIGH,), (LOW,)], ids=str)
def test_batchnorm_trains_each_set_on_its_own_and_remembers_both(
    actions: tuple[Action, ...],
) -> None:
    images = picture(2, 3, 64, 96) / 255
    layout = BlockLayout(mixed_grids((2, 2, 3), actions), 32, (64, 96))
    norm = nn.BatchNorm2d(3, momentum=0.25, dtype=torch.float64).train()
    nn.init.uniform_(norm.weight)
    nn.init.normal_(norm.bias)
    x = split(images * 3 + 1, layout).cut()
    found = run(norm, images * 3 + 1, layout)
    mean, var = torch.zeros(3).double(), torch.zeros(3).double()
    total = sum(x.of(action).numel() // 3 for action in actions)
    for action in actions:
        tiles = x.of(action)
        own_mean, own_var = statistics(tiles)
        scale = norm.weight / (own_var + norm.eps).sqrt()
        shift = norm.bias - own_mean * scale
        near(found.of(action), tiles * scale[:, None, None] + shift[:, None, None])
        share = tiles.numel() // 3 / total
        mean += share * own_mean
        var += share * own_var
    assert norm.running_mean is not None
    assert norm.running_var is not None
    near(norm.running_mean, 0.25 * mean)
    near(norm.running_var, 0.75 + 0.25 * var * total / (total - 1))
    before = norm.running_mean.clone()
    settled = run(norm.eval(), images * 3 + 1, layout)
    assert norm.running_mean.equal(before)
    for action in actions:
        near(settled.of(action), norm(x.of(action)))


def test_a_network_in_training_mode_learns_the_same_from_high_blocks_as_from_the_image() -> None:
    torch.manual_seed(5)
    dense = build_network("swiftnet18-half", CLASSES).double().train()
    blocks = copy.deepcopy(dense)
    images = picture(2, 3, 64, 128)
    dense(images).square().mean().backward()
    run(blocks, images, uniform_layout(HIGH, (64, 128), 2)).combined().square().mean().backward()
    pairs = zip(blocks.named_parameters(), dense.parameters(), strict=True)
    for (_, found), expected in pairs:
        assert found.grad is not None
        near(found.grad, cast("Tensor", expected.grad))
    for found_state, state in zip(blocks.buffers(), dense.buffers(), strict=True):
        near(found_state, state)


def test_dropping_takes_a_channel_from_all_blocks_of_an_image() -> None:
    images = torch.ones(2, 32, 64, 96)
    layout = BlockLayout(mixed_grids((2, 2, 3), (HIGH, LOW)), 32, (64, 96))
    drop = nn.Dropout2d(0.25).train()
    torch.manual_seed(1)
    whole = run(drop, images, layout).combined()
    per_channel = whole.amax((2, 3))
    assert whole.amin((2, 3)).equal(per_channel)
    dropped, kept = per_channel.unique().tolist()
    assert dropped == 0
    assert kept == pytest.approx(1 / 0.75)
    assert not per_channel[0].equal(per_channel[1])
    assert run(drop.eval(), images, layout).combined().equal(images)


# ---- refusals --------------------------------------------------------------------------------

WEIGHT = torch.ones(3, 3, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("fft_fft2", torch.fft.fft2),
        ("flip", lambda x: torch.flip(x, (3,))),
        ("pad", lambda x: functional.pad(x, (1, 1))),
        ("avg_pool2d", lambda x: functional.avg_pool2d(x, 3)),
        ("softmax", lambda x: functional.softmax(x, 1)),
        ("conv_transpose2d", lambda x: functional.conv_transpose2d(x, WEIGHT)),
        ("conv2d", lambda x: functional.conv2d(x, WEIGHT, None, (1, 1), (0, 0))),
        ("conv2d", lambda x: functional.conv2d(x, WEIGHT, None, (1, 1), (2, 2))),
        ("conv2d", lambda x: functional.conv2d(x, WEIGHT, None, (1, 2), (1, 1))),
        ("conv2d", lambda x: functional.conv2d(x, WEIGHT[..., :1, :], None, (1, 1), (0, 1))),
        ("conv2d", lambda x: functional.conv2d(x, WEIGHT[..., :2, :2], None, (1, 1), (1, 1))),
        ("conv2d", lambda x: functional.conv2d(x, WEIGHT, padding="valid")),
        ("max_pool2d", lambda x: functional.max_pool2d(x, 3, 2, 0)),
        ("max_pool2d", lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
        ("max_pool2d", lambda x: functional.max_pool2d(x, 2, 2, 1)),
        ("interpolate", lambda x: functional.interpolate(x, scale_factor=2, mode="bicubic")),
        ("interpolate", lambda x: functional.interpolate(x, (9, 9), mode="bilinear")),
        ("interpolate", lambda x: functional.interpolate(x, scale_factor=0.5, mode="bilinear")),
        ("cat", lambda x: torch.cat((x, x))),
        ("cat", lambda x: torch.cat((x, x), 2)),
        ("mean", lambda x: x.mean((1,))),
        ("mean", lambda x: x.mean((2, 3))),
        ("indexing", lambda x: x[:, 2]),
        ("split", lambda x: torch.split(x, 2)),
        ("permute", lambda x: x.permute(0, 2, 3, 1)),
        ("reshape", lambda x: x.reshape(-1)),
        ("indexing", lambda x: x[..., 1:, :]),
        ("indexing", lambda x: x[..., ::2, ::2]),
        ("indexing", lambda x: x[..., :-1, :]),
    ],
)
def test_what_has_no_block_sparse_form_is_refused_by_name(
    name: str, operation: Callable[[Any], Any]
) -> None:
    image = picture(1, 3, 64, 96)
    layout = BlockLayout(mixed_grids((1, 2, 3), (HIGH, LOW)), 32, (64, 96))
    x: Any = split(image, layout)
    x = functional.conv2d(x, WEIGHT, None, (2, 2), (1, 1))
    with pytest.raises(ModelError, match=rf"\b{name}\b.* has no block-sparse form"):
        operation(x)


def test_a_refused_function_hears_which_are_known() -> None:
    assert {"conv2d", "relu", "interpolate", "cat"} <= set(known_functions())
    x: Any = split(picture(1, 3, 64, 96), uniform_layout(HIGH, (64, 96)))
    with pytest.raises(ModelError, match=", ".join(known_functions())):
        torch.flip(x, (3,))


@pytest.mark.parametrize("shape", [(1, 3, 64, 97), (2, 3, 64, 96), (3, 64, 96)])
def test_an_image_that_does_not_fit_the_layout_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"layout is for 1 images of \(64, 96\), not \["):
        split(torch.zeros(shape), uniform_layout(HIGH, (64, 96)))


def test_feature_maps_of_other_sizes_or_layouts_do_not_join() -> None:
    image = picture(1, 3, 64, 96)
    x: Any = split(image, uniform_layout(HIGH, (64, 96)))
    other: Any = split(image, uniform_layout(HIGH, (64, 96)))
    smaller = functional.conv2d(x, WEIGHT, None, (2, 2), (1, 1))
    for wrong in (smaller, other):
        with pytest.raises(ModelError, match="cannot join features of shapes"):
            x + wrong
        with pytest.raises(ModelError, match="cannot join features of shapes"):
            torch.cat((x, wrong), 1)
    for plane in (picture(1, 3, 64, 95), picture(1, 3, 1, 1)):
        with pytest.raises(ModelError, match="cannot join features of shapes"):
            torch.cat((x, plane), 1)


def test_a_block_size_that_the_network_cannot_halve_is_refused() -> None:
    layout = BlockLayout(mixed_grids((1, 2, 3), (HIGH, LOW)), 32, (64, 96))
    with pytest.raises(ConfigError, match="block_size is 32, but LOW blocks"):
        lively("swiftnet18-half")(split(picture(1, 3, 64, 96), layout))


@pytest.mark.parametrize("bias", [True, False])
def test_both_libraries_multiply_alike(monkeypatch: pytest.MonkeyPatch, *, bias: bool) -> None:
    """Single precision goes to oneDNN, but for what learns."""
    generator = torch.Generator().manual_seed(5)
    tiles = torch.rand(3, 40, 4, 4, generator=generator).contiguous(
        memory_format=torch.channels_last
    )
    layer = nn.Conv2d(40, 24, 3, bias=bias)
    with torch.no_grad():
        expected = layer(tiles)
        for library in {False, tiles_module.ONEDNN}:
            monkeypatch.setattr("seg_node.core.tiles.ONEDNN", library)
            found = convolved_as_matrix(tiles, layer.weight, layer.bias, (1, 1, 2))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    learned = convolved_as_matrix(tiles, layer.weight, layer.bias, (1, 1, 2))
    learned.sum().backward()  # type: ignore[no-untyped-call]  # torch's own has no types
    assert layer.weight.grad is not None


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_both_forms_of_a_convolution_agree(
    monkeypatch: pytest.MonkeyPatch, stride: int, dilation: int
) -> None:
    """Small blocks of many channels are one matrix product, here with few channels as well."""
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(2, 3, 48, 80, generator=generator, dtype=torch.float64)
    grids = np.random.default_rng(4).integers(1, 3, (2, 3, 5)).astype(np.uint8)
    layer = nn.Conv2d(3, 4, 3, stride, dilation, dilation).double()
    ran: list[int] = []

    def product(*args: Any) -> Tensor:
        ran.append(1)
        return convolved_as_matrix(*args)

    monkeypatch.setattr("seg_node.core.block_functions.convolved_as_matrix", product)
    outcomes = []
    for channels in (4, 0):
        monkeypatch.setattr("seg_node.core.block_functions.MATRIX_CHANNELS", channels)
        monkeypatch.setattr("seg_node.core.block_functions.MATRIX_SIDE", 16)
        with torch.no_grad():
            outcomes.append(layer(split(image, BlockLayout(grids, 16, (48, 80)))).combined())
    assert len(ran) == 2  # HIGH and LOW, in the second round
    torch.testing.assert_close(outcomes[0], outcomes[1], atol=1e-12, rtol=0)
