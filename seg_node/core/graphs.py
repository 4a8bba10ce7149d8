"""Whole networks without gaps between launches: recorded once for each shape, then replayed.

A CUDA graph replays the launches of a function on the memory that they were recorded with. So its
inputs are copied into tensors that stay, and its results are copied out of tensors that stay:
frames never share any. All graphs share one pool of memory for what lies between, since only one
runs at a time and nothing is read from it after it.

What is recorded must not depend on the host: no lists made there, no numbers read there. Networks
on blocks keep to that by `core/block_graphs.py`. On a CPU there are no graphs; `Graphs` without
`captures` is all the rest of this, for tests.
"""

from __future__ import annotations

from functools import partial
import logging
import time
from typing import Any, Protocol, TYPE_CHECKING

import torch
from torch.overrides import handle_torch_function, has_torch_function

from seg_node.core.costs import MacCounter, PRICED
from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Run = Callable[..., tuple[Tensor, ...]]
    Work = Callable[[], tuple[Tensor, ...]]
    Key = tuple[str, tuple[tuple[object, ...], ...]]

LOG = logging.getLogger(__name__)

WARM_UP = 3
"""Runs before a function is recorded: kernels are chosen and compiled in them."""

MOST = 8
"""Graphs that are kept, the last used: each holds inputs and results, and images of many sizes
come only from those who change `input.scale` while driving."""


class Captured(Protocol):
    """Launches that were captured.

    Attributes:
        outputs: what they write, in tensors that stay.

    """

    outputs: tuple[Tensor, ...]

    def replay(self) -> None:
        """Launch them again, on the memory that they were captured with."""
        ...


class CaptureError(RuntimeError):
    """Work launches something that cannot be captured."""


class Captures(Protocol):
    """What captures launches."""

    def capture(self, work: Work) -> Captured:
        """Capture what work launches.

        Raises:
            CaptureError: it cannot be captured; it can still be run.

        """
        ...

    def clear(self) -> None:
        """Let go of memory that the captured share; none of them is replayed any more."""
        ...


class CudaCaptures:
    """CUDA graphs of a device, which share one pool of memory.

    Args:
        device: where work runs.

    """

    def __init__(self, device: torch.device) -> None:
        """Take no memory yet."""
        self._device = device
        self._pool: Any = None  # a handle whose type torch keeps to itself

    def capture(self, work: Work) -> Captured:
        """Capture what work launches, after some runs.

        Raises:
            CaptureError: torch or CUDA refuses.

        """
        with torch.cuda.device(self._device):
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            try:
                return _CudaGraph(work, self._pool)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as err:
                raise CaptureError(str(err)) from err

    def clear(self) -> None:
        """Let go of the pool."""
        self._pool = None


class _CudaGraph:
    """A CUDA graph of what work launches."""

    def __init__(self, work: Work, pool: Any) -> None:
        """Warm up on a stream of its own, as torch asks for, and capture."""
        here = torch.cuda.current_stream()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's stub
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work()
        here.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self.outputs = work()

    def replay(self) -> None:
        """Launch it."""
        self._graph.replay()


class Recorded:
    """A function on tensors that stay.

    Args:
        function: takes tensors and returns some; the same work for all tensors of these shapes.
        inputs: tensors to copy all inputs into; they hold the first.
        captures: what captures its launches; None for a function that is only run again.

    Attributes:
        macs: multiply-accumulates of one run.
        problem: why it is only run again, though it was to be captured; empty if it was.

    """

    def __init__(
        self, function: Run, inputs: tuple[Tensor, ...], captures: Captures | None
    ) -> None:
        """Run once, and capture."""
        self._work = partial(function, *inputs)
        self._inputs = inputs
        with MacCounter() as counter:
            self._outputs = self._work()
        self.macs: int = counter.macs
        self.problem = ""
        self._captured: Captured | None = None
        if captures is not None:
            try:
                self._captured = captures.capture(self._work)
                self._outputs = self._captured.outputs
            except CaptureError as err:
                self.problem = str(err)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the function makes of other inputs of the same shapes."""
        for kept, new in zip(self._inputs, inputs, strict=True):
            kept.copy_(new)
        if self._captured is None:
            for out, made in zip(self._outputs, self._work(), strict=True):
                out.copy_(made)
        else:
            self._captured.replay()
        return tuple(out.clone() for out in self._outputs)


class Graphs:
    """Functions of a device, recorded at their first run with inputs of new shapes.

    Args:
        captures: what captures launches there; None where functions are run again.
        required: whether a function that cannot be captured is refused, instead of being run again
            with a warning.

    """

    def __init__(self, captures: Captures | None = None, *, required: bool = False) -> None:
        """Record nothing yet."""
        self._captures = captures
        self._required = required
        self._recorded: dict[Key, Recorded] = {}
        self._inputs: dict[tuple[object, ...], Tensor] = {}

    @property
    def count(self) -> int:
        """How many functions are recorded by name."""
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
        return replay(partial(self.recorded, name, function, inputs), *inputs)

    def clear(self) -> None:
        """Forget all, and free their memory."""
        self._recorded.clear()
        self._inputs.clear()
        if self._captures is not None:
            self._captures.clear()

    def recorded(self, name: str, function: Run, inputs: tuple[Tensor, ...]) -> Recorded:
        """Return the record of a function for inputs of these shapes, made if there is none."""
        key = name, tuple(_form(x) for x in inputs)
        found = self._recorded.pop(key, None)
        self._recorded[key] = found or self.record(name, function, inputs)
        while len(self._recorded) > MOST:
            del self._recorded[next(iter(self._recorded))]
        return self._recorded[key]

    def record(self, name: str, function: Run, inputs: tuple[Tensor, ...]) -> Recorded:
        """Record a function, for a caller that keeps the record until `clear`.

        Raises:
            ConfigError: it cannot be captured, and that is required.

        """
        began_s = time.perf_counter()
        made = Recorded(
            function, tuple(map(self._kept, range(len(inputs)), inputs)), self._captures
        )
        if self._captures is not None:
            self._tell(name, inputs, made.problem, time.perf_counter() - began_s)
        return made

    def _tell(self, name: str, inputs: tuple[Tensor, ...], problem: str, took_s: float) -> None:
        shape = tuple(inputs[0].shape)
        if not problem:
            LOG.info("graph of %s for %s: %.1f s", name, shape, took_s)
            return
        msg = f"{name} for {shape} cannot be captured as a graph: {problem}"
        if self._required:
            msg = f"graphs is 'on', but {msg}; choose auto or off"
            raise ConfigError(msg)
        LOG.warning("%s; it is launched kernel by kernel", msg)

    def _kept(self, place: int, first: Tensor) -> Tensor:
        """Return the tensor that stays for an input; only one record runs at a time."""
        key = place, _form(first)
        if key not in self._inputs:
            self._inputs[key] = torch.empty_like(first)
        return self._inputs[key].copy_(first)


def _form(x: Tensor) -> tuple[object, ...]:
    return x.shape, x.stride(), x.dtype


def replay(record: Callable[[], Recorded], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Run what is recorded.

    Who counts multiply-accumulates sees one run, however often the function runs to be recorded.

    Args:
        record: returns the record, made at its first call.
        inputs: of the function.

    """
    if has_torch_function(inputs):
        found: tuple[Tensor, ...] = handle_torch_function(replay, inputs, record, *inputs)
        return found
    return record()(*inputs)


def _macs(record: Callable[[], Recorded], *_: Tensor) -> int:
    return record().macs


PRICED[replay] = _macs


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
    if not able or choice == "off":
        return None
    return Graphs(CudaCaptures(device), required=choice == "on")
