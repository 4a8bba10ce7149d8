"""TensorRT engines, built from ONNX by TensorRT's Python builder, without trtexec.

Nothing here has run yet: no machine with TensorRT was at hand (docs/export.md).

An engine fits the GPU and the version of TensorRT that it was built on. Types are those of the
ONNX file (a strongly typed network), the only way that TensorRT 11 knows: half precision comes
from a half-precision export.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any, TYPE_CHECKING

import torch

from seg_node.core.types import ConfigError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor


def check_tensorrt() -> None:
    """Refuse to go on without TensorRT and a GPU.

    Raises:
        ConfigError: one is missing.

    """
    if find_spec("tensorrt") is None:
        msg = "format tensorrt needs the package tensorrt, which comes with JetPack or from pip"
        raise ConfigError(msg)
    if not torch.cuda.is_available():
        msg = "format tensorrt needs a GPU that torch sees; export on the machine that will run it"
        raise ConfigError(msg)


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


def engine_runner(path: Path, output: str) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return what runs an engine on tensors of the CPU.

    Args:
        path: engine file.
        output: name of its output.

    """
    trt: Any = importlib.import_module("tensorrt")
    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(path.read_bytes())
    context = engine.create_execution_context()
    half = engine.get_tensor_dtype(output) == trt.DataType.HALF

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        planes = {name: value.contiguous().cuda() for name, value in inputs.items()}
        shape = tuple(engine.get_tensor_shape(output))
        dtype = torch.float16 if half else torch.float32
        planes[output] = torch.empty(shape, dtype=dtype, device="cuda")
        for name, plane in planes.items():
            context.set_tensor_address(name, plane.data_ptr())
        stream = torch.cuda.current_stream()
        context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return planes[output].cpu()

    return run
