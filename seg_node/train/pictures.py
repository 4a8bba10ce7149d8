"""Pools of training pictures: read when drawn, kept while they fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
import logging
import threading
from typing import overload, TYPE_CHECKING

import numpy as np

from seg_node.core.types import DataError, IGNORE_LABEL
from seg_node.data.sources import FrameRef, Indexed
from seg_node.train.augment import Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from seg_node.data.sources import Sample, Source

    Teach = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

LOG = logging.getLogger(__name__)
KEPT_BYTES = 4 << 30
"""Memory that the pictures of one pool may take, in all processes of a host together."""
HELD_BYTES = 2 << 30
"""Memory that the images of one video may take: 4 minutes of 848x480 at 30 Hz and stride 4."""


def frame_refs(source: Source, stride: int = 1, *, held_bytes: int = HELD_BYTES) -> list[FrameRef]:
    """Return every `stride`-th frame of a source for reading in any order.

    A video can only be played. It is decoded once now, about 8 ms a frame, and held in memory
    up to `held_bytes`. Later frames are played anew whenever they are drawn: 0.6 s on average
    in a video of 300 frames, more in proportion to its length. A line in the log says so.

    Args:
        source: the data.
        stride: every how manieth frame.
        held_bytes: memory for the images of a source that cannot be read in any order.

    Raises:
        DataError: the data cannot be read, or a frame has to be played anew and cannot be.

    """
    if isinstance(source, Indexed):
        return list(source.frames()[::stride])
    replayed = {ref.stamp_ns: ref for clip in source.clips() for ref in clip.frames}
    refs: list[FrameRef] = []
    free = held_bytes
    for sample in source.every(stride):
        free -= sample.frame.image.nbytes
        refs.append(_held(sample) if free >= 0 else _replayed(source, sample, replayed))
    if free < 0:
        sizes = f"{(held_bytes - free) >> 20} MiB, {held_bytes >> 20} are held"
        advice = "its later frames are slow to read; cut it into pictures"
        LOG.warning("%s takes %s: %s", source.spec, sizes, advice)
    return refs


def _replayed(source: Source, sample: Sample, known: Mapping[int, FrameRef]) -> FrameRef:
    """Return the reference to a frame by its stamp: damage shifts the numbers in names."""
    ref = known.get(sample.frame.stamp_ns)
    if ref is None:
        told = f"frame {sample.name} of {source.spec} is past the memory for it"
        msg = f"{told} and cannot be played anew; cut the data into pictures"
        raise DataError(msg)
    return ref


def _held(sample: Sample) -> FrameRef:
    labelled = sample.labels is not None
    return FrameRef(sample.name, sample.frame.stamp_ns, labelled, lambda: sample)


class Pool(Sequence[Picture]):
    """Frames as training pictures, with a teacher's soft labels where there is one.

    Args:
        frames: the frames.
        teach: returns the soft labels of an image; None without a teacher.
        labelled: whether labels are wanted; otherwise all pixels are void.
        kept_bytes: memory for pictures that were read. Those that were read first stay: every
            epoch draws all of them in another order, and whatever was put in the place of one
            would be gone again before its turn.
        processes: processes of this host that share this memory.

    Raises:
        DataError: labels are wanted and a frame has none.

    """

    def __init__(
        self,
        frames: Sequence[FrameRef],
        teach: Teach | None = None,
        *,
        labelled: bool = True,
        kept_bytes: int = KEPT_BYTES,
        processes: int = 1,
    ) -> None:
        """Check the frames; they are read later."""
        for frame in frames:
            if labelled and not frame.labelled:
                msg = f"frame {frame.name} has no labels to train on; name it as unlabelled data"
                raise DataError(msg)
        self._frames = frames
        self._teach = teach
        self._labelled = labelled
        self._kept: dict[int, Picture] = {}
        self._free = kept_bytes // processes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Picture]: ...
    def __getitem__(self, index: int | slice) -> Picture | Sequence[Picture]:
        """Return one picture, or several.

        Raises:
            DataError: a file cannot be read; the text names it.

        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        with self._lock:
            if index in self._kept:
                return self._kept[index]
        picture = self._read(self._frames[index])
        with self._lock:
            self._keep(index, picture)
        return picture

    def _keep(self, index: int, picture: Picture) -> None:
        size = _size(picture)
        if index not in self._kept and size <= self._free:
            self._kept[index] = picture
            self._free -= size

    def _read(self, frame: FrameRef) -> Picture:
        sample = frame.load()
        image = sample.frame.image
        if self._labelled and sample.labels is not None:
            labels = sample.labels
        else:
            labels = np.full(image.shape[:2], IGNORE_LABEL, np.uint8)
        return Picture(image, labels, self._teach(image) if self._teach else None)


def _size(picture: Picture) -> int:
    soft = 0 if picture.soft is None else picture.soft.nbytes
    return picture.image.nbytes + picture.labels.nbytes + soft
