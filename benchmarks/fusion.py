"""Times the fusion of LOW features with memory, and its attention against two other ways.

    PYTHONPATH=. python benchmarks/fusion.py --threads 1 --json benchmarks/results/fusion.json

The first table is local attention on some rows of a plane, in microseconds per pixel: `lines`, as
`core.attention` runs it; `tiles` of 4x4 and 8x8 pixels with the keys around them gathered, through
torch's fused attention with a mask; `plain`, with 49 copies of keys and values. `products` is how
often a way multiplies, over the 2 * 49 * C per pixel that are needed.

The second table is `Fusion` on whole planes, in milliseconds: `forward`, `masked` (a tenth of the
memory not valid) and `training` (forward and backward).

Each number is the least of several runs in turn. `cpu` is the time on the processor of this
thread, which other work on the machine hardly changes; `wall` is what a clock shows, and is the
only one where there are more threads.
"""

from __future__ import annotations

import argparse
from functools import partial
import json
import os
from pathlib import Path
import platform
import time
from typing import Any, TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from seg_node.core.attention import local_attention
from seg_node.core.fusion import Fusion, macs, WINDOW

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PLANES = {
    "swiftnet18 480x360": (128, 90, 120),
    "swiftnet18 960x720": (128, 180, 240),
    "swiftnet18-half 480x360": (64, 90, 120),
    "swiftnet18-half 960x720": (64, 180, 240),
    "bisenet18 960x720": (256, 90, 120),
    "pspnet18 960x720": (64, 720, 960),
}
"""Channels, height and width of the features of each network and image size (width x height)."""

ROWS = 16
TILES = (4, 8)
TRAINED = 64 * 180 * 240
"""Largest plane, in numbers, whose backward pass is timed."""


def random_planes(count: int, channels: int, height: int, width: int) -> tuple[Tensor, ...]:
    """Return planes in channels_last, as the networks leave them."""
    return torch.randn(count, 1, height, width, channels).permute(0, 1, 4, 2, 3).unbind(0)


