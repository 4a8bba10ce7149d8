"""`seg_node train segment`: from named data to model files with their manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from seg_node.core.types import CAMVID_CLASSES, ConfigError, DataError
from seg_node.nets.build import Manifest, save_weights
from seg_node.train import start
from seg_node.train.batches import BatchMaker, label_counts, Pools, render_streets
from seg_node.train.classes import describe, same_classes
from seg_node.train.distributed import choose_device, join, leave
from seg_node.train.labelled import (
    common_classes,
    labelled_refs,
    open_labelled,
    open_named,
    refuse_problems,
)
from seg_node.train.losses import class_weights
from seg_node.train.pictures import frame_refs, HELD_BYTES, Pool
from seg_node.train.request import command_line, identity
from seg_node.train.resolution import merge_norms
from seg_node.train.segmenter import CHECKPOINT, Run, SegmentTrainer
from seg_node.train.teacher import Teacher
from seg_node.train.validation import validate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from seg_node.core.types import ClassInfo
    from seg_node.data.sources import FrameRef
    from seg_node.train.augment import Picture
    from seg_node.train.request import SegmentRequest
    from seg_node.train.segmenter import OnStep, Validate
    from seg_node.train.settings import SegmentTraining

UNLABELLED_STRIDE = 4
"""Every how manieth unlabelled frame is used: neighbours teach the same."""
VALIDATED = 26
"""Labelled frames, spread over the validation data, that are scored during training."""


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
        sources = open_labelled(request)
        self.classes = common_classes(sources)
        frames = [ref for source in sources for ref in labelled_refs(source)]
        self.size = _image_size(frames[0])
        pools = self._pools(frames, device)
        classes = len(self.classes)
        self.trainer = SegmentTrainer(
            start_network(request, self.classes),
            BatchMaker(pools, request.settings, self.share),
            class_weights(label_counts(pools.labelled, classes), request.settings.softness),
            Run(request.out, device, identity(request, self.classes)),
            _validation(request, self.classes),
        )

    def run(self, on_step: OnStep | None = None) -> list[Manifest]:
        """Train, or continue, and write weights and manifests into the folder of the run.

        Args:
            on_step: called with the number of steps done, after each; see `SegmentTrainer.run`.

        """
        net = self.trainer.run(on_step)
        written = self._write(net.cpu()) if self.share.rank == 0 else []
        # Not after a failure: the others may be waiting for this process elsewhere.
        leave()
        return written

    def _pools(self, frames: Sequence[FrameRef], device: torch.device) -> Pools:
        request = self.request
        teach = self._teacher(device) if request.teachers else None
        loose = [open_named(request, spec, request.split) for spec in request.unlabelled]
        near = self.share.neighbours
        held = HELD_BYTES // max(1, len(loose) * near)
        others = [
            ref
            for source in loose
            for ref in frame_refs(source, UNLABELLED_STRIDE, held_bytes=held)
        ]
        if others and not teach:
            msg = "unlabelled data teach nothing without a teacher; name one with --teacher"
            raise ConfigError(msg)
        if teach:
            teach.prepare([*frames, *others])
        return Pools(
            Pool(frames, teach, processes=near),
            _streets(request.settings, self.classes),
            Pool(others, teach, labelled=False, processes=near),
            len(self.classes) if teach else 0,
        )

    def _teacher(self, device: torch.device) -> Teacher:
        folder = self.request.out / "soft"
        return Teacher(self.request.teachers, folder, self.classes, device, self.share)

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
        kinds = ", ".join(spec.partition(":")[0] for spec in request.data)
        file = f"{name}.safetensors"
        manifest = Manifest(
            name=name,
            network=request.network,
            file=file,
            sha256=save_weights(net, request.out / file, dtype=torch.float16),
            classes=self.classes,
            training_size=self.size,
            data=f"{kinds} ({request.split})",
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


def _image_size(frame: FrameRef) -> tuple[int, int]:
    """Return (width, height) of a frame."""
    height, width = frame.load().frame.image.shape[:2]
    return width, height


def refuse_impossible(request: SegmentRequest, device: torch.device) -> None:
    """Refuse what would fail hours later, or overwrite.

    Raises:
        ConfigError: the folder holds a run and `resume` is not set, the name is no file's name,
            or the settings cannot work on this device.

    """
    if (request.out / CHECKPOINT).exists() and not request.resume:
        msg = f"{request.out} holds a run: add --resume to continue it, or choose another --out"
        raise ConfigError(msg)
    if "/" in request.name:
        msg = f"--name is {request.name!r}; give a name without /"
        raise ConfigError(msg)
    if request.settings.deterministic and device.type == "cuda":
        msg = "the losses are not deterministic on GPUs: leave --deterministic, or use the CPU"
        raise ConfigError(msg)


def start_network(request: SegmentRequest, classes: tuple[ClassInfo, ...]) -> nn.Module:
    """Return the network with the weights to start from.

    Raises:
        ConfigError: two starts at once.
        ModelError: the start does not fit.

    """
    seed = request.settings.seed
    if request.init and request.widen:
        msg = "a network starts from --init or from --widen, not from both"
        raise ConfigError(msg)
    if request.init:
        return start.from_model(request.network, classes, seed, request.init)
    if request.widen:
        return start.from_narrow(request.network, classes, seed, request.widen)
    return start.fresh(request.network, len(classes), seed)


def _streets(settings: SegmentTraining, classes: tuple[ClassInfo, ...]) -> Sequence[Picture]:
    if settings.street_share == 0.0:
        return ()
    if not same_classes(classes, CAMVID_CLASSES):
        told = describe(classes)
        msg = f"the street has CamVid's classes, the data {told}: use --street-share 0"
        raise ConfigError(msg)
    return render_streets(settings.streets, settings.seed)


def _validation(request: SegmentRequest, classes: tuple[ClassInfo, ...]) -> Validate | None:
    if not request.validation:
        return None
    source = open_named(request, request.validation, "val", masks=True)
    refuse_problems(source)
    common_classes([source])
    if not same_classes(source.classes, classes):
        msg = f"{source.spec} has classes {describe(source.classes)}, the training data other ones"
        raise DataError(msg)
    refs = labelled_refs(source)
    pictures = Pool(refs[:: max(1, len(refs) // VALIDATED)])
    mixed = request.settings.low_share > 0

    def score(net: nn.Module) -> Mapping[str, float]:
        scores = {"val_miou": validate(net, pictures, len(classes))}
        if mixed:
            scores["val_low_miou"] = validate(net, pictures, len(classes), low=True)
        return scores

    return score
