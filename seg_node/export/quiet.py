"""Keeps torch's compilers from telling what concerns nobody who exports."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING
import warnings

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")
"""They tell every step of an optimisation, and that torchvision is not installed."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what torch's compilers log below errors, and their warnings about torch itself."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Torch calls what it has deprecated itself.
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            warnings.filterwarnings("ignore", ".*torch.jit.script_method", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
