"""Feature maps that are computed where they are read are those of the whole, and cost no more."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn, Tensor
from torch.nn import functional

from seg_node.core.costs import MacCounter
from seg_node.core.deferred import Area, complete, Deferred, deferred
from seg_node.core.deferring import Deferring
from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.overrides import TorchFunctionMode

SIZE = (13, 18)


def weights(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def image(channels: int = 4, size: tuple[int, int] = SIZE) -> Tensor:
    return weights(1, channels, *size)


def twice_wide(x: Tensor) -> Tensor:
    """Enlarge and cut, as decoders do with odd sizes."""
    wide = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return wide[..., :25, :35]


def decoder_step(x: Tensor) -> Tensor:
    """Add what a plane twice as fine says, and look around."""
    fine = functional.conv2d(image(6, (25, 35)), weights(4, 6, 1, 1))
    return functional.conv2d(twice_wide(x) + fine, weights(3, 4, 3, 3), padding=1).relu()


def read_twice(x: Tensor) -> Tensor:
    """Weigh and look around at the same feature map."""
    y = functional.conv2d(x, weights(4, 4, 1, 1))
    return y * x + functional.conv2d(y, weights(4, 4, 3, 3), padding=1)


CHAINS: dict[str, Callable[[Any], Any]] = {
    "two convolutions": lambda x: functional.conv2d(
        functional.relu(functional.conv2d(x, weights(5, 4, 3, 3), weights(5), padding=1)),
        weights(2, 5, 3, 3),
        None,
        1,
        1,
    ),
    "halves": lambda x: functional.conv2d(x, weights(5, 4, 3, 3), None, 2, 1),
    "halves by 1x1": lambda x: functional.conv2d(x, weights(5, 4, 1, 1), stride=2),
    "wide and dilated": lambda x: functional.conv2d(
        x, weights(5, 4, 5, 3), None, (1, 2), (4, 2), (2, 2)
    ),
    "grouped": lambda x: functional.conv2d(x, weights(4, 1, 3, 3), None, 1, "same", 1, 4),
    "without padding": lambda x: functional.conv2d(x, weights(5, 4, 3, 3)),
    "more padding than it needs": lambda x: functional.conv2d(x, weights(5, 4, 3, 3), padding=2),
    "more padding than it reads": lambda x: functional.conv2d(x, weights(5, 4, 1, 1), padding=1),
    "largest": lambda x: functional.max_pool2d(x - 3, 3, 2, 1),
    "enlarged": twice_wide,
    "repeated": lambda x: functional.interpolate(x, (39, 54)),
    "enlarged by a fraction": lambda x: functional.interpolate(x, (20, 31), mode="bilinear"),
    "normalised": lambda x: functional.batch_norm(
        x, weights(4), weights(4).exp(), weights(4), weights(4), training=False
    ),
    "dropped out": lambda x: functional.dropout2d(
        functional.dropout(x, training=False), 0.5, False
    ),
    "numbers": lambda x: 1 - functional.silu(2 * x / 3 + 1) * weights(1, 4, 1, 1),
    "joined": lambda x: torch.cat((x, image(2), functional.relu(x)), 1) * image(1),
    "averages": lambda x: torch.sigmoid(functional.adaptive_avg_pool2d(x, 1)) * x,
    "a decoder's step": decoder_step,
    "read twice": read_twice,
}


@pytest.mark.parametrize("name", CHAINS)
def test_areas_are_those_of_the_whole(name: str) -> None:
    """At every border and amid, however small; also where what is read is deferred itself."""
    chain, rng = CHAINS[name], np.random.default_rng(0)
    expected = chain(image())
    with Deferring():
        inner = functional.relu(deferred(image()))
        found = deferred(chain(deferred(image())))
        of_others = deferred(chain(inner))
    _, channels, height, width = expected.shape
    assert tuple(found.shape) == (1, channels, height, width)
    for _ in range(30):
        top, bottom = np.sort(rng.choice(height + 1, 2, replace=False)).tolist()
        left, right = np.sort(rng.choice(width + 1, 2, replace=False)).tolist()
        area = Area(top, left, bottom, right)
        assert_close(found.at(area), area.of(expected))
        assert_close(of_others.at(area), area.of(chain(functional.relu(image()))))
    assert_close(found.whole(), expected)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


WHOLE = {
    "averages": "adaptive_avg_pool2d",
    "enlarged by a fraction": "interpolate",
    "more padding than it reads": "conv2d",
}
"""Chains with an operation that needs a whole plane, and its name."""


@pytest.mark.parametrize("name", [name for name in CHAINS if name not in WHOLE])
def test_strictly_nothing_is_computed_before_it_is_read(name: str) -> None:
    with MacCounter() as counter, Deferring(strict=True):
        made = CHAINS[name](functional.relu(deferred(image())))
        assert isinstance(made, Deferred)
        fixed = counter.macs
        made.at(Area(0, 0, 1, 1))
        one = counter.macs - fixed
        made.whole()
    # What is computed of plain tensors is not deferred: the decoder's step has one.
    assert fixed == (25 * 35 * 6 * 4 if name == "a decoder's step" else 0)
    if "read twice" not in name:
        assert one <= (counter.macs - fixed) / 4


@pytest.mark.parametrize(("name", "function"), WHOLE.items())
def test_strictly_what_needs_the_whole_is_refused_by_name(name: str, function: str) -> None:
    with Deferring(strict=True):
        CHAINS[name](deferred(image()))  # all of this is known
        with pytest.raises(ModelError, match=f"^{function} reads a whole plane"):
            CHAINS[name](functional.relu(deferred(image())))


def test_what_two_read_is_computed_once() -> None:
    kernel = weights(4, 4, 3, 3)
    with MacCounter() as counter, Deferring():
        shared = functional.conv2d(deferred(image()), kernel, padding=1)
        one, other = functional.relu(shared), shared * 2
        for made in map(deferred, (one, other)):
            for row in range(SIZE[0]):
                made.at(Area(row, 0, row + 1, SIZE[1]))
    assert counter.macs == SIZE[0] * SIZE[1] * 4 * 36


def overwritten(x: Any) -> Any:
    """Activate in place what was kept before, and what another operation has read before."""
    kept = x
    read = x * 2
    functional.relu(x, inplace=True)
    total = kept + read
    again = total
    total += 1
    return torch.cat((again, kept, nn.ReLU(inplace=True)(read), read), 1)


def test_operations_in_place_change_what_others_hold() -> None:
    expected = overwritten(image())
    plane = image()
    with Deferring():
        found = complete(overwritten(deferred(plane)))
    assert_close(found, expected)
    # Only what stands for it: the plane itself may be what a memory holds.
    torch.testing.assert_close(plane, image(), rtol=0, atol=0)


def test_outside_an_operation_computes_what_it_reads() -> None:
    """A tensor's other faces, too."""
    with Deferring():
        made = functional.relu(deferred(image()))
    expected = functional.relu(image())
    assert_close(torch.exp(made), torch.exp(expected))
    assert_close(made.mean((2, 3)), expected.mean((2, 3)))
    assert_close(made[:, 1:3], expected[:, 1:3])
    assert (made.dtype, made.device, made.ndim, made.dim()) == (
        expected.dtype,
        expected.device,
        4,
        4,
    )
    assert (made.size(), made.size(1)) == (expected.size(), 4)
    assert made.contiguous() is made


def test_whoever_counts_sees_all_that_is_computed() -> None:
    """Also what runs because another operation needs a whole plane."""

    def run(x: Tensor) -> Tensor:
        made = functional.conv2d(x, weights(4, 4, 3, 3), padding=1)
        mean = functional.adaptive_avg_pool2d(made, 1)
        return functional.conv2d(mean, weights(4, 4, 1, 1)) * made

    def counted(mode: TorchFunctionMode | None) -> int:
        with MacCounter() as counter:
            if mode is None:
                run(image())
            else:
                with mode:
                    complete(run(deferred(image())))
        return int(counter.macs)

    assert counted(Deferring()) == counted(None)
