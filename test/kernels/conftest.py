"""Where kernels are tested: on the GPU if there is one, else in Triton's interpreter on the CPU.

The choice is made here, before anything imports a kernel; processes that tests start inherit it.
"""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return the device on which kernels are tested."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
