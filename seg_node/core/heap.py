"""Keeps freed memory with the process, where the C library is glibc."""

from __future__ import annotations

import ctypes
import logging
import os
import platform

LOG = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # M_... of malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have what a frame frees serve the next one, in one heap for all threads of this process.

    glibc gives large pieces back to the system, above all those of threads other than the first
    one. The planes of each frame are then mapped and cleared anew, page by page
    (docs/performance.md). The process stays as large as it has ever been.

    Returns:
        whether it was told so: not where there is another C library, or where the environment says
        what malloc is to do (`MALLOC_...`, `GLIBC_TUNABLES`).

    """
    if platform.libc_ver()[0] != "glibc" or _told(os.environ):
        return False
    libc = ctypes.CDLL(None)
    settings = ((_TRIM_THRESHOLD, _NEVER), (_MMAP_MAX, 0), (_ARENA_MAX, 1))
    kept = all(libc.mallopt(which, value) == 1 for which, value in settings)
    LOG.debug("freed memory is %s", "kept" if kept else "given back: mallopt refused")
    return kept


def _told(environment: os._Environ[str]) -> bool:
    """Return whether the environment says what malloc is to do."""
    own = any(name.startswith("MALLOC_") for name in environment)
    return own or "glibc.malloc" in environment.get("GLIBC_TUNABLES", "")
