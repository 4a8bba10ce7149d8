"""Compiles every kernel for a GPU that need not be there: python compile_kernels.py 80 [all].

What the interpreter accepts, a compiler may not. The first argument is the compute capability
(80: A100, 87: Jetson Orin, 90: H100 and H200); without `all` only one form of each kernel is
compiled. Prints, for each, bytes of shared memory that it takes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from triton import compile as compile_source
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from seg_node.core.matching import CELL, FLATNESS, REACH, STEPS
from seg_node.kernels import attention, borders, convolution, frames, matching, pooling

FEATURES = ("table", "more", "weight", "bias", "residual", "base", "queries", "keys", "values")
POINTERS = {
    **dict.fromkeys(FEATURES, "*fp16"),
    **dict.fromkeys(("out", "full", "half", "logits"), "*fp16"),
    **dict.fromkeys(("rows", "places", "tiles"), "*i32"),
    **dict.fromkeys(("scale", "shift", "flow", "before", "guesses", "cells"), "*fp32"),
    **dict.fromkeys(("down", "across"), "*fp32"),
    **dict.fromkeys(("image", "labels", "confidence", "valid", "meets"), "*u8"),
    **dict.fromkeys(("fill", "margin"), "fp32"),
}
CONVOLVED = {
    "SIDE": 8,
    "SPAN": 10,
    "STEP": 1,
    "KERNEL": 3,
    "DILATION": 1,
    "HAS_MORE": True,
    "HAS_BIAS": True,
    "HAS_RESIDUAL": True,
    "HAS_PLACES": True,
    "RELU": True,
    "FACTOR": tl.float16,
    "per_channel": 1,  # weights in channels_last
}
ATTENDED = {
    "WINDOW": 7,
    "HAS_VALID": True,
    "HAS_FLOW": True,
    "LOWEST": torch.finfo(torch.float32).min / 2,
    "CHANNELS": 128,
}
MATCHED = {
    "FLAT": FLATNESS,
    "STEPS": STEPS,
    "CELL": CELL,
    "REACH": REACH,
    "SPAN": CELL + 2 * REACH,
}
KERNELS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (convolution.convolve_kernel, CONVOLVED),
    (convolution.convolve_kernel, {**CONVOLVED, "SPAN": 16, "STEP": 2, "KERNEL": 1}),
    (pooling.gather_kernel, {"CHANNELS": 64}),
    (pooling.max_pool_kernel, {"SIDE": 8, "SPAN": 18, "STEP": 2, "KERNEL": 3, "CHANNELS": 64}),
    (pooling.enlarge_kernel, {"SIDE": 8, "SPAN": 6, "FACTOR": 2, "CHANNELS": 128}),
    (attention.attend_kernel, ATTENDED),
    (attention.attend_kernel, {**ATTENDED, "HAS_FLOW": False, "HAS_VALID": False}),
    (frames.prepare_kernel, {"REVERSED": True}),
    (frames.decide_kernel, {"STRIDE": 4, "CLASSES": 32, "MOST": 255}),
    (borders.read_kernel, {"STRIDE": 4, "CLASSES": 32, "MOST": 255}),
    (matching.match_kernel, MATCHED),
    (matching.match_kernel, {**MATCHED, "STEPS": 0}),
    (matching.spread_kernel, {"CELL": CELL}),
)


def compiled(kernel: Any, constants: dict[str, Any], capability: int, form: Any) -> Any:
    """Compile one form of a kernel; pointers and numbers are multiples of 16, as in networks."""
    constants = {**constants, **form.kwargs}
    names = kernel.fn.arg_names
    kinds = {name: POINTERS.get(name, "i32") for name in names}
    if kernel in {frames.decide_kernel, matching.spread_kernel}:
        kinds["rows"] = "i32"  # the height of the plane
    if kernel in {matching.match_kernel, matching.spread_kernel}:
        kinds.update(image="*fp32", out="*fp32")
    signature = {name: "constexpr" if name in constants else kinds[name] for name in names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if name not in constants
        and name not in {"count", "held", "fill", "margin", "classes", "tried"}
        and not (kernel is borders.read_kernel and name in {"channels", "span"})
    }
    source = ASTSource(kernel.fn, signature, constants, aligned)
    options = {"num_warps": form.num_warps, "num_stages": form.num_stages}
    return compile_source(source, target=GPUTarget("cuda", capability, 32), options=options)


def main() -> None:
    """Compile for one capability and report."""
    capability, every = int(sys.argv[1]), sys.argv[2:] == ["all"]
    for kernel, constants in KERNELS:
        for form in kernel.configs if every else kernel.configs[:1]:
            done = compiled(kernel, constants, capability, form)
            assert "cubin" in done.asm
            sys.stdout.write(f"{kernel.fn.__name__} {done.metadata.shared} bytes {form}\n")


if __name__ == "__main__":
    main()
