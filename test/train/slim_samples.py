"""What tests of slimming share: small settings, a lively network, frames of known complexity."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from seg_node.nets.build import build_network
from seg_node.nets.swiftnet import SwiftNet
from seg_node.train.augment import Picture
from seg_node.train.batches import Pools
from seg_node.train.complexity import score_pictures
from seg_node.train.slim_batches import SlimBatchMaker
from seg_node.train.slim_schedule import plan, Schedule, slimmed_data
from seg_node.train.slim_settings import SlimTraining

TINY = SlimTraining(
    steps=4,
    batch=4,
    crop_width=64,
    crop_height=64,
    warmup=1,
    checkpoint_every=2,
    validate_every=100,
    cuts=2,
    first_cut=0.25,
    last_cut=0.75,
    training_macs=0.7,
    inference_macs=0.6,
    average=0.5,
)


def frames(count: int = 6, seed: int = 0) -> list[Picture]:
    """Return pictures of 96x80 pixels, from a plain one to one of finest checks."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        side = 2 ** (count - index)
        rows, columns = np.mgrid[:80, :96]
        labels = ((rows // side + columns // side) % 2).astype(np.uint8)
        noise = rng.integers(0, 8, (80, 96, 3))
        made.append(Picture((labels[:, :, None] * 150 + 40 + noise).astype(np.uint8), labels))
    return made


def maker(config: SlimTraining = TINY, schedule: Schedule | None = None) -> SlimBatchMaker:
    """Return the batches of a run on `frames`."""
    schedule = schedule or plan(config)
    pictures = frames()
    names = [str(index) for index in range(len(pictures))]
    data = slimmed_data(config, schedule, score_pictures(names, pictures, config.complexity))
    return SlimBatchMaker(Pools(pictures), config, data, schedule.data_steps)


def settled(net: nn.Module) -> nn.Module:
    """Give every BatchNorm of a network other numbers than fresh ones, in place."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.weight.data = torch.rand(size, generator=generator) + 0.5
            module.bias.data = torch.randn(size, generator=generator) * 0.3
            module.running_mean = torch.randn(size, generator=generator) * 0.1
            module.running_var = torch.rand(size, generator=generator) + 0.5
    return net


def network(classes: int = 2, seed: int = 0) -> SwiftNet:
    """Return a small SwiftNet with random weights, all layers wide enough to be slimmed."""
    torch.manual_seed(seed)
    net = SwiftNet(classes, 0.375)
    settled(net)
    return net


def shipped(name: str, classes: int = 5) -> nn.Module:
    """Return a network by name with random weights."""
    torch.manual_seed(3)
    return settled(build_network(name, classes))
