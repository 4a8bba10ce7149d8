"""`seg_node train segment`: from named data to a model file with its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from seg_node.core.types import CAMVID_CLASSES
from seg_node.data.datasets import open_source
from seg_node.nets.build import build_network, Manifest, save_weights
from seg_node.train.segmenter import SegmentTrainer
from seg_node.train.settings import SegmentTraining

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def train_segment(
    data: Sequence[str], *, network: str, steps: int, seed: int, out: Path
) -> Manifest:
    """Train, or continue, and write `<network>.safetensors` and `<network>.json` into `out`.

    The manifest written here lacks the terms of the data, the commit and the scores: what is
    true of them is for the one who releases the model to say.

    Args:
        data: named data with labels; their `train` split. Streets are always mixed in.
        network: key of `nets.build.NETWORKS`.
        steps: optimiser steps in all.
        seed: seed of weights, batches and augmentation.
        out: folder of the run, with checkpoint and log.

    Raises:
        DataError: the data cannot be opened.
        ModelError: unknown network.
        ConfigError: `out` holds a run with other settings.

    """
    samples = [sample for spec in data for sample in open_source(spec, split="train")]
    size = samples[0].frame.image.shape
    torch.manual_seed(seed)
    net = build_network(network, len(CAMVID_CLASSES))
    config = SegmentTraining(steps=steps, seed=seed)
    trained = SegmentTrainer(net, samples, config, out).run()
    file = f"{network}.safetensors"
    # Paths differ between machines; the kind of data is what matters to a reader.
    kinds = [spec.partition(":")[0] for spec in data]
    command = (
        f"seg_node train segment --data {','.join(f'{k}:DIR' for k in kinds)} "
        f"--model {network} --steps {steps} --seed {seed} --out DIR"
    )
    manifest = Manifest(
        name=network,
        network=network,
        file=file,
        sha256=save_weights(trained, out / file),
        classes=CAMVID_CLASSES,
        training_size=(size[1], size[0]),
        data=f"{', '.join(kinds)} (train), synthetic street",
        terms="",
        command=command,
        commit="",
        scores={},
    )
    manifest.write(out)
    return manifest
