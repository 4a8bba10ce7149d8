"""Small pictures to train on: a dark left half is class 0, a bright right half class 1."""

from __future__ import annotations

import numpy as np
import torch

from seg_node.nets.swiftnet import SwiftNet
from seg_node.train.augment import Picture
from seg_node.train.batches import BatchMaker, Pools
from seg_node.train.settings import SegmentTraining

TINY = SegmentTraining(
    steps=6,
    batch=2,
    crop_width=64,
    crop_height=64,
    warmup=2,
    checkpoint_every=3,
    validate_every=3,
)


def halves(count: int = 3, *, soft: bool = False) -> list[Picture]:
    """Return `count` pictures of 96x80 pixels, with exact soft labels if asked for."""
    image = np.full((80, 96, 3), 30, np.uint8)
    image[:, 48:] = 220
    labels = np.zeros((80, 96), np.uint8)
    labels[:, 48:] = 1
    taught = np.zeros((20, 24, 11), np.uint8)
    taught[:, :12, 0] = taught[:, 12:, 1] = 255
    return [Picture(image, labels, taught if soft else None) for _ in range(count)]


def batches(config: SegmentTraining = TINY) -> BatchMaker[SegmentTraining]:
    """Return a maker of batches of `halves`."""
    return BatchMaker(Pools(halves()), config)


def network(seed: int = 0) -> SwiftNet:
    """Return a small network with random weights."""
    torch.manual_seed(seed)
    return SwiftNet(11, 0.125)
