"""TensorRT engines, built from ONNX by TensorRT's Python builder, without trtexec.

Nothing here has run yet: no machine with TensorRT was at hand (docs/export.md).

An engine fits the GPU and the version of TensorRT that it was built on. Types are those of the
ONNX file (a strongly typed network), the only way that TensorRT 11 knows: half precision comes
from a half-precision export.
"""

from __future__ import annotations

import importlib
from typing import Any, TYPE_CHECKING

from seg_node.core.types import ModelError
from seg_node.nets.engines import Binding, EngineManifest
from seg_node.nets.tensorrt_engine import load_tensorrt, TensorRTRun, this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from seg_node.nets.engines import Machine


def check_tensorrt() -> None:
    """Refuse to go on without TensorRT and a GPU.

    Raises:
        ConfigError: one is missing.

    """
    load_tensorrt("format tensorrt")


def build_engine(model: bytes, path: Path) -> None:
    """Build an engine for this machine's GPU.

    Args:
        model: ONNX file of fixed shapes.
        path: file to write.

    Raises:
        ModelError: TensorRT cannot read or build it; its log on standard error says why.

    """
    trt: Any = importlib.import_module("tensorrt")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        problems = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        msg = f"TensorRT {trt.__version__} cannot read {path.stem!r}: {problems}"
        raise ModelError(msg)
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    if engine is None:
        msg = f"TensorRT {trt.__version__} could not build {path.stem!r}; its log says why"
        raise ModelError(msg)
    path.write_bytes(engine)


def engine_runner(path: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return what runs an engine on tensors of the CPU."""
    run = TensorRTRun(importlib.import_module("tensorrt"), path)

    def on_cpu(inputs: Mapping[str, Tensor]) -> Tensor:
        return run({name: value.contiguous().cuda() for name, value in inputs.items()}).cpu()

    return on_cpu


def write_engine_manifest(path: Path, entry: Mapping[str, Any], model: str, sha256: str) -> Path:
    """Write what an engine is beside it; see `nets.engines`.

    Args:
        path: engine file.
        entry: what the report says of it.
        model: name of the model.
        sha256: hash of the weights that it was made of.

    Returns:
        path of the manifest.

    """
    machine = this_machine(importlib.import_module("tensorrt"))
    return engine_manifest(path.name, entry, model, sha256, machine).write(path.parent)


def engine_manifest(
    file: str, entry: Mapping[str, Any], model: str, sha256: str, machine: Machine
) -> EngineManifest:
    """Return the manifest of an engine file from what the report says of it."""
    (taken,), (given,) = (
        [Binding(end["name"], end["type"], tuple(end["shape"])) for end in entry[ends]]
        for ends in ("inputs", "outputs")
    )
    return EngineManifest(
        file=file,
        sha256=entry["sha256"],
        part=entry["part"],
        model=model,
        network_sha256=sha256,
        input=taken,
        output=given,
        tensorrt=machine.tensorrt,
        gpu=machine.gpu,
    )
