"""How the benchmarks of the GPU measure: captured graphs, the device's events, by turns."""

from __future__ import annotations

from contextlib import suppress
import json
import platform
import statistics
import sys
from typing import Any, TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

WARM_UP = 3
"""Runs before a graph is captured: kernels are chosen and compiled in them."""

_NEEDED = "needs a CUDA device, and torch sees none here; see docs/gpu.md"


def require_gpu(script: str) -> torch.device:
    """Return the GPU; end the process with one sentence where there is none."""
    if not torch.cuda.is_available():
        sys.exit(f"{script} {_NEEDED}")
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda")


def device_facts() -> dict[str, Any]:
    """Return what a result has to say of the machine."""
    versions: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch's stub
        "torch": torch.__version__,
        "python": platform.python_version(),
        "triton": None,
    }
    with suppress(ImportError):
        import triton

        versions["triton"] = triton.__version__
    return versions


def captured(run: Callable[[], object]) -> Callable[[], None]:
    """Return a function that replays what a function does on the GPU, without launch gaps."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's stub
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], None] = graph.replay
    return replay


def device_ms(run: Callable[[], object]) -> float:
    """Return milliseconds that the GPU takes, by its own events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's stub
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def by_turns(
    runs: Mapping[str, list[Callable[[], object]]], rounds: int
) -> dict[str, list[float]]:
    """Time everything by turns, so that whatever else the GPU does hits all alike.

    Args:
        runs: by name, the same work on different data, which takes turns too.
        rounds: how often each is timed, after one that does not count.

    Returns:
        milliseconds, by name.

    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, variants in runs.items():
            ms = device_ms(variants[turn % len(variants)])
            if turn:
                found[name].append(ms)
    return found


def summary(values: list[float]) -> dict[str, float]:
    """Return the median and the middle half of some values."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 4), "low": round(low, 4), "high": round(high, 4)}


def ratios(above: list[float], below: list[float]) -> dict[str, float]:
    """Return the summary of the ratios within each round."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def write(results: Mapping[str, Any], path: Path | None) -> None:
    """Write results as JSON, to a file if there is a path, else to the output."""
    text = json.dumps(results, indent=2) + "\n"
    if path is None:
        sys.stdout.write(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
