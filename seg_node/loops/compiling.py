"""Compiles loops over pixels, where Numba is installed.

What these loops do stands twice in the project: here pixel by pixel, and in `seg_node.core` for
whole planes by NumPy, OpenCV and torch, which read and write memory once for every operator. The
latter runs where Numba is missing, and tests compare the two.

Loops run on one thread: those of torch still spin for a while after each of its operations, and
would be in each other's way.
"""

from __future__ import annotations

from importlib.util import find_spec
import logging
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Loop = TypeVar("Loop", bound=Callable[..., object])

LOG = logging.getLogger(__name__)

AVAILABLE = find_spec("numba") is not None
"""Whether loops are compiled. Without, nobody may call them: Python itself takes minutes."""


def compiled(loop: Loop) -> Loop:
    """Compile a loop at its first call.

    The machine code is kept beside the source or, where that is read-only, in the user's folder
    for caches: only the first process on a machine compiles.
    """
    if not AVAILABLE:
        return loop
    import numba  # noqa: PLC0415 - optional

    keep = True
    try:
        made = numba.njit(nogil=True, error_model="numpy", cache=keep)(loop)
    except RuntimeError as err:  # there is no folder to write to
        LOG.info("%s is compiled anew by every process: %s", loop.__name__, err)
        made = numba.njit(nogil=True, error_model="numpy")(loop)
    kept: Loop = made
    return kept


def usable(*tables: Tensor) -> bool:
    """Return whether loops can take these tensors: compiled ones, float32 on the host."""
    return AVAILABLE and all(
        table.device.type == "cpu"
        and str(table.dtype) == "torch.float32"
        and not table.requires_grad
        for table in tables
    )
