"""The data of a request, opened and looked through before anything is computed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.data.datasets import open_source
from seg_node.data.sources import check
from seg_node.train.classes import describe, same_classes
from seg_node.train.pictures import frame_refs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seg_node.core.types import ClassInfo
    from seg_node.data.sources import FrameRef, Source
    from seg_node.train.request import DataRequest

LOG = logging.getLogger(__name__)


def open_named(request: DataRequest, spec: str, split: str, *, masks: bool = False) -> Source:
    """Open named data; a bag with the topics of the request."""
    if not spec.startswith("bag:"):
        return open_source(spec, split=split)
    mask_topic = request.mask_topic if masks else None
    return open_source(spec, split=split, topic=request.topic, mask_topic=mask_topic)


def open_labelled(request: DataRequest) -> list[Source]:
    """Open the labelled data and look for what would stop the run later.

    Raises:
        DataError: there is nothing to train on, or a file is wrong; the text names it.

    """
    sources = [open_named(request, spec, request.split, masks=True) for spec in request.data]
    for source in sources:
        refuse_problems(source)
    return sources


def refuse_problems(source: Source) -> None:
    """Refuse data with a file that is missing, damaged or of another size.

    Raises:
        DataError: names the first file that is wrong.

    """
    problems = check(source)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        msg = f"{problems[0]}{more}"
        raise DataError(msg)


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
        if not same_classes(source.classes, first.classes):
            msg = (
                f"{first.spec} has classes {describe(first.classes)}, "
                f"{source.spec} has {describe(source.classes)}; they must be the same"
            )
            raise DataError(msg)
    return first.classes
