"""ONNX files, checked by ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnxruntime
import torch

from seg_node.core.types import ModelError
from seg_node.export.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from seg_node.export.program import Program

FATAL = 4
"""Level of ONNX Runtime's log: errors are raised too."""


def onnx_bytes(program: Program, opset: int, notes: Mapping[str, str]) -> bytes:
    """Return an ONNX file of a traced part, weights included.

    Args:
        program: the traced part.
        opset: ONNX operator set.
        notes: what to keep in the file's metadata.

    Raises:
        ModelError: torch has no ONNX for it.

    """
    inputs = list(program.example)
    try:
        with quiet():
            exported = torch.onnx.export(
                program.graph,
                dynamo=True,
                input_names=inputs,
                output_names=[program.part.output],
                opset_version=opset,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as err:
        reason = str(err).strip().partition("\n")[0]
        msg = f"part {program.part.name!r} has no ONNX of opset {opset}: {reason}"
        raise ModelError(msg) from err
    assert exported is not None  # says torch's stub, for other arguments
    model = exported.model_proto
    have = model.opset_import[0].version
    if have != opset:
        msg = f"part {program.part.name!r} has no ONNX of opset {opset}, only {have}: use that"
        raise ModelError(msg)
    onnx.helper.set_model_props(model, dict(notes))
    _name_dims(model, program.open_dims)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def onnx_runner(path: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return what runs an ONNX file, by ONNX Runtime on the CPU.

    What is returned raises ModelError where ONNX Runtime cannot run it on its inputs.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        arrays = {name: value.numpy() for name, value in inputs.items()}
        try:
            (output,) = session.run(None, arrays)
        # Its types of error have no base but Exception.
        except Exception as err:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            msg = f"ONNX Runtime cannot run {path.stem!r} on {shapes}: {err}".replace("\n", " ")
            raise ModelError(msg) from err
        return torch.from_numpy(output)

    return run


def _name_dims(model: onnx.ModelProto, open_dims: dict[str, dict[int, str]]) -> None:
    """Give the open dimensions of inputs the names that export.json gives them."""
    for value in model.graph.input:
        for axis, name in open_dims[value.name].items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
