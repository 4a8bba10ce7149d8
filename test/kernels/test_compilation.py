"""The kernels compile for a GPU, with or without one: what the interpreter takes may not."""

from __future__ import annotations

import os
from pathlib import Path
import platform
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="triton's assembler is for Linux")
def test_every_kernel_compiles(tmp_path: Path) -> None:
    """In a process of its own: here they are interpreted."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = {
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    script = Path(__file__).parent / "compile_kernels.py"
    done = subprocess.run(
        [sys.executable, str(script), "80"],
        env={**kept, **paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = {line.partition(" ")[0] for line in done.stdout.splitlines()}
    assert names == {
        "convolve_kernel",
        "gather_kernel",
        "max_pool_kernel",
        "enlarge_kernel",
        "attend_kernel",
        "prepare_kernel",
        "decide_kernel",
        "read_kernel",
        "match_kernel",
        "spread_kernel",
    }
