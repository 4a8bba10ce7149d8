"""Packages that torch itself loads: traces (`.pt2`) and code compiled by AOTInductor."""

from __future__ import annotations

from typing import cast, TYPE_CHECKING

import torch
from torch._inductor import aoti_compile_and_package, aoti_load_package
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from seg_node.core.types import ConfigError
from seg_node.export.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from seg_node.export.program import Program


def save_trace(program: Program, path: Path) -> None:
    """Write a trace, weights included."""
    torch.export.save(program.graph, path)


def trace_runner(path: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return what runs a trace."""
    module = torch.export.load(path).module()
    return lambda inputs: cast("Tensor", module(*inputs.values()))


def check_compiler() -> None:
    """Refuse to go on without a C++ compiler.

    Raises:
        ConfigError: torch finds none.

    """
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as err:
        msg = "format aoti needs a C++ compiler: install g++, or name yours in the variable CXX"
        raise ConfigError(msg) from err


def compile_package(program: Program, path: Path) -> None:
    """Compile a trace for this CPU and write it with its weights."""
    with quiet():
        aoti_compile_and_package(program.graph, package_path=str(path))


def package_runner(path: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return what runs a compiled package."""
    package = aoti_load_package(str(path))
    return lambda inputs: cast("Tensor", package(*inputs.values()))
