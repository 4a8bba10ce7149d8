"""The formats that parts are exported to: how each is written, and how it is run to check it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seg_node.export.onnx_format import onnx_bytes, onnx_runner
from seg_node.export.tensorrt_format import build_engine, check_tensorrt, engine_runner
from seg_node.export.torch_formats import (
    check_compiler,
    compile_package,
    package_runner,
    save_trace,
    trace_runner,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from seg_node.export.program import Program

    Runner = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Order:
    """A traced part on its way to a file.

    Attributes:
        program: the traced part.
        opset: ONNX operator set.
        notes: what to keep in the file's metadata, where the format has such.

    """

    program: Program
    opset: int
    notes: Mapping[str, str]


@dataclass(frozen=True)
class Format:
    """A way to keep a network in a file.

    Attributes:
        suffix: what a file's name ends in.
        check: raises ConfigError where this machine cannot write it.
        write: writes the file.
        run: makes what computes the output from inputs by name.

    """

    suffix: str
    check: Callable[[], None]
    write: Callable[[Order, Path], None]
    run: Callable[[Order, Path], Runner]


def _write_onnx(order: Order, path: Path) -> None:
    path.write_bytes(onnx_bytes(order.program, order.opset, order.notes))


def _write_engine(order: Order, path: Path) -> None:
    build_engine(onnx_bytes(order.program, order.opset, order.notes), path)


FORMATS = {
    "onnx": Format(".onnx", lambda: None, _write_onnx, lambda _, path: onnx_runner(path)),
    "pt2": Format(
        ".pt2",
        lambda: None,
        lambda order, path: save_trace(order.program, path),
        lambda _, path: trace_runner(path),
    ),
    "aoti": Format(
        ".aoti.pt2",
        check_compiler,
        lambda order, path: compile_package(order.program, path),
        lambda _, path: package_runner(path),
    ),
    "tensorrt": Format(
        ".engine",
        check_tensorrt,
        _write_engine,
        lambda _, path: engine_runner(path),
    ),
}
"""Every format, by its name in `settings.FORMATS`."""
