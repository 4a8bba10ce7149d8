"""Chooses who computes: torch, or the Triton kernels."""

from __future__ import annotations

from importlib.util import find_spec
import logging
from typing import TYPE_CHECKING

from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    import torch

    from seg_node.core.backend import BlockKernels

LOG = logging.getLogger(__name__)
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
    there = find_spec("triton") is not None
    gpu = device.type == "cuda"
    if choice == "torch" or (choice == "auto" and not (there and gpu)):
        reason = "" if choice == "torch" or not gpu else ": triton is not installed"
        _say(f"blocks are computed by torch on {device}{reason}")
        return None
    if not there:
        msg = "kernels is 'triton', which is not installed; pip install triton, or use torch"
        raise ConfigError(msg)
    from seg_node.kernels.backend import TritonKernels  # noqa: PLC0415 - not installed everywhere

    kernels = TritonKernels(device)
    _say(f"blocks are computed by triton on {device}")
    return kernels


def _say(text: str) -> None:
    if text not in _said:
        _said.add(text)
        LOG.info(text)
