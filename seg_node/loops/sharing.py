"""Shares the rows of a loop among the threads of torch, which are awake already.

Threads of our own would wait for those of torch: these spin for a while after each of its
operations, to be quick at the next one. So a loop runs on them, by the OpenMP library that torch
itself calls. Each thread takes every n-th part of the rows; rows do not depend on each other, so
the result is the same for any number of threads.
"""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from typing import Any, TYPE_CHECKING

import torch

from seg_node.loops.compiling import AVAILABLE

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger(__name__)

PARTS = 8
"""Parts of the rows that each thread takes: rows with more to do lie side by side."""

PREFIX = "seg_node_"
_NAMES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")

# fn(data) on each of n threads; the number of the calling thread; how many there are.
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PARALLEL = ctypes.CFUNCTYPE(None, _FUNCTION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
_NUMBER = ctypes.CFUNCTYPE(ctypes.c_int)


def _on_one_thread() -> tuple[Any, ...]:
    """Return what stands in for OpenMP where there is none."""
    return (
        _PARALLEL(lambda function, data, threads, flags: function(data)),  # noqa: ARG005 - C's
        _NUMBER(lambda: 0),
        _NUMBER(lambda: 1),
    )


def _of_torch() -> tuple[Any, ...] | None:
    """Return the functions of the OpenMP library that torch calls; None where it has none."""
    found = [str(path) for path in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")]
    try:
        library = ctypes.CDLL(found[0] if found else None)  # and what it is linked with
        return tuple(getattr(library, name) for name in _NAMES)
    except (OSError, AttributeError) as err:
        LOG.info("loops run on one thread: torch calls no OpenMP of GNU's kind (%s)", err)
        return None


_FOUND = _of_torch()

SHARED = _FOUND is not None
"""Whether loops run on the threads of torch; else on one."""

_FUNCTIONS = _FOUND or _on_one_thread()  # kept: compiled code calls them by their addresses


def threads() -> int:
    """Return on how many threads a loop runs: as many as operations of torch do."""
    return torch.get_num_threads() if SHARED else 1


def _forking() -> Any:
    """Return what has compiled code call OpenMP.

    Compiled code on disk names the three functions, and whichever this process has take the names.
    """
    from llvmlite import binding, ir  # noqa: PLC0415 - optional, as Numba is
    from numba.core import cgutils, types  # noqa: PLC0415
    from numba.extending import intrinsic  # noqa: PLC0415

    for name, function in zip(_NAMES, _FUNCTIONS, strict=True):
        address = ctypes.cast(function, ctypes.c_void_p).value
        binding.add_symbol(PREFIX + name, address)
    pointer, int32, int64 = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)
    forked = ir.FunctionType(ir.VoidType(), [pointer])
    parallel = ir.FunctionType(ir.VoidType(), [forked.as_pointer(), pointer, int32, int32])
    number = ir.FunctionType(int32, [])

    def call(builder: Any, name: str, kind: Any, given: list[Any]) -> Any:
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, PREFIX + name), given
        )

    def write_share(context: Any, module: Any, loop: Any, kinds: Any, given: Any) -> Any:
        """Write the function that one thread runs: its parts of the rows, one after the other."""
        function = ir.Function(module, forked, module.get_unique_name("share_of"))
        function.linkage = "internal"
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        data = builder.bitcast(function.args[0], given)
        count, arguments = (
            builder.load(cgutils.gep_inbounds(builder, data, 0, i)) for i in (0, 1)
        )
        own, every = (builder.sext(call(builder, name, number, []), int64) for name in _NAMES[1:])
        parts = builder.mul(every, ir.Constant(int64, PARTS))
        rows = builder.udiv(builder.add(count, builder.sub(parts, ir.Constant(int64, 1))), parts)
        compiled = loop.dispatcher.get_compile_result(types.void(*kinds))
        context.active_code_library.add_linking_library(compiled.library)
        callee = context.declare_function(module, compiled.fndesc)
        unpacked = cgutils.unpack_tuple(builder, arguments)
        start, step = builder.mul(own, rows), builder.mul(every, rows)
        with cgutils.for_range_slice(builder, start, count, step, int64) as (first, _):
            end = builder.add(first, rows)
            last = builder.select(builder.icmp_signed("<", end, count), end, count)
            # Loops raise nothing, so there is no status to look at.
            context.call_conv.call_function(
                builder, callee, types.void, kinds, [first, last, *unpacked]
            )
        builder.ret_void()
        return function

    @intrinsic  # type: ignore[untyped-decorator]  # Numba has no types
    def share(_: Any, loop: Any, threads: Any, count: Any, given: Any) -> tuple[Any, Any]:  # noqa: ARG001 - their types are known
        """Have loop(first, last, *given) called until every row below count had its turn."""
        kinds = (types.int64, types.int64, *given.types)

        def write(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            _, asked, rows, arguments = values
            kept = ir.LiteralStructType([int64, arguments.type])
            data = cgutils.alloca_once(builder, kept)
            for index, value in enumerate((rows, arguments)):
                builder.store(value, cgutils.gep_inbounds(builder, data, 0, index))
            function = write_share(
                context, builder.module, signature.args[0], kinds, kept.as_pointer()
            )
            data, asked = builder.bitcast(data, pointer), builder.trunc(asked, int32)
            with builder.if_else(builder.icmp_unsigned(">", asked, ir.Constant(int32, 1))) as (
                several,
                alone,
            ):
                with several:
                    flags = ir.Constant(int32, 0)
                    call(builder, _NAMES[0], parallel, [function, data, asked, flags])
                with alone:
                    builder.call(function, [data])
            return context.get_dummy_value()

        return types.void(loop, types.int64, types.int64, given), write

    return share


share: Callable[..., None] = _forking() if AVAILABLE else lambda *_: None
