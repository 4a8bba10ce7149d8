"""Chooses who computes: torch, or the Triton kernels."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
import logging
from typing import TYPE_CHECKING

from seg_node.core.types import ConfigError
from seg_node.loops import compiling

if TYPE_CHECKING:
    import torch

    from seg_node.core.backend import BlockKernels

LOG = logging.getLogger(__name__)
LEAST = (3, 4)
"""The oldest Triton that has what the kernels use; torch 2.8 came with it."""

_said: set[str] = set()


def choose_kernels(choice: str, device: torch.device) -> BlockKernels | None:
    """Return the kernels of a device; which ones is logged, once.

    Args:
        choice: value of the setting `kernels`: auto, torch or triton.
        device: where the network runs.

    Returns:
        None for plain torch.

    Raises:
        ConfigError: triton was asked for where it cannot run.

    """
    if compiling.LACK:
        _say(f"{compiling.LACK}: what the host does takes longer")
    gpu = device.type == "cuda"
    lack = _lack() if choice == "triton" or (choice == "auto" and gpu) else ""
    if choice == "torch" or (choice == "auto" and (lack or not gpu)):
        _say(f"blocks are computed by torch on {device}" + (lack and f": {lack}"))
        return None
    if lack:
        msg = f"kernels is 'triton', but {lack}; pip install -U triton, or choose torch"
        raise ConfigError(msg)
    from seg_node.kernels.backend import TritonKernels  # noqa: PLC0415 - not installed everywhere

    kernels = TritonKernels(device)
    _say(f"blocks are computed by triton on {device}")
    return kernels


def _lack() -> str:
    """Return why Triton cannot be used here; empty if it can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    version = str(import_module("triton").__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST:
        return f"triton {version} is older than {'.'.join(map(str, LEAST))}"
    return ""


def _say(text: str) -> None:
    if text not in _said:
        _said.add(text)
        LOG.info(text)
