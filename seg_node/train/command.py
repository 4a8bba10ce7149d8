"""`seg_node train segment`: from named data to model files with their manifests."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import chain
import logging
import os
from typing import TYPE_CHECKING

import torch

from seg_node.core.types import CAMVID_CLASSES, ConfigError, DataError, ModelError
from seg_node.data.datasets import open_source
from seg_node.data.sources import check
from seg_node.nets.build import load_model, Manifest, save_weights
from seg_node.train import start
from seg_node.train.batches import BatchMaker, label_counts, render_streets
from seg_node.train.distributed import join, leave
from seg_node.train.losses import class_weights
from seg_node.train.pictures import frame_refs, Pool
from seg_node.train.resolution import merge_norms
from seg_node.train.segmenter import CHECKPOINT, Run, SegmentTrainer
from seg_node.train.settings import SegmentTraining
from seg_node.train.teacher import SCALES, SoftLabelCache
from seg_node.train.validation import validate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from seg_node.core.types import ClassInfo
    from seg_node.data.sources import FrameRef, Source
    from seg_node.train.augment import Picture
    from seg_node.train.distributed import Share
    from seg_node.train.segmenter import OnStep, Validate

LOG = logging.getLogger(__name__)
UNLABELLED_STRIDE = 4
"""Every how manieth unlabelled frame is used: neighbours teach the same."""
SAID_EVERY = 100
"""Frames between two lines about soft labels."""
VALIDATED = 26
"""Labelled frames, spread over the validation data, that are scored during training."""


@dataclass(frozen=True)
class SegmentRequest:
    """What to train, on what, from what.

    Attributes:
        data: named data with labels.
        out: folder of the run, with checkpoint and log.
        network: name of a network, or `module:function`.
        name: name of the model that is written; empty for the network's.
        split: split of the data to train on.
        topic: image topic of bags.
        mask_topic: topic of bags with the masks.
        unlabelled: named data without labels, for the teachers.
        validation: named data scored now and then (split `val`); empty for none.
        teachers: models whose soft labels are learned beside the true ones.
        init: model whose weights to start from; empty for fresh ones.
        widen: narrower model whose function the network computes at first; empty for none.
        resume: continue the run in `out`, if there is one.
        settings: hyper-parameters.

    """

    data: tuple[str, ...]
    out: Path
    network: str = "swiftnet18-half"
    name: str = ""
    split: str = "train"
    topic: str | None = None
    mask_topic: str | None = None
    unlabelled: tuple[str, ...] = ()
    validation: str = ""
    teachers: tuple[str, ...] = ()
    init: str = ""
    widen: str = ""
    resume: bool = False
    settings: SegmentTraining = field(default_factory=SegmentTraining)


def train_segment(request: SegmentRequest, on_step: OnStep | None = None) -> list[Manifest]:
    """Train, or continue, and write weights and manifests into the folder of the run.

    The manifests written here lack the terms of the data, the commit and the scores: what is
    true of them is for the one who releases the model to say.

    Args:
        request: what to train.
        on_step: called with the number of steps done, after each.

    Raises:
        DataError: the data cannot be used; the text names the file.
        ModelError: unknown network, teacher or start.
        ConfigError: the folder holds a run that is not to be continued, or another one.

    """
    share = join()
    try:
        trainer, classes = _prepare(request, share)
        net = trainer.run(on_step)
        return _write(request, net, classes) if share.rank == 0 else []
    finally:
        leave()


def choose_device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _prepare(
    request: SegmentRequest, share: Share
) -> tuple[SegmentTrainer, tuple[ClassInfo, ...]]:
    settings, device = request.settings, choose_device()
    refuse_old_run(request)
    sources = open_labelled(request)
    classes = common_classes(sources)
    teach = _Teacher(request, classes, device) if request.teachers else None
    frames = [ref for source in sources for ref in labelled_refs(source)]
    labelled = Pool(frames, teach)
    loose = [open_source(spec, split=request.split) for spec in request.unlabelled]
    others = [ref for source in loose for ref in frame_refs(source, UNLABELLED_STRIDE)]
    if others and not teach:
        msg = "unlabelled data teach nothing without a teacher; name one with --teacher"
        raise ConfigError(msg)
    if teach:
        teach.prepare([*frames, *others])
    batches = BatchMaker(
        labelled,
        settings,
        streets=_streets(settings, classes),
        unlabelled=Pool(others, teach, labelled=False),
        share=share,
    )
    trainer = SegmentTrainer(
        start_network(request, classes),
        batches,
        class_weights(label_counts(labelled, len(classes)), settings.softness),
        Run(request.out, device, _identity(request)),
        _validation(request, classes),
    )
    return trainer, classes


def refuse_old_run(request: SegmentRequest) -> None:
    """Refuse to overwrite, or to continue without being told.

    Raises:
        ConfigError: the folder holds a run and `resume` is not set.

    """
    if (request.out / CHECKPOINT).exists() and not request.resume:
        msg = f"{request.out} holds a run: add --resume to continue it, or choose another --out"
        raise ConfigError(msg)


def open_labelled(request: SegmentRequest) -> list[Source]:
    """Open the labelled data and look for what would stop the run later.

    Raises:
        DataError: there is nothing to train on, or a file is wrong; the text names it.

    """
    sources = []
    for spec in request.data:
        bag = spec.startswith("bag:")
        topics = {"topic": request.topic, "mask_topic": request.mask_topic} if bag else {}
        source = open_source(spec, split=request.split, **topics)
        problems = check(source)
        if problems:
            more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
            msg = f"{problems[0]}{more}"
            raise DataError(msg)
        sources.append(source)
    return sources


def labelled_refs(source: Source) -> list[FrameRef]:
    """Return the frames of a source that have labels, and say how many have none.

    Raises:
        DataError: no frame has labels.

    """
    frames = frame_refs(source)
    labelled = [frame for frame in frames if frame.labelled]
    if not labelled:
        msg = f"none of the {len(frames)} frames of {source.spec} has labels to train on"
        raise DataError(msg)
    if len(labelled) < len(frames):
        missing = len(frames) - len(labelled)
        LOG.info("%s: %d of %d frames have no labels", source.spec, missing, len(frames))
    return labelled


def common_classes(sources: Sequence[Source]) -> tuple[ClassInfo, ...]:
    """Return the classes that all data share.

    Raises:
        DataError: classes are unknown, or differ.

    """
    first = sources[0]
    if not first.classes:
        msg = f"{first.spec} does not say its classes; give labels and a class file"
        raise DataError(msg)
    for source in sources[1:]:
        if source.classes != first.classes:
            msg = (
                f"{first.spec} has classes {names(first.classes)}, "
                f"{source.spec} has {names(source.classes)}; they must be the same"
            )
            raise DataError(msg)
    return first.classes


def names(classes: Sequence[ClassInfo]) -> str:
    """Return how many classes there are and what they are called."""
    return f"{len(classes)} ({', '.join(c.name for c in classes)})"


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
    if classes != CAMVID_CLASSES:
        msg = f"the street has CamVid's classes, the data {names(classes)}: use --street-share 0"
        raise ConfigError(msg)
    return render_streets(settings.streets, settings.seed)


class _Teacher:
    """Soft labels of the teachers, cached in the folder of the run."""

    def __init__(
        self, request: SegmentRequest, classes: tuple[ClassInfo, ...], device: torch.device
    ) -> None:
        models = [load_model(name, fold=False) for name in request.teachers]
        for model in models:
            if model.manifest.classes != classes:
                told = f"teacher {model.manifest.name} has {names(model.manifest.classes)}"
                msg = f"{told}, the data have {names(classes)}; they must be the same"
                raise ModelError(msg)
        self._nets = [model.net.to(device) for model in models]
        hashes = ",".join(model.manifest.sha256[:12] for model in models)
        self._cache = SoftLabelCache(request.out / "soft", f"{hashes} at {SCALES}")

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self._cache.get(self._nets, image)

    def prepare(self, frames: Sequence[FrameRef]) -> None:
        """Compute what is missing, so that no step waits for it."""
        for done, frame in enumerate(frames, 1):
            self(frame.load().frame.image)
            if done % SAID_EVERY == 0 or done == len(frames):
                LOG.info("soft labels: %d of %d frames", done, len(frames))


def _validation(request: SegmentRequest, classes: tuple[ClassInfo, ...]) -> Validate | None:
    if not request.validation:
        return None
    source = open_source(request.validation, split="val")
    if source.classes != classes:
        msg = f"{request.validation} has other classes than the training data"
        raise DataError(msg)
    refs = frame_refs(source)
    pictures = Pool(refs[:: max(1, len(refs) // VALIDATED)])
    mixed = request.settings.low_share > 0

    def score(net: nn.Module) -> Mapping[str, float]:
        scores = {"val_miou": validate(net, pictures, len(classes))}
        if mixed:
            scores["val_low_miou"] = validate(net, pictures, len(classes), low=True)
        return scores

    return score


def _identity(request: SegmentRequest) -> dict[str, str]:
    """Return what else makes a run this run; it must not change when the run is resumed."""
    return {
        "network": request.network,
        "data": ",".join(request.data),
        "split": request.split,
        "unlabelled": ",".join(request.unlabelled),
        "teachers": ",".join(request.teachers),
        "init": request.init,
        "widen": request.widen,
    }


def command_line(request: SegmentRequest) -> str:
    """Return the command of a run; paths, which differ between machines, become DIR."""

    def hide(spec: str) -> str:
        kind, colon, rest = spec.partition(":")
        if not colon:
            return spec.rpartition("/")[2]
        return spec if rest.isdigit() else f"{kind}:DIR"

    named = {
        "--data": request.data,
        "--model": (request.network,),
        "--unlabelled": request.unlabelled,
        "--teacher": request.teachers,
        "--init": (request.init,) if request.init else (),
        "--widen": (request.widen,) if request.widen else (),
    }
    words = ["seg_node train segment"]
    for flag, specs in named.items():
        shown = specs if flag == "--model" else map(hide, specs)
        words += [f"{flag} {','.join(shown)}"] if specs else []
    for item in fields(request.settings):
        value = getattr(request.settings, item.name)
        flag = f"--{item.name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value != item.default:
            words.append(f"{flag} {value}")
    return " ".join(words)


def _write(
    request: SegmentRequest, net: nn.Module, classes: tuple[ClassInfo, ...]
) -> list[Manifest]:
    name = request.name or request.network.replace(":", "-")
    net = net.cpu()
    if not request.settings.low_norms:
        return [_write_one(request, net, classes, name)]
    return [
        _write_one(request, merge_norms(net, low=False), classes, name),
        _write_one(request, merge_norms(net, low=True), classes, f"{name}-low"),
    ]


def _write_one(
    request: SegmentRequest, net: nn.Module, classes: tuple[ClassInfo, ...], name: str
) -> Manifest:
    shape = next(chain.from_iterable(open_labelled(request))).frame.image.shape
    kinds = ", ".join(spec.partition(":")[0] for spec in request.data)
    file = f"{name}.safetensors"
    manifest = Manifest(
        name=name,
        network=request.network,
        file=file,
        sha256=save_weights(net, request.out / file, dtype=torch.float16),
        classes=classes,
        training_size=(shape[1], shape[0]),
        data=f"{kinds} ({request.split})",
        terms="",
        command=command_line(request),
        commit="",
        scores={},
    )
    manifest.write(request.out)
    return manifest
