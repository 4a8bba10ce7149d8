"""What a run draws from and is scored on, prepared from its request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.core.types import ConfigError, DataError
from seg_node.train.batches import Pools, render_streets
from seg_node.train.classes import describe, refuse_street, same_classes
from seg_node.train.labelled import (
    common_classes,
    labelled_refs,
    open_labelled,
    open_named,
    refuse_problems,
)
from seg_node.train.pictures import frame_refs, HELD_BYTES, Pool
from seg_node.train.teacher import Teacher
from seg_node.train.trainer import CHECKPOINT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from seg_node.core.types import ClassInfo
    from seg_node.train.augment import Picture
    from seg_node.train.distributed import Share
    from seg_node.train.request import DataRequest, TrainRequest
    from seg_node.train.settings import Training

UNLABELLED_STRIDE = 4
"""Every how manieth unlabelled frame is used: neighbours teach the same."""
VALIDATED = 26
"""Labelled frames, spread over the validation data, that are scored during training."""


def refuse_impossible(request: TrainRequest, device: torch.device) -> None:
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


class TrainingData:
    """The labelled data of a request, opened and looked through; pools come later.

    Args:
        request: names the data.

    Attributes:
        classes: the classes of all data.
        frames: all labelled frames.

    Raises:
        DataError: the data cannot be used; the text names the file.

    """

    def __init__(self, request: TrainRequest) -> None:
        """Open the data."""
        self._request = request
        sources = open_labelled(request)
        self.classes = common_classes(sources)
        self.frames = [ref for source in sources for ref in labelled_refs(source)]

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height) of the first frame."""
        height, width = self.frames[0].load().frame.image.shape[:2]
        return width, height

    def pools(self, device: torch.device, share: Share) -> Pools:
        """Return what samples are drawn from, after the teachers were heard.

        Args:
            device: where teachers compute.
            share: which process this is, of how many.

        Raises:
            ConfigError: unlabelled data without a teacher, or streets of other classes.
            ModelError: a teacher is unknown or knows other classes.

        """
        request = self._request
        teach = None
        if request.teachers:
            teach = Teacher(request.teachers, request.out / "soft", self.classes, device, share)
        loose = [open_named(request, spec, request.split) for spec in request.unlabelled]
        near = share.neighbours
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
            teach.prepare([*self.frames, *others])
        return Pools(
            Pool(self.frames, teach, processes=near),
            _streets(request.settings, self.classes),
            Pool(others, teach, labelled=False, processes=near),
            len(self.classes) if teach else 0,
        )

    def validation(self) -> Pool | None:
        """Return frames that are scored during training; None if no data are named for it.

        Raises:
            DataError: the data cannot be used, or have other classes.

        """
        request = self._request
        if not request.validation:
            return None
        source = open_named(request, request.validation, "val", masks=True)
        refuse_problems(source)
        common_classes([source])
        if not same_classes(source.classes, self.classes):
            told = describe(source.classes)
            msg = f"{source.spec} has classes {told}, the training data other ones"
            raise DataError(msg)
        refs = labelled_refs(source)
        return Pool(refs[:: max(1, len(refs) // VALIDATED)])


def kinds_of(request: DataRequest) -> str:
    """Return the kinds of the labelled data and their split, for a manifest."""
    kinds = ", ".join(spec.partition(":")[0] for spec in request.data)
    return f"{kinds} ({request.split})"


def _streets(settings: Training, classes: tuple[ClassInfo, ...]) -> Sequence[Picture]:
    if settings.street_share == 0.0:
        return ()
    refuse_street(classes)
    return render_streets(settings.streets, settings.seed)
