"""`seg_node train segment`: from named data to model files with their manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from seg_node.core.types import ConfigError
from seg_node.nets.manifest import Manifest
from seg_node.nets.weights import save_weights
from seg_node.train import start
from seg_node.train.batches import BatchMaker, label_counts
from seg_node.train.distributed import choose_device, join, leave
from seg_node.train.losses import class_weights
from seg_node.train.pools import kinds_of, refuse_impossible, TrainingData
from seg_node.train.request import command_line, identity
from seg_node.train.resolution import merge_norms
from seg_node.train.segmenter import SegmentTrainer
from seg_node.train.trainer import Run
from seg_node.train.validation import validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from seg_node.core.types import ClassInfo
    from seg_node.train.request import SegmentRequest
    from seg_node.train.segmenter import Validate
    from seg_node.train.trainer import OnStep


class SegmentJob:
    """A training that is ready to run: data opened and checked, teachers heard.

    The manifests that it writes lack the terms of the data, the commit and the scores: what is
    true of them is for the one who releases the model to say.

    Args:
        request: what to train.

    Raises:
        DataError: the data cannot be used; the text names the file.
        ModelError: unknown network, teacher or start.
        ConfigError: the folder holds a run that is not to be continued, or another one.

    """

    def __init__(self, request: SegmentRequest) -> None:
        """Prepare everything."""
        self.request = request
        self.share = join()
        device = choose_device()
        refuse_impossible(request, device)
        data = TrainingData(request)
        self.classes = data.classes
        self.size = data.size
        pools = data.pools(device, self.share)
        counts = label_counts(pools.labelled, len(self.classes))
        self.trainer = SegmentTrainer(
            start_network(request, self.classes),
            BatchMaker(pools, request.settings, self.share),
            class_weights(counts, request.settings.softness),
            Run(request.out, device, identity(request, self.classes)),
            self._validation(data),
        )

    def run(self, on_step: OnStep | None = None) -> list[Manifest]:
        """Train, or continue, and write weights and manifests into the folder of the run.

        Args:
            on_step: called with the number of steps done, after each; see `Trainer.run`.

        """
        net = self.trainer.run(on_step)
        written = self._write(net.cpu()) if self.share.rank == 0 else []
        # Not after a failure: the others may be waiting for this process elsewhere.
        leave()
        return written

    def _validation(self, data: TrainingData) -> Validate | None:
        pictures = data.validation()
        if pictures is None:
            return None
        classes = len(self.classes)
        mixed = self.request.settings.low_share > 0

        def score(net: nn.Module) -> Mapping[str, float]:
            scores = {"val_miou": validate(net, pictures, classes)}
            if mixed:
                scores["val_low_miou"] = validate(net, pictures, classes, low=True)
            return scores

        return score

    def _write(self, net: nn.Module) -> list[Manifest]:
        name = self.request.name or self.request.network.replace(":", "-")
        if not self.request.settings.low_norms:
            return [self._write_one(net, name)]
        return [
            self._write_one(merge_norms(net, low=False), name),
            self._write_one(merge_norms(net, low=True), f"{name}-low"),
        ]

    def _write_one(self, net: nn.Module, name: str) -> Manifest:
        request = self.request
        file = f"{name}.safetensors"
        manifest = Manifest(
            name=name,
            network=request.network,
            file=file,
            sha256=save_weights(net, request.out / file, dtype=torch.float16),
            classes=self.classes,
            training_size=self.size,
            data=kinds_of(request),
            terms="",
            command=command_line(request),
            commit="",
            scores={},
        )
        manifest.write(request.out)
        return manifest


def train_segment(request: SegmentRequest, on_step: OnStep | None = None) -> list[Manifest]:
    """Prepare and run a `SegmentJob`."""
    return SegmentJob(request).run(on_step)


def start_network(request: SegmentRequest, classes: tuple[ClassInfo, ...]) -> nn.Module:
    """Return the network with the weights to start from.

    Raises:
        ConfigError: two starts at once.
        ModelError: the start does not fit.

    """
    seed = request.settings.seed
    if sum(map(bool, (request.init, request.widen, request.encoder))) > 1:
        msg = "a network starts from one of --init, --widen and --encoder"
        raise ConfigError(msg)
    if request.init:
        return start.from_model(request.network, classes, seed, request.init)
    if request.widen:
        return start.from_narrow(request.network, classes, seed, request.widen)
    if request.encoder:
        return start.from_encoder(request.network, classes, seed, request.encoder)
    return start.fresh(request.network, len(classes), seed)
