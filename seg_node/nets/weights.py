"""Weights of networks in safetensors files: strict in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
import torch

from seg_node.core.types import ModelError
from seg_node.nets.manifest import file_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn, Tensor


def load_weights(net: nn.Module, path: Path) -> None:
    """Load safetensors weights; missing, unexpected or misshapen keys are all errors.

    Numbers are stored in the network's own type or one whose values it holds exactly, such as
    float16 for a float32 network.

    Raises:
        ModelError: the file is damaged or does not fit; the text names the keys.

    """
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as err:
        msg = f"{path} is not a readable safetensors file: {err}"
        raise ModelError(msg) from err
    own = net.state_dict()
    for key, value in weights.items():
        if key in own and not _holds(own[key].dtype, value.dtype):
            msg = f"{path} does not fit the network: {key} is {value.dtype}, not {own[key].dtype}"
            raise ModelError(msg)
    try:
        net.load_state_dict(weights, strict=True)
    except RuntimeError as err:
        msg = f"{path} does not fit the network: {err}"
        raise ModelError(msg) from err


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Return whether every number of the narrow type is exact in the wide one."""
    same_kind = wide.is_floating_point == narrow.is_floating_point
    return same_kind and torch.promote_types(wide, narrow) == wide


def save_weights(net: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> str:
    """Write a network's weights as safetensors and return the file's sha256.

    Args:
        net: network; stays as it is.
        path: file to write.
        dtype: torch.float32, or torch.float16 for half the size. Buffers keep their own type:
            they are small, and statistics of BatchNorm may exceed float16's range (65504).

    Raises:
        ModelError: a value is not finite, or not within the range of `dtype`; nothing is
            written, and the text names the key.

    """
    weights = {key: value.detach().cpu() for key, value in net.state_dict().items()}
    for key, parameter in net.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            weights[key] = weights[key].to(dtype)
    for key, value in weights.items():
        if not value.isfinite().all():
            msg = f"{key} has values that are not finite in {value.dtype}; {path} is not written"
            raise ModelError(msg)
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    save_file({key: _copy(value) for key, value in weights.items()}, path)
    return file_sha256(path)


def _copy(value: Tensor) -> Tensor:
    return value.clone(memory_format=torch.contiguous_format)
