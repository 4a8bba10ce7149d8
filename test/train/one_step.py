"""Run under torchrun: one step shared between processes, against the same step in one.

Prints the largest relative difference of any gradient and of any BatchNorm statistic.
"""

from __future__ import annotations

import copy
import json

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from seg_node.nets.swiftnet import SwiftNet
from seg_node.train.augment import Picture
from seg_node.train.batches import BatchMaker, Pools
from seg_node.train.distributed import join, leave, share_batchnorm, SharedBatchNorm
from seg_node.train.losses import segmentation_loss
from seg_node.train.settings import SegmentTraining


def pictures() -> list[Picture]:
    """Return four different noisy pictures, one of which has no label at all."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(4):
        labels = rng.integers(0, 3, (64, 64), np.uint8)
        labels[:, : 16 * index] = 255
        # Only one has a teacher: a process may well draw none.
        soft = rng.integers(0, 128, (16, 16, 3), np.uint8) if index == 0 else None
        made.append(Picture(rng.integers(0, 256, (64, 64, 3), np.uint8), labels, soft))
    return made


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    scale = max(float(theirs.abs().max()), 1e-12)
    return float((ours - theirs).abs().max()) / scale


def main() -> None:
    """Compare and print."""
    config = SegmentTraining(batch=4, crop_width=64, crop_height=64)
    weights = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    torch.manual_seed(0)
    net = SwiftNet(3, 0.125).double()
    alone = copy.deepcopy(net)
    whole = BatchMaker(Pools(pictures(), soft_classes=3), config)(0)
    segmentation_loss(alone(whole.images), whole, weights, config).backward()  # type: ignore[no-untyped-call]  # torch's stub

    share = join()
    model = DistributedDataParallel(share_batchnorm(net))
    part = BatchMaker(Pools(pictures(), soft_classes=3), config, share=share)(0)
    segmentation_loss(model(part.images), part, weights, config).backward()  # type: ignore[no-untyped-call]  # torch's stub
    norm = SharedBatchNorm(2)
    low = norm(torch.ones(2, 2, 3, 3, dtype=torch.bfloat16))
    if share.rank == 0:
        pairs = zip(net.parameters(), alone.parameters(), strict=True)
        grads = [difference(p.grad, q.grad) for p, q in pairs if p.grad is not None is not q.grad]
        buffers = zip(net.buffers(), alone.buffers(), strict=True)
        norms = [difference(p.double(), q.double()) for p, q in buffers]
        kinds = {str(norm.weight.dtype), str(low.dtype)}
        found: dict[str, object] = {
            "gradient": max(grads),
            "buffer": max(norms),
            "count": len(grads),
        }
        found |= {"kinds": sorted(kinds)}
        print(json.dumps(found))  # noqa: T201 - read by the test
    leave()


if __name__ == "__main__":
    main()
