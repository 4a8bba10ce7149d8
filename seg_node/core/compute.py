"""Where and how a network runs: its device and number format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    from seg_node.core.config import Config


@dataclass(frozen=True)
class Compute:
    """Where and how a network runs.

    Attributes:
        device: torch device.
        dtype: number format of weights and features.

    """

    device: torch.device
    dtype: torch.dtype


def choose_compute(config: Config) -> Compute:
    """Resolve `device` and `precision` of a config on this machine.

    Raises:
        ConfigError: a GPU was asked for that is not there, or fp16 on the CPU.

    """
    cuda = torch.cuda.is_available()
    name = config.device if config.device != "auto" else ("cuda" if cuda else "cpu")
    device = torch.device("cuda" if name == "tensorrt" else name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        have = torch.cuda.device_count()
        msg = f"device is {config.device!r}, but torch sees {have} GPUs; use cpu"
        raise ConfigError(msg)
    chosen = config.precision
    if chosen == "auto":
        chosen = "fp16" if device.type == "cuda" else "fp32"
    if chosen == "fp16" and device.type == "cpu":
        msg = "precision is 'fp16', which CPUs compute slowly; use fp32 or bf16 with device cpu"
        raise ConfigError(msg)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return Compute(device, dtypes[chosen])
