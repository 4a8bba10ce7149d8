"""Compiles loops over pixels, where Numba is installed.

What these loops do stands twice in the project: here pixel by pixel, and in `seg_node.core` for
whole planes by NumPy, OpenCV and torch, which read and write memory once for every operator. The
latter runs where Numba is missing, and tests compare the two.

Which threads run them: `seg_node.loops.sharing`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Loop = TypeVar("Loop", bound=Callable[..., object])

LOG = logging.getLogger(__name__)


def find_lack() -> str:
    """Return why loops cannot be compiled here; empty if they can."""
    try:
        import numba  # noqa: PLC0415 - optional
    except ImportError as err:  # it is not there, or does not go with this NumPy
        return f"numba cannot be used ({err})"
    return "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else ""


LACK = find_lack()
"""Why loops are not compiled; empty if they are."""

AVAILABLE = not LACK
"""Whether loops are compiled. Without, nobody may call them: Python itself takes minutes."""


def compiled(loop: Loop) -> Loop:
    """Compile a loop at its first call.

    The machine code is kept beside the source or, where that is read-only, in the user's folder
    for caches: only the first process on a machine compiles.
    """
    return _compiled(loop, False)


def compiled_freely(loop: Loop) -> Loop:
    """Compile a loop whose sums may be added up in any order: several numbers at a time."""
    return _compiled(loop, {"reassoc", "contract", "nsz"})


def _compiled(loop: Loop, fastmath: bool | set[str]) -> Loop:  # noqa: FBT001 - Numba's argument
    if not AVAILABLE:
        return loop
    import numba  # noqa: PLC0415 - optional

    how = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        made: Loop = numba.njit(cache=True, **how)(loop)
    except RuntimeError as err:  # there is no folder to write to
        LOG.info("%s is compiled anew by every process: %s", loop.__name__, err)
        made = numba.njit(**how)(loop)
    return made


def usable(*tables: Tensor) -> bool:
    """Return whether loops can take these tensors: compiled ones, float32 on the host."""
    return AVAILABLE and all(
        table.device.type == "cpu"
        and str(table.dtype) == "torch.float32"
        and not table.requires_grad
        for table in tables
    )
