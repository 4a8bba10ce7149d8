"""Local attention equals the plain one, forward and backward, and never copies windows."""

from __future__ import annotations

from math import exp
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seg_node.core import attention
from seg_node.core.attention import local_attention
from test.core.slow_attention import holes, slow_attention

SIZES = [(1, 1), (5, 2), (2, 5), (9, 11)]
"""Smaller than a window, narrower than its radius, flatter than its radius, larger."""


def planes(*shape: int, seed: int = 0) -> list[Tensor]:
    """Return base, queries, keys and values in float64."""
    torch.manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(4)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("window", [1, 3, 7])
@pytest.mark.parametrize("size", SIZES)
def test_attention_and_its_gradients_equal_the_plain_ones(
    size: tuple[int, int], window: int, monkeypatch: pytest.MonkeyPatch, *, masked: bool
) -> None:
    monkeypatch.setattr(attention, "PIXELS", 30)  # several strips, with and without borders
    operands = planes(2, 3, *size)
    base, *others = operands
    valid = holes(2, *size) if masked else None
    found = local_attention(base, (others[0], others[1], others[2]), valid, window)
    expected = slow_attention(base, (others[0], others[1], others[2]), valid, window)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    slope = torch.randn_like(found)
    slopes = torch.autograd.grad(found, operands, slope)
    for mine, plain in zip(slopes, torch.autograd.grad(expected, operands, slope), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_finite_differences(*, masked: bool) -> None:
    valid = holes(1, 4, 5) if masked else None

    def attend(base: Tensor, *operands: Tensor) -> Tensor:
        queries, keys, values = operands
        return local_attention(base, (queries, keys, values), valid, 3)

    assert torch.autograd.gradcheck(attend, planes(1, 2, 4, 5))


def test_outside_the_image_is_logit_zero_and_value_zero() -> None:
    """One pixel alone: of the 49 positions that it looks at, 48 are outside."""
    base, queries, keys, values = (torch.full((1, 1, 1, 1), x) for x in (10.0, 2.0, 0.5, 7.0))
    found = local_attention(base, (queries, keys, values), None, 7)
    assert found.item() == pytest.approx(10 + 7 * exp(1) / (exp(1) + 48))


def test_each_pixel_takes_what_matches_it_from_where_it_lies() -> None:
    """Keys and queries name the pixels; each query names the pixel 2 to the right, 1 below."""
    names = torch.eye(8 * 9).view(8, 9, -1).permute(2, 0, 1)[None] * 30
    values = torch.arange(72.0).view(1, 1, 8, 9).expand_as(names)
    queries = names.roll((-1, -2), (2, 3))
    found = local_attention(torch.zeros_like(names), (queries, names, values), None, 7)
    expected = values[..., 1:, 2:]
    torch.testing.assert_close(found[..., :-1, :-2], expected, rtol=0, atol=1e-3)


def test_half_precision_rounds_the_result_but_not_the_logits() -> None:
    torch.manual_seed(3)
    base, queries, keys, values = torch.randn(4, 1, 64, 9, 8).bfloat16()
    found = local_attention(base, (queries, keys, values), None, 7)
    wide = (queries.float(), keys.float(), values.float())
    assert torch.equal(found, local_attention(base.float(), wide, None, 7).bfloat16())
    assert found.dtype == torch.bfloat16


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's stub
    """Keeps the size in numbers of the largest tensor that is made."""

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's stub
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run and look at what is stored, not at views of it."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            stored = result.untyped_storage().nbytes() // result.element_size()
            self.numbers = max(self.numbers, stored)
        return result


def test_windows_are_never_copied_forward_or_backward() -> None:
    base, queries, keys, values = planes(1, 64, 30, 40)
    with Largest() as largest:
        fused = local_attention(base, (queries, keys, values), None, 7)
        assert largest.numbers <= 1.6 * base.numel()  # a plane with its margin
        fused.sum().backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert largest.numbers <= 1.6 * base.numel()
    with Largest() as largest:
        slow_attention(base, (queries, keys, values), None, 7)
    assert largest.numbers >= 49 * base.numel()
