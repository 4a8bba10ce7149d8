"""Pools of training pictures: read when drawn, kept while they fit into memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
import threading
from typing import overload, TYPE_CHECKING

import numpy as np

from seg_node.core.types import DataError, IGNORE_LABEL
from seg_node.data.sources import FrameRef, Indexed
from seg_node.train.augment import Picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from seg_node.data.sources import Sample, Source

    Teach = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

KEPT_BYTES = 4 << 30
"""Memory that the pictures of one pool may take."""


def frame_refs(source: Source, stride: int = 1) -> list[FrameRef]:
    """Return every `stride`-th frame of a source for reading in any order.

    Bags and videos can only be played: their frames are decoded now and held in memory.
    """
    if isinstance(source, Indexed):
        return list(source.frames()[::stride])
    return [_held(sample) for sample in source.every(stride)]


def _held(sample: Sample) -> FrameRef:
    labelled = sample.labels is not None
    return FrameRef(sample.name, sample.frame.stamp_ns, labelled, lambda: sample)


class Pool(Sequence[Picture]):
    """Frames as training pictures, with a teacher's soft labels where there is one.

    Args:
        frames: the frames.
        teach: returns the soft labels of an image; None without a teacher.
        labelled: whether labels are wanted; otherwise all pixels are void.
        kept_bytes: memory for pictures that were read; the longest unused ones go first.

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
    ) -> None:
        """Check the frames; they are read later."""
        for frame in frames:
            if labelled and not frame.labelled:
                msg = f"frame {frame.name} has no labels to train on; name it as unlabelled data"
                raise DataError(msg)
        self._frames = frames
        self._teach = teach
        self._labelled = labelled
        self._kept: OrderedDict[int, Picture] = OrderedDict()
        self._free = kept_bytes
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
                self._kept.move_to_end(index)
                return self._kept[index]
        picture = self._read(self._frames[index])
        with self._lock:
            self._keep(index, picture)
        return picture

    def _keep(self, index: int, picture: Picture) -> None:
        if index in self._kept:
            return
        self._kept[index] = picture
        self._free -= _size(picture)
        while self._free < 0 and self._kept:
            _, oldest = self._kept.popitem(last=False)
            self._free += _size(oldest)

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
