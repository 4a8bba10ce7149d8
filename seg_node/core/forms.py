"""What convolutions, poolings and resizings read: the same answer for whole planes and for blocks.

A network on blocks and the whole frame whose planes it reads (`core/background.py`) must agree on
which operations look beyond the blocks, and on what of a plane is padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Margin(NamedTuple):
    """Zeros that a step of its own put around a plane, in pixels, in the order of torch's pad."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0


NO_MARGIN = Margin()


@dataclass(frozen=True)
class Reading:
    """What an operation reads around the pixels that it writes, on both axes.

    Attributes:
        kernel: rows and columns that it reads for a pixel.
        step: pixels read per pixel written.
        padding: zeros that it adds itself on each side, rows and columns.
        dilation: pixels from one that it reads to the next.
        ceil: whether a last window that sticks out counts.

    """

    kernel: tuple[int, int]
    step: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False

    def around(self, size: tuple[int, int], margin: Margin) -> tuple[int, int] | None:
        """Return how many pixels it reads before and after each block.

        Args:
            size: of the plane, without its margin.
            margin: zeros around the plane.

        Returns:
            None where it does not write a pixel for each `step` pixels of the plane, rounded up,
            or treats the axes in different ways.

        """
        if any(len(set(pair)) > 1 for pair in (self.kernel, self.step, self.dilation)):
            return None
        step, span = self.step[0], self.dilation[0] * (self.kernel[0] - 1) + 1
        above, beside = margin.top + self.padding[0], margin.left + self.padding[1]
        ends = margin.bottom + self.padding[0], margin.right + self.padding[1]
        spare = [n + above + end - span for n, end in zip(size, ends, strict=True)]
        written = [(-(-n // step) if self.ceil else n // step) + 1 for n in spare]
        if above != beside or written != [-(-n // step) for n in size]:
            return None
        if span == 2 * above + 1:  # as many after as before, so that operations share their lists
            return above, above
        return above, max(0, span - above - step)


def looks_around(reading: Reading) -> bool:
    """Return whether more is read than the pixels in whose place one is written."""
    return reading.kernel != reading.step or any(reading.padding)


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """Return a value of both axes, from one or two."""
    if isinstance(value, int):
        return value, value
    return value[0], value[-1]


def convolution(  # noqa: PLR0913, PLR0917 - the arguments of torch.conv2d
    weight: Any,
    bias: Any = None,  # noqa: ARG001 - reads nothing
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,  # noqa: ARG001 - reads the same
) -> Reading:
    """Return what torch.conv2d reads, by its arguments after the first."""
    kernel, apart = (int(weight.shape[-2]), int(weight.shape[-1])), pair(dilation)
    if isinstance(padding, str):
        half = (apart[0] * (kernel[0] - 1) // 2, apart[1] * (kernel[1] - 1) // 2)
        padding = half if padding == "same" else 0
    return Reading(kernel, pair(stride), pair(padding), apart)


def pooling(  # noqa: PLR0913, PLR0917 - the arguments of torch's max_pool2d
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002 - as in torch
    return_indices: bool = False,  # noqa: ARG001, FBT001, FBT002 - as in torch
) -> Reading:
    """Return what torch's max_pool2d reads, by its arguments after the first."""
    steps = pair(kernel_size if stride is None or stride == () else stride)
    return Reading(pair(kernel_size), steps, pair(padding), pair(dilation), ceil_mode)


def mean_pooling(  # noqa: PLR0913, PLR0917 - the arguments of torch's avg_pool2d
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002 - as in torch
    count_include_pad: bool = True,  # noqa: ARG001, FBT001, FBT002 - as in torch
    divisor_override: int | None = None,  # noqa: ARG001 - reads the same
) -> Reading:
    """Return what torch's avg_pool2d reads, by its arguments after the first."""
    steps = pair(kernel_size if stride is None or stride == () else stride)
    return Reading(pair(kernel_size), steps, pair(padding), (1, 1), ceil_mode)


def enlargement(
    size_now: tuple[int, int],
    size: Any = None,
    scale_factor: float | tuple[float, ...] | None = None,
) -> int:
    """Return by which whole factor torch's interpolate enlarges a plane; 0 if by none."""
    if scale_factor is not None:
        factors = {*scale_factor} if isinstance(scale_factor, tuple | list) else {scale_factor}
    else:
        wanted = pair(size if isinstance(size, int) else tuple(size))
        factors = {new / old for new, old in zip(wanted, size_now, strict=True)}
    factor = factors.pop()
    return int(factor) if not factors and factor == int(factor) else 0
