"""What a run needs: the model, its segmenter, and a description of the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import AllHigh
from seg_node.nets.build import load_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from seg_node.core.config import Config
    from seg_node.core.types import StepResult
    from seg_node.data.datasets import Sample
    from seg_node.nets.build import Manifest


@dataclass(frozen=True)
class Session:
    """A loaded model ready to step.

    Attributes:
        segmenter: the pipeline.
        manifest: the model that it runs.
        config: settings in force.
        device: device, number format and threads, in words.

    """

    segmenter: Segmenter
    manifest: Manifest
    config: Config
    device: str


def open_session(config: Config) -> Session:
    """Load the model of a config and build its pipeline.

    Raises:
        ModelError: the model cannot be loaded.
        ConfigError: the device or precision is not to be had here.

    """
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load_model(config.model)
    segmenter = Segmenter(model.net, AllHigh(), config)
    dtype = str(segmenter.compute.dtype).removeprefix("torch.")
    device = f"{segmenter.compute.device} {dtype}"
    if segmenter.compute.device.type == "cpu":
        device += f", {torch.get_num_threads()} threads"
    else:
        device += f", {torch.cuda.get_device_name(segmenter.compute.device)}"
    return Session(segmenter, model.manifest, config, device)


def steps(samples: Iterable[Sample], session: Session) -> Iterator[tuple[Sample, StepResult]]:
    """Yield each frame with its result; a new size is warmed up first, so times are honest."""
    size: tuple[int, ...] = ()
    for sample in samples:
        if sample.frame.image.shape != size:
            size = sample.frame.image.shape
            session.segmenter.warm_up(size[0], size[1])
        yield sample, session.segmenter.step(sample.frame)
