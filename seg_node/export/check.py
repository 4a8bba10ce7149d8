"""Compares what an exported part computes with what torch computes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
import math
from typing import TYPE_CHECKING

import torch

from seg_node.core.types import ModelError
from seg_node.export.program import batch_of, PRECISIONS, STEP, typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn, Tensor

    from seg_node.export.parts import Part
    from seg_node.export.settings import ExportSettings

TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2}
"""How far outputs may be from those of the float32 network in torch, as a share of the range
(largest minus smallest value) of the latter."""


@dataclass(frozen=True)
class Difference:
    """How far an exported part is from torch, over all images it was tried on.

    Attributes:
        maximum: largest absolute difference.
        span: largest minus smallest value that torch computed.
        agreement: share (0..1) of pixels with the same best class; None where the output is not
            logits of classes.
        alike: largest absolute difference from torch in the same precision, which rounds weights
            alike, and planes of features at its own places; None where torch's CPU lacks an
            operation in that precision.

    """

    maximum: float
    span: float
    agreement: float | None
    alike: float | None = None

    @property
    def share(self) -> float:
        """The largest difference as a share of the range."""
        return self._share(self.maximum)

    @property
    def alike_share(self) -> float | None:
        """The largest difference from torch in the same precision as a share of the range."""
        return None if self.alike is None else self._share(self.alike)

    def _share(self, difference: float) -> float:
        if self.span == 0.0:
            return math.inf if difference else 0.0
        return difference / self.span


def compare(
    part: Part,
    images: Tensor,
    settings: ExportSettings,
    run: Callable[[Mapping[str, Tensor]], Tensor],
) -> Difference:
    """Run an exported part and torch on the same inputs.

    Args:
        part: the part.
        images: [N, 3, H, W]; one by one, or as many at once as the settings say, and where batch
            or size are open also together and at another size.
        settings: precision, images of one run, and which dimensions are open.
        run: computes the output of the exported part for inputs by name.

    Raises:
        ModelError: they differ by more than `TOLERANCES` allow, or not in numbers alone.

    """
    pairs, alike = [], []
    same = _in_precision(part.reference, settings.precision)  # as the robot runs it
    for batch in _batches(images, settings):
        inputs = part.inputs(batch)
        wanted = part.reference(*inputs.values())
        rounded = typed(inputs, settings.precision)
        found = run(rounded).to(wanted.dtype)
        if found.shape != wanted.shape:
            msg = (
                f"part {part.name!r} of {settings.model!r} gives {list(found.shape)} where torch "
                f"gives {list(wanted.shape)}; it is not written"
            )
            raise ModelError(msg)
        pairs.append((wanted, found))
        alike.append(wanted if same is part.reference else _computed(same, rounded))
    difference = _difference(pairs, alike, labels=part.output == "logits")
    allowed = TOLERANCES[settings.precision]
    # Not `share > allowed`, which is false for nan.
    if not difference.share <= allowed:
        opened = f" with dynamic {settings.dynamic!r}" if settings.dynamic else ""
        msg = (
            f"part {part.name!r} of {settings.model!r}{opened} differs from torch by "
            f"{difference.maximum:.3g}, {difference.share:.3g} of the range of its output; "
            f"allowed is {allowed:.3g}; it is not written"
        )
        raise ModelError(msg)
    return difference


def _in_precision(net: nn.Module, precision: str) -> nn.Module:
    """Return a network in a precision; itself where it already is."""
    return net if precision == "fp32" else copy.deepcopy(net).to(PRECISIONS[precision])


def _computed(net: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Return what a network makes; None where torch's CPU cannot compute it in half precision."""
    try:
        output: Tensor = net(*inputs.values())
    except RuntimeError as err:
        if "not implemented for 'Half'" not in str(err):
            raise
        return None
    return output


def _batches(images: Tensor, settings: ExportSettings) -> Iterator[Tensor]:
    if settings.batch > 1:
        yield batch_of(images, settings.batch)
        return
    yield from torch.split(images, 1)
    if settings.dynamic:
        yield images
    if settings.dynamic == "size":
        height, width = images.shape[-2:]
        yield images.repeat(1, 1, 2, 2)[..., : height + STEP, : width + STEP]


def _difference(
    pairs: list[tuple[Tensor, Tensor]], alike: list[Tensor | None], *, labels: bool
) -> Difference:
    """Compare what was wanted, and what torch makes in the same precision, with what was found."""
    wanted, found = (torch.cat([pair[side].flatten() for pair in pairs]) for side in (0, 1))
    agreement = None
    if labels:
        same = [(one.argmax(1) == other.argmax(1)).flatten() for one, other in pairs]
        agreement = float(torch.cat(same).double().mean())
    rounded = [plane.to(found.dtype).flatten() for plane in alike if plane is not None]
    known = len(rounded) == len(alike)
    return Difference(
        float((wanted - found).abs().max()),
        float(wanted.max() - wanted.min()),
        agreement,
        float((torch.cat(rounded) - found).abs().max()) if known else None,
    )
