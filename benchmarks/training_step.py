"""Time a training step in both layouts: training_step.py NETWORK ... --json FILE.

Forward, loss, backward and update of a batch of 8 random 448x320 images, in `contiguous` and
`channels_last` layout by turns; medians over the repeats. A NETWORK is one of seg_node's or
`module:function`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import platform
import statistics
import time

import torch

from seg_node.nets.build import build_network
from seg_node.train.batches import Batch
from seg_node.train.losses import segmentation_loss
from seg_node.train.optimizers import make_optimizer
from seg_node.train.settings import SegmentTraining

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WARM_UP = 2


def time_layouts(name: str, repeats: int) -> dict[str, float]:
    """Return median seconds of a step in each layout."""
    config = SegmentTraining()
    classes = 11
    height, width = config.crop_height, config.crop_width
    images = torch.randint(0, 256, (config.batch, 3, height, width), dtype=torch.uint8)
    labels = torch.randint(0, classes, (config.batch, height, width))
    weights = torch.ones(classes)
    nets = {
        layout: build_network(name, classes).train().to(memory_format=memory)  # type: ignore[call-overload]  # torch's stub lacks the keyword
        for layout, memory in LAYOUTS.items()
    }
    optimizers = {layout: make_optimizer(net, config) for layout, net in nets.items()}
    seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    for repeat in range(WARM_UP + repeats):
        for layout, net in nets.items():
            start = time.perf_counter()
            batch = Batch(
                images.contiguous(memory_format=LAYOUTS[layout]), labels, None, low=False
            )
            loss = segmentation_loss(net(batch.images), batch, weights, config, repeat)
            optimizers[layout].zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            optimizers[layout].step()
            if repeat >= WARM_UP:
                seconds[layout].append(time.perf_counter() - start)
    return {layout: round(statistics.median(times), 3) for layout, times in seconds.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    found = {name: time_layouts(name, args.repeats) for name in args.networks}
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    results = {"machine": platform.machine(), **facts, "seconds_per_step": found}
    args.json.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
