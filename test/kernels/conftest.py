"""Where kernels are tested: on the GPU if there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return the device on which kernels are tested."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
