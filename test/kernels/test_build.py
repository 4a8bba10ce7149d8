"""Who computes is chosen by name: never silently, and said once."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch

from seg_node.core.types import ConfigError
from seg_node.kernels import build
from seg_node.kernels.build import choose_kernels
from seg_node.loops import compiling

CPU = torch.device("cpu")
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_said", set())
    monkeypatch.setattr(compiling, "LACK", "")


def test_that_the_host_is_slow_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "LACK", "numba cannot be used (No module named 'numba')")
    caplog.set_level(logging.INFO)
    assert choose_kernels("torch", CPU) is None
    assert choose_kernels("torch", GPU) is None
    assert caplog.messages == [
        "numba cannot be used (No module named 'numba'): what the host does takes longer",
        "blocks are computed by torch on cpu",
        "blocks are computed by torch on cuda",
    ]


def test_cpus_run_torch_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert choose_kernels("auto", CPU) is None
    assert choose_kernels("auto", CPU) is None
    assert choose_kernels("torch", CPU) is None
    assert caplog.messages == ["blocks are computed by torch on cpu"]


def test_gpus_run_triton_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    caplog.set_level(logging.INFO)
    kernels = choose_kernels("auto", GPU)
    assert kernels is not None
    assert kernels.name == "triton"
    assert choose_kernels("torch", GPU) is None
    assert caplog.messages == [
        "blocks are computed by triton on cuda",
        "blocks are computed by torch on cuda",
    ]


def test_a_missing_triton_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(build, "find_spec", lambda _: None)
    assert choose_kernels("auto", GPU) is None
    assert caplog.messages == ["blocks are computed by torch on cuda: triton is not installed"]
    with pytest.raises(ConfigError, match="but triton is not installed; pip install -U"):
        choose_kernels("triton", GPU)


def test_an_old_triton_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("triton", reason="triton is not installed")
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(triton, "__version__", "3.3.1")
    assert choose_kernels("auto", GPU) is None
    assert caplog.messages == [
        "blocks are computed by torch on cuda: triton 3.3.1 is older than 3.4"
    ]
    with pytest.raises(ConfigError, match=r"but triton 3\.3\.1 is older than 3\.4"):
        choose_kernels("triton", GPU)
    monkeypatch.setattr(triton, "__version__", "3.10.0+git1234")
    assert choose_kernels("auto", GPU) is not None


def test_triton_on_a_cpu_is_refused() -> None:
    """In a process without the interpreter, as users run it."""
    pytest.importorskip("triton", reason="triton is not installed")
    code = (
        "import os, sys; os.environ.pop('TRITON_INTERPRET', None)\n"
        "import torch; from seg_node.kernels.build import choose_kernels\n"
        "from seg_node.core.types import ConfigError\n"
        "try: choose_kernels('triton', torch.device('cpu'))\n"
        "except ConfigError as error: print(error)\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "kernels is 'triton', which needs a CUDA device, not cpu; choose auto or torch\n"
    )
