"""How kernels are launched: the forms to choose from, their choice, and number formats.

On a GPU the first call with a new shape of layer times every form and keeps the fastest, in
Triton's cache on disk too, so that the next process need not. Numbers of blocks change from frame
to frame and are no part of that key.

`TRITON_INTERPRET=1`, set before this package is imported, runs the kernels in Triton's
interpreter: slowly, on the CPU, for tests. Nothing can be timed there: the first form is taken.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, TYPE_CHECKING

import torch
import triton
from triton import language as tl

from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter; decided when they are defined."""

NUMBERS = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
}
"""Number formats that the kernels take, and Triton's names of them; sums are float32."""


def tuned(key: Sequence[str], forms: Sequence[triton.Config]) -> Callable[[Any], Any]:
    """Return a decorator of a kernel that chooses among forms of it.

    Args:
        key: arguments whose values need a choice of their own.
        forms: block sizes, warps and stages; the first serves the interpreter.

    """
    chosen = list(forms[:1]) if INTERPRETED else list(forms)
    decorator: Callable[[Any], Any] = triton.autotune(chosen, list(key), cache_results=True)
    return decorator


def form(warps: int, stages: int = 2, **sizes: int) -> triton.Config:
    """Return a form: how many warps and stages, and the sizes by their names in the kernel."""
    return triton.Config(sizes, num_warps=warps, num_stages=stages)


def number_of(tensor: Tensor) -> tl.dtype:
    """Return Triton's name of a tensor's number format.

    Raises:
        ConfigError: the kernels do not take it.

    """
    if tensor.dtype not in NUMBERS:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in NUMBERS)
        msg = f"the triton kernels take {known}, not {tensor.dtype}; set kernels to torch for it"
        raise ConfigError(msg)
    return NUMBERS[tensor.dtype]


def factor_of(tensor: Tensor) -> tl.dtype:
    """Return the number format in which matrices are multiplied; sums are float32 in any case.

    The interpreter takes bfloat16 for whole numbers there, and is given float32.
    """
    number = number_of(tensor)
    return tl.float32 if INTERPRETED and number == tl.bfloat16 else number


def check_device(tensor: Tensor) -> None:
    """Refuse a tensor that the kernels cannot reach.

    Raises:
        ConfigError: it lies on a CPU, and the kernels are not interpreted.

    """
    if tensor.device.type != "cuda" and not INTERPRETED:
        msg = (
            f"the triton kernels run on a CUDA device, not on {tensor.device}; set kernels to "
            "torch, or TRITON_INTERPRET=1 in the environment to test them slowly on a CPU"
        )
        raise ConfigError(msg)


def on(tensor: Tensor) -> Any:
    """Return a context in which kernels are launched on a tensor's device.

    Raises:
        ConfigError: the kernels cannot reach it.

    """
    check_device(tensor)
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


def power(number: int, least: int = 16) -> int:
    """Return the power of two that is not below a number, nor below the least that serves."""
    return max(least, int(triton.next_power_of_2(number)))