def reach_of_tiles(side: int) -> Tensor:
    """Return what to add to the logits of a tile: 0 inside the windows, minus infinity outside."""
    query = torch.arange(side)[:, None]
    key = torch.arange(side + WINDOW - 1)[None]
    near = (key >= query) & (key < query + WINDOW)
    both = (near[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1)
    return torch.zeros(both.shape).masked_fill(~both, -torch.inf)


def in_tiles(base: Tensor, operands: tuple[Tensor, ...], reach: Tensor, side: int) -> Tensor:
    """Attend in tiles of side x side queries; height and width are multiples of the side."""
    c, h, w = base.shape[1:]
    span = side + WINDOW - 1

    def gathered(plane: Tensor) -> Tensor:
        padded = functional.pad(plane[0].permute(1, 2, 0), (0, 0, *(WINDOW // 2,) * 4))
        tiles = padded.unfold(0, span, side).unfold(1, span, side)
        return tiles.permute(0, 1, 3, 4, 2).reshape(-1, 1, span * span, c)

    queries, keys, values = operands
    cut = queries[0].permute(1, 2, 0).view(h // side, side, w // side, side, c)
    attended = functional.scaled_dot_product_attention(
        cut.transpose(1, 2).reshape(-1, 1, side * side, c),
        *(gathered(keys), gathered(values)),
        attn_mask=reach,
        scale=1.0,
    )
    whole = attended.view(h // side, w // side, side, side, c).transpose(1, 2).reshape(h, w, c)
    return base + whole.permute(2, 0, 1)[None]


def with_copies(base: Tensor, operands: tuple[Tensor, ...]) -> Tensor:
    """Attend plainly, with copies of keys and values for each pixel of the window."""
    c, h, w = base.shape[1:]
    queries, keys, values = operands
    copies = [
        functional.unfold(plane, WINDOW, padding=WINDOW // 2).view(c, -1, h * w)
        for plane in (keys, values)
    ]
    weights = torch.softmax((queries.reshape(c, 1, h * w) * copies[0]).sum(0), 0)
    return base + (weights * copies[1]).sum(1).view_as(base)


def timed(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, dict[str, float]]:
    """Return the least milliseconds of each run; the runs take turns, the first does not count."""
    best: dict[str, dict[str, float]] = {}
    end = time.perf_counter() + seconds
    turn = 0
    while turn < 2 or time.perf_counter() < end:  # noqa: PLR2004 - one that counts
        for name, run in runs.items():
            cpu, wall = time.thread_time(), time.perf_counter()
            run()
            found = {"cpu": time.thread_time() - cpu, "wall": time.perf_counter() - wall}
            if turn:
                kept = best.setdefault(name, found)
                best[name] = {kind: min(kept[kind], ms) for kind, ms in found.items()}
        turn += 1
    return {name: {kind: s * 1e3 for kind, s in found.items()} for name, found in best.items()}


def measure_attention(channels: int, width: int, seconds: float) -> dict[str, Any]:
    """Time the ways to attend, on some rows."""
    base, *others = random_planes(4, channels, ROWS, width)
    operands = (others[0], others[1], others[2])
    runs: dict[str, Callable[[], Tensor]] = {
        "lines": partial(local_attention, base, operands, None, WINDOW),
        "plain": partial(with_copies, base, operands),
    }
    products = {"lines": 1.0, "plain": 1.0}
    for side in TILES:
        runs[f"tiles {side}"] = partial(in_tiles, base, operands, reach_of_tiles(side), side)
        products[f"tiles {side}"] = (side + WINDOW - 1) ** 2 / WINDOW**2
    with torch.inference_mode():
        for run in runs.values():
            torch.testing.assert_close(run(), runs["plain"](), rtol=1e-3, atol=1e-3)
        found = timed(runs, seconds)
    ways = {
        name: {
            **{kind: round(ms * 1e3 / ROWS / width, 3) for kind, ms in best.items()},
            "products": round(products[name], 2),
        }
        for name, best in found.items()
    }
    return {"channels": channels, "rows": ROWS, "width": width, "us_per_pixel": ways}


def train_once(net: Fusion, low: Tensor, memory: Tensor) -> None:
    """Run forward and backward."""
    net(low, memory).sum().backward()


def measure_fusion(name: str, seconds: float) -> dict[str, Any]:
    """Time the module on the planes of one network and image size."""
    channels, height, width = PLANES[name]
    net = Fusion(channels)
    low, memory = random_planes(2, channels, height, width)
    valid = torch.rand(1, 1, height, width) > 0.1  # noqa: PLR2004 - a tenth
    with torch.inference_mode():
        runs = {"forward": partial(net, low, memory), "masked": partial(net, low, memory, valid)}
        found = timed(runs, seconds)
    if low.numel() <= TRAINED:
        found |= timed({"training": partial(train_once, net, low, memory)}, seconds)
    return {
        "planes": name,
        "channels": channels,
        "height": height,
        "width": width,
        "gmac": round(macs((height, width), channels) / 1e9, 4),
        "ms": {
            run: {kind: round(ms, 1) for kind, ms in best.items()} for run, best in found.items()
        },
    }


def measure(seconds: float) -> dict[str, Any]:
    """Run everything, printing on the way."""
    facts: dict[str, Any] = {
        "what": "fusion of LOW features with memory: attention in us per pixel, module in ms",
        "device": f"cpu, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_before": round(os.getloadavg()[0], 2),
        "attention": [],
        "fusion": [],
    }
    for channels, width in sorted({(channels, width) for channels, _, width in PLANES.values()}):
        facts["attention"].append(measure_attention(channels, width, seconds))
        print(facts["attention"][-1], flush=True)
    for name in PLANES:
        facts["fusion"].append(measure_fusion(name, seconds))
        print(facts["fusion"][-1], flush=True)
    return facts


def main() -> None:
    """Measure, print and optionally write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="for each line of the tables")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = measure(args.seconds)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
