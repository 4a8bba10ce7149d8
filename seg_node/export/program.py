"""Traces a part into a graph of torch operations, from which every format is made."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

import torch
from torch.export import Dim

from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from seg_node.export.parts import Part
    from seg_node.export.settings import ExportSettings

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
"""Number format of weights and features, by the name of a precision."""
STEP = 32
"""Open sizes of images are multiples of it: all of our networks halve the size five times."""
MOST_IMAGES = 64
"""Images in a batch of open size, at most."""


@dataclass(frozen=True)
class Program:
    """A traced part.

    Attributes:
        part: the part.
        graph: its trace.
        example: inputs that it was traced with, by name.
        open_dims: for each input, names of the dimensions that are open, by their index.
        output: name, type and shape of the output; open dimensions are null.

    """

    part: Part
    graph: ExportedProgram
    example: dict[str, Tensor]
    open_dims: dict[str, dict[int, str]]
    output: dict[str, Any]


def trace(part: Part, images: Tensor, settings: ExportSettings) -> Program:
    """Trace a part.

    Args:
        part: what to trace; stays as it is.
        images: two images at least, [N, 3, H, W], of the type that the settings name.
        settings: precision, and which dimensions stay open.

    Raises:
        ModelError: the network cannot be traced so; the text has torch's reason.

    """
    # Torch takes a batch of one for a constant.
    count = 2 if settings.dynamic else settings.batch
    example = typed(part.inputs(batch_of(images, count)), settings.precision)
    module = copy.deepcopy(part.module).to(PRECISIONS[settings.precision])
    dims = _open_dims(part, settings.dynamic)
    try:
        graph = torch.export.export(module, tuple(example.values()), dynamic_shapes=tuple(dims))
    # Torch says with many types of error what it cannot trace, and users may export any network.
    except Exception as err:
        reason = str(err).strip().partition("\n")[0]
        opened = f" with dynamic {settings.dynamic!r}" if settings.dynamic else ""
        msg = f"part {part.name!r} cannot be traced{opened}: {type(err).__name__}: {reason}"
        raise ModelError(msg) from err
    names = [{axis: str(dim.__name__) for axis, dim in of_one.items()} for of_one in dims]
    return Program(
        part, graph, example, dict(zip(example, names, strict=True)), _output(part, graph)
    )


def _output(part: Part, graph: ExportedProgram) -> dict[str, Any]:
    """Return name, type and shape of what a trace puts out."""
    (node,) = graph.graph.output_node().args[0]
    value = node.meta["val"]
    shape = [length if isinstance(length, int) else None for length in value.shape]
    return {"name": part.output, "type": str(value.dtype).removeprefix("torch."), "shape": shape}


def batch_of(images: Tensor, count: int) -> Tensor:
    """Return so many images, by turns."""
    return images[torch.arange(count) % len(images)]


def typed(inputs: dict[str, Tensor], precision: str) -> dict[str, Tensor]:
    """Return inputs with their planes of features in the number format of a precision.

    Images keep their type: the exported network converts them.
    """
    return {
        name: value.to(PRECISIONS[precision])
        if name != "image" and value.is_floating_point()
        else value
        for name, value in inputs.items()
    }


def _open_dims(part: Part, dynamic: str) -> list[dict[int, Any]]:
    """Return the dimensions of each input that stay open, by their index."""
    if not dynamic:
        return [{} for _ in part.strides]
    batch = Dim("batch", min=1, max=MOST_IMAGES)
    if dynamic == "batch":
        return [{0: batch} for _ in part.strides]
    if not all(part.strides.values()):
        msg = f"part {part.name!r} works at one size: leave it out, or export with dynamic 'batch'"
        raise ModelError(msg)
    # Two units at least: torch takes a side of one for a constant.
    rows, columns = (Dim(name, min=2, max=8192 // STEP) for name in ("rows", "columns"))
    return [
        {0: batch, 2: STEP // stride * rows, 3: STEP // stride * columns}
        for stride in part.strides.values()
    ]
