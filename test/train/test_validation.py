"""The score shown during training is the score of `seg_node evaluate`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seg_node.core.masks import decide
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.train.augment import Picture
from seg_node.train.resolution import merge_norms, ResolutionNorm, split_norms
from seg_node.train.validation import validate
from test.train.samples import network


def test_it_agrees_with_evaluate() -> None:
    rng = np.random.default_rng(0)
    net = network().eval()
    pictures, matrix = [], ConfusionMatrix(11)
    for _ in range(3):
        image = rng.integers(0, 256, (50, 70, 3), np.uint8)
        labels = rng.integers(0, 11, (50, 70), np.uint8)
        labels[:5] = 255
        pictures.append(Picture(image, labels))
        with torch.no_grad():
            logits = net(torch.from_numpy(image).permute(2, 0, 1)[None])
        matrix.update(labels, decide(logits, 4, (50, 70))[0])
    expected = matrix.dataset_miou()
    assert validate(net, pictures, 11) == pytest.approx(expected, abs=0.002)
    assert validate(net, pictures, 11, low=True) != validate(net, pictures, 11)


def test_half_resolution_is_scored_with_its_own_norms() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    labels = rng.integers(0, 11, (48, 64), np.uint8)
    net = split_norms(network()).eval()
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, ResolutionNorm):
                norm.low.bias.normal_()
    picture = [Picture(image, labels)]
    whole = validate(net, picture, 11)
    merged = merge_norms(net, low=True).eval()
    assert validate(net, picture, 11, low=True) == validate(merged, picture, 11, low=True)
    assert validate(net, picture, 11) == whole
    assert validate(merged, picture, 11, low=True) != validate(
        merge_norms(net, low=False), picture, 11, low=True
    )
