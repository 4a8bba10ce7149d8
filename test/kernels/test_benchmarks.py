"""The benchmarks of the GPU: they measure what they say, and refuse where there is none."""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from benchmarks.gpu_layers import BLOCK, Operands, Shape
from seg_node.kernels.backend import TritonKernels
from test.kernels.operands import HALF, near

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("shape", [Shape(16, 24, 3, 2, 16), Shape(16, 16, 1, 1, 8)], ids=str)
def test_sparse_and_dense_runs_compute_the_same(shape: Shape, device: torch.device) -> None:
    """At a fraction of a half: in the active blocks what the dense run gives, elsewhere zeros."""
    operands = Operands(shape, HALF, (2 * BLOCK, 2 * BLOCK), TritonKernels(device), device)
    where = operands.active(0.5, 1)
    operands.sparse(where, 1)
    found, dense = operands.results[1], operands.dense(1)
    side = BLOCK // shape.stride
    blocks = [
        (..., slice(y * side, (y + 1) * side), slice(x * side, (x + 1) * side))
        for y in range(2)
        for x in range(2)
    ]
    active = [part for part in blocks if found[part].any()]
    assert len(active) == len(where[1].rows) == 2
    for part in active:
        near(found[part], dense[part], HALF)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu_layers", "gpu_step"])
def test_without_a_gpu_they_say_so(name: str) -> None:
    run = [sys.executable, "-m", f"benchmarks.{name}"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"benchmarks/{name}.py needs a CUDA device, and torch sees none here; see docs/gpu.md\n"
    )
