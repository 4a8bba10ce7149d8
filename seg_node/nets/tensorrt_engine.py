"""Loads and runs TensorRT engines. Nothing here has run: no TensorRT was to be had (docs/gpu.md).

Names and behaviour are those of NVIDIA's reference of the Python API of TensorRT 10 and 11, where
tensors go by name and shapes are fixed when an engine is built.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any, TYPE_CHECKING

import torch

from seg_node.core.types import ConfigError, ModelError
from seg_node.nets.engines import Binding, check_bindings, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from seg_node.nets.engines import EngineManifest

TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""Number formats that our engines take and give, by TensorRT's names of them."""

INSTALL = (
    "on a Jetson sudo apt install nvidia-jetpack, elsewhere pip install tensorrt (for a GPU of "
    "CUDA 12: tensorrt-cu12)"
)


def load_tensorrt(wanted: str) -> Any:
    """Return TensorRT's module.

    Args:
        wanted: what needs it, such as a setting and its value.

    Raises:
        ConfigError: it is not installed, or torch sees no GPU.

    """
    if find_spec("tensorrt") is None:
        msg = f"{wanted} needs the package tensorrt, which is not installed: {INSTALL}"
        raise ConfigError(msg)
    if not torch.cuda.is_available():
        msg = f"{wanted} needs a GPU that torch sees; use a torch that is built for CUDA"
        raise ConfigError(msg)
    return importlib.import_module("tensorrt")


def this_machine(trt: Any) -> Machine:
    """Return what engines have to fit here."""
    return Machine(str(trt.__version__), torch.cuda.get_device_name())


class TensorRTRun:
    """Runs an engine on tensors of the GPU.

    Args:
        trt: TensorRT's module.
        path: engine file.

    Attributes:
        bindings: inputs and outputs, in the order of the engine.

    Raises:
        ModelError: TensorRT cannot load it; its log on standard error says why.

    """

    def __init__(self, trt: Any, path: Path) -> None:
        """Load it."""
        # It has to outlive the engine.
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        context = None if engine is None else engine.create_execution_context()
        if context is None:
            msg = f"TensorRT {trt.__version__} cannot load {path}: its log says why; export anew"
            raise ModelError(msg)
        self._engine, self._context = engine, context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.bindings = [_binding(engine, name) for name in names]
        (self._output,) = (
            binding
            for binding in self.bindings
            if engine.get_tensor_mode(binding.name) == trt.TensorIOMode.OUTPUT
        )
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's stub lacks it

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the output for inputs by name, contiguous and on the GPU, without waiting.

        Raises:
            ModelError: TensorRT did not take a tensor, or could not start.

        """
        current = torch.cuda.current_stream()
        # On the default stream TensorRT would wait for the whole device.
        own = current == torch.cuda.default_stream()
        stream = self._stream if own else current
        number = getattr(torch, self._output.type)
        output = torch.empty(self._output.shape, dtype=number, device="cuda")
        tensors = {**inputs, self._output.name: output}
        if own:
            stream.wait_stream(current)
            for tensor in tensors.values():
                tensor.record_stream(stream)
        taken = [
            self._context.set_tensor_address(name, tensor.data_ptr())
            for name, tensor in tensors.items()
        ]
        if not all(taken) or not self._context.execute_async_v3(stream.cuda_stream):
            shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in tensors.items())
            msg = f"TensorRT could not run an engine on {shapes}: its log says why"
            raise ModelError(msg)
        if own:
            current.wait_stream(stream)
        return output


def opener(trt: Any) -> Callable[[Path, EngineManifest], TensorRTRun]:
    """Return what loads engines, and refuses those whose tensors are not as they should be."""

    def opened(path: Path, manifest: EngineManifest) -> TensorRTRun:
        run = TensorRTRun(trt, path)
        check_bindings(manifest, run.bindings)
        return run

    return opened


def _binding(engine: Any, name: str) -> Binding:
    kind = str(engine.get_tensor_dtype(name).name)
    shape = tuple(int(length) for length in engine.get_tensor_shape(name))
    return Binding(name, TYPES.get(kind, kind), shape)
