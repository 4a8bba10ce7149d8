"""Whole networks without gaps between launches: recorded once for each shape, then replayed.

A CUDA graph replays the launches of a function on the memory that they were recorded with. So its
inputs are copied into tensors that stay, and its results are copied out of tensors that stay:
frames never share any. All graphs share one pool of memory for what lies between, since only one
runs at a time and nothing is read from it after it.

What is recorded must not depend on the host: no lists made there, no numbers read there. That
holds for whole frames, not for blocks (docs/gpu.md says where not). On a CPU there are no graphs;
`Graphs` without `capture` is all the rest of this, for tests.
"""

from __future__ import annotations

import logging
import time
from typing import Any, TYPE_CHECKING

import torch
from torch.overrides import handle_torch_function, has_torch_function

from seg_node.core.costs import MacCounter, PRICED
from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Run = Callable[..., tuple[Tensor, ...]]
    Key = tuple[str, tuple[tuple[object, ...], ...]]

LOG = logging.getLogger(__name__)

WARM_UP = 3
"""Runs before a function is recorded: kernels are chosen and compiled in them."""

MOST = 8
"""Graphs that are kept, the last used: each holds inputs and results, and images of many sizes
come only from those who change `input.scale` while driving."""


class Recorded:
    """A function on tensors that stay.

    Args:
        function: takes tensors and returns some; the same work for all tensors of these shapes.
        inputs: the first it is to take.
        pool: memory that graphs share; None for a function that is only run again.

    Attributes:
        macs: multiply-accumulates of one run.

    """

    def __init__(self, function: Run, inputs: tuple[Tensor, ...], pool: Any) -> None:
        """Warm up, and record where there is a pool."""
        self._function = function
        self._inputs = tuple(torch.empty_like(x).copy_(x) for x in inputs)
        self._graph: torch.cuda.CUDAGraph | None = None
        with MacCounter() as counter:
            self._outputs = self._warm_up() if pool else function(*self._inputs)
        self.macs: int = counter.macs // (WARM_UP if pool else 1)
        if pool is not None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=pool):
                self._outputs = function(*self._inputs)

    def _warm_up(self) -> tuple[Tensor, ...]:
        """Run on a stream of its own, as torch asks for before a capture."""
        here = torch.cuda.current_stream()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's stub
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            outputs = [self._function(*self._inputs) for _ in range(WARM_UP)]
        here.wait_stream(aside)
        return outputs[-1]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the function makes of other inputs of the same shapes."""
        for kept, new in zip(self._inputs, inputs, strict=True):
            kept.copy_(new)
        if self._graph is None:
            for out, made in zip(self._outputs, self._function(*self._inputs), strict=True):
                out.copy_(made)
        else:
            self._graph.replay()
        return tuple(out.clone() for out in self._outputs)


class Graphs:
    """Functions of a device, recorded at their first run with inputs of new shapes.

    Args:
        device: where they run.
        capture: whether as CUDA graphs; otherwise they are run again.

    """

    def __init__(self, device: torch.device, *, capture: bool) -> None:
        """Record nothing yet."""
        self._device = device
        self._capture = capture
        self._pool: Any = None  # a handle whose type torch keeps to itself
        self._recorded: dict[Key, Recorded] = {}

    @property
    def count(self) -> int:
        """How many are recorded."""
        return len(self._recorded)

    def run(self, name: str, function: Run, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run a function, recorded.

        Args:
            name: of the function; one name always means the same.
            function: see `Recorded`.
            inputs: on the device.

        Returns:
            what it returns, in tensors of their own.

        """
        # Whoever counts multiply-accumulates sees one run, however often it is warmed up.
        return _counted(self, name, function, *inputs)

    def clear(self) -> None:
        """Forget all, and free their memory."""
        self._recorded.clear()
        self._pool = None

    def recorded(self, name: str, function: Run, inputs: tuple[Tensor, ...]) -> Recorded:
        """Return the record of a function for inputs of these shapes, made if there is none."""
        key = name, tuple((x.shape, x.stride(), x.dtype) for x in inputs)
        found = self._recorded.pop(key, None)
        self._recorded[key] = found or self._record(name, function, inputs)
        while len(self._recorded) > MOST:
            del self._recorded[next(iter(self._recorded))]
        return self._recorded[key]

    def _record(self, name: str, function: Run, inputs: tuple[Tensor, ...]) -> Recorded:
        if not self._capture:
            return Recorded(function, inputs, None)
        began_s = time.perf_counter()
        with torch.cuda.device(self._device):
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            made = Recorded(function, inputs, self._pool)
        took_s = time.perf_counter() - began_s
        LOG.info("CUDA graph of %s for %s: %.1f s", name, tuple(inputs[0].shape), took_s)
        return made


def _counted(graphs: Graphs, name: str, function: Run, *inputs: Tensor) -> tuple[Tensor, ...]:
    if has_torch_function(inputs):
        found: tuple[Tensor, ...] = handle_torch_function(
            _counted, inputs, graphs, name, function, *inputs
        )
        return found
    return graphs.recorded(name, function, inputs)(*inputs)


def _macs(graphs: Graphs, name: str, function: Run, *inputs: Tensor) -> int:
    recorded: Recorded = graphs.recorded(name, function, inputs)
    return recorded.macs


PRICED[_counted] = _macs


def choose_graphs(choice: str, device: torch.device, *, engines: bool = False) -> Graphs | None:
    """Return the graphs of a device.

    Args:
        choice: value of the setting `graphs`: auto, on or off.
        device: where the network runs.
        engines: whether it runs as engines of TensorRT, which launch themselves.

    Returns:
        None where launches stay single.

    Raises:
        ConfigError: they were asked for on a CPU, or of engines.

    """
    able = device.type == "cuda" and not engines
    if choice == "on" and not able:
        what = (
            "torch to compute, not device tensorrt" if engines else f"a CUDA device, not {device}"
        )
        msg = f"graphs is 'on', which needs {what}; choose auto or off"
        raise ConfigError(msg)
    return Graphs(device, capture=True) if able and choice != "off" else None
