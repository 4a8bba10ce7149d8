"""Whole steps on a GPU at 1024x2048 in half precision, against dense as a CUDA graph.

    python -m benchmarks.gpu_step --json benchmarks/results/gpu_step.json

Weights are those of swiftnet18 (width 1.0); its half-resolution branch is the same network with an
untrained fusion, and blocks of segblocks are ranked by their place: speed does not ask what was
learned. Every step begins with the bytes of a frame in the memory of the host and ends with bytes
of classes and confidence there. The frames are those of a synthetic street.

Dense is captured once: upload, network, mask and download as one graph, in the faster of cuDNN's
and torch.compile's form. Modes run as the node runs them, whole frames as graphs, with both kinds
of `kernels`; beside them once without graphs, or with few numbers of blocks.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from pathlib import Path
import sys
import time
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import torch

from benchmarks.gpu_timing import (
    by_turns,
    captured,
    device_facts,
    ratios,
    require_gpu,
    summary,
    write,
)
from seg_node.core.budgeted import Budgeted
from seg_node.core.config import Config
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import Interval, Ranked, UNTRAINED
from seg_node.core.scores import Middle
from seg_node.core.types import Action, Frame
from seg_node.data.street import Street
from seg_node.kernels import frames as frame_kernels
from seg_node.nets.build import build_kernels, load_model, Model
from seg_node.nets.low import LowBranch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIZE = (1024, 2048)
RENDERED = (512, 256)
RATE_HZ = 15.0

SETTINGS: dict[str, dict[str, Any]] = {
    "adaptive": {"mode": "adaptive", "budget.compute": 0.15},
    "arseg": {"mode": "arseg", "keyframe_interval": 12},
    "segblocks": {"mode": "segblocks", "policy.high_fraction": 0.2},
    "warp": {"mode": "warp", "keyframe_interval": 12},
    "dense": {"mode": "dense"},
}
FORMS: dict[str, dict[str, Any]] = {
    "triton": {"kernels": "triton"},
    "torch": {"kernels": "torch"},
    "launches": {"kernels": "triton", "graphs": "off"},
}
GOALS = {"adaptive": 2.5, "arseg": 2.5, "segblocks": 1.5}


def street_frames(count: int) -> list[NDArray[np.uint8]]:
    """Return consecutive frames of a street, uint8 [H, W, 3]; enlarged, for they render slowly."""
    street = Street(3, *RENDERED, RATE_HZ)
    small = (street.picture(index)[0] for index in range(count))
    return [np.asarray(cv2.resize(image, SIZE[::-1]), np.uint8) for image in small]


class DenseGraph:
    """The dense network from bytes to bytes as one graph.

    Args:
        net: in half precision and channels_last, on the GPU.
        stride: image pixels per logit.

    """

    def __init__(self, net: Callable[[torch.Tensor], torch.Tensor], stride: int) -> None:
        """Make the buffers and capture."""
        self._net, self._stride = net, stride
        self._input = torch.empty((*SIZE, 3), dtype=torch.uint8, pin_memory=True)
        self._image = torch.empty((*SIZE, 3), dtype=torch.uint8, device="cuda")
        self._outputs = [torch.empty(SIZE, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self._replay = captured(self._run)

    def _run(self) -> None:
        self._image.copy_(self._input, non_blocking=True)
        logits = self._net(self._image.permute(2, 0, 1)[None])
        planes = frame_kernels.decide_planes(logits, self._stride, SIZE)
        for out, plane in zip(self._outputs, planes, strict=True):
            out.copy_(plane, non_blocking=True)

    def step(self, image: NDArray[np.uint8]) -> None:
        """Segment a frame."""
        self._input.numpy()[:] = image
        self._replay()
        torch.cuda.current_stream().synchronize()


def runs() -> list[tuple[str, str]]:
    """Return all modes in all forms."""
    return [(mode, form) for mode in SETTINGS for form in FORMS]


def build_segmenter(model: Model, mode: str, form: str) -> Segmenter:
    """Build a pipeline of one mode."""
    config = Config(device="cuda", precision="fp16").updated({**SETTINGS[mode], **FORMS[form]})
    policies = {
        **UNTRAINED,
        "segblocks": Ranked(Middle()),
        "arseg": Interval(Action.LOW),
        "adaptive": Budgeted(),
    }
    chosen = build_kernels(model, config)
    return Segmenter(model.net, policies, config, model.low, kernels=chosen)


def open_model() -> Model:
    """Load swiftnet18 and put a half-resolution branch beside it."""
    model = load_model("swiftnet18")
    low = LowBranch(copy.deepcopy(model.net)).eval().requires_grad_(requires_grad=False)
    return Model(model.net, model.manifest, None, low)


def timed(step: Callable[[Any], object], image: Any) -> float:
    """Return milliseconds of one step, to the end of what it started."""
    start = time.perf_counter()
    step(image)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def measure(pictures: list[NDArray[np.uint8]], warm_up: int) -> dict[str, Any]:
    """Step through the frames, all forms by turns."""
    segmenters = {
        f"{mode} {form}": build_segmenter(open_model(), mode, form) for mode, form in runs()
    }
    for segmenter in segmenters.values():
        segmenter.warm_up(*SIZE)  # as the node does in configuring: what is recorded, and tuned
    held: dict[str, int] = dict.fromkeys(segmenters, 0)
    net = open_model().net.to("cuda", torch.float16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
    compiled = torch.compile(net, mode="max-autotune-no-cudagraphs", dynamic=False)
    graphs = {"cudnn": DenseGraph(net, net.stride), "compiled": DenseGraph(compiled, net.stride)}
    ms: dict[str, list[float]] = {name: [] for name in (*graphs, *segmenters)}
    costs: dict[str, list[float]] = {name: [] for name in segmenters}
    for index, image in enumerate(pictures):
        counts = index >= warm_up
        for name, graph in graphs.items():
            found = timed(graph.step, image)
            if counts:
                ms[name].append(found)
        frame = Frame(image, round(index * 1e9 / RATE_HZ))
        for name, segmenter in segmenters.items():
            start = time.perf_counter()
            result = segmenter.step(frame)
            found = (time.perf_counter() - start) * 1e3
            if counts:
                ms[name].append(found)
                costs[name].append(result.report.macs / result.report.dense_macs)
                assert result.report.memory is not None
                held[name] = max(held[name], result.report.memory.held_bytes)
    fastest = min(graphs, key=lambda name: summary(ms[name])["median"])
    modes = {
        name: {
            "ms": summary(ms[name]),
            "speedup_vs_dense": ratios(ms[fastest], ms[name]),
            "mean_speedup": round(sum(ms[fastest]) / sum(ms[name]), 3),
            "macs_saved": round(1 - float(np.mean(costs[name])), 4),
            "remembered_mb": round(held[name] / 1e6, 1),
        }
        for name in segmenters
    }
    dense = {name: summary(ms[name]) for name in graphs}
    return {"dense_ms": dense, "fastest_dense": fastest, "modes": modes, "goals": GOALS}


def measure_ends(image: NDArray[np.uint8], classes: int, rounds: int) -> dict[str, Any]:
    """Time what comes before and after the network, on the device alone."""
    pixels = torch.from_numpy(image).cuda()
    mean, std = (torch.full((3,), value, device="cuda") for value in (104.0, 76.0))
    logits = torch.randn(1, classes, SIZE[0] // 4, SIZE[1] // 4, device="cuda").half()
    logits = logits.contiguous(memory_format=torch.channels_last)
    front = partial(frame_kernels.prepare, pixels, mean, std, torch.float16)
    back = partial(frame_kernels.decide_planes, logits, 4, SIZE)
    runs: dict[str, list[Callable[[], object]]] = {
        "front": [captured(front)],
        "back": [captured(back)],
    }
    return {name: summary(values) for name, values in by_turns(runs, rounds).items()}


def main() -> None:
    """Measure, print and optionally write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--warm-up", type=int, default=24, help="frames that do not count")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    require_gpu("benchmarks/gpu_step.py")
    pictures = street_frames(args.frames + args.warm_up)
    with torch.inference_mode():
        results = {
            **device_facts(),
            "size": SIZE,
            "frames": args.frames,
            "ends_ms": measure_ends(pictures[0], 19, 200),
            **measure(pictures, args.warm_up),
        }
    write(results, None)
    if args.json:
        write(results, args.json)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
