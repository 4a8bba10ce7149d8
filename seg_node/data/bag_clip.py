"""The images of one topic of a rosbag2, with masks from another topic where there is one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cached_property, partial
from threading import Lock
from typing import NamedTuple, TYPE_CHECKING
import weakref

import numpy as np

from seg_node.core.types import ClassInfo, DataError, IGNORE_LABEL, ImageError
from seg_node.data.bag import BagImage, BagReader
from seg_node.data.class_files import find_class_file
from seg_node.data.image_conversion import message_to_frame
from seg_node.data.label_files import ids
from seg_node.data.raw_images import image_to_rgb
from seg_node.data.sources import (
    ASSUMED_RATE_HZ,
    Clip,
    count_skip,
    cut_clips,
    FrameRef,
    Indexed,
    Sample,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MASK_ENCODINGS = frozenset({"mono8", "8UC1"})
AHEAD = 32
"""Messages that are rather read past than sought."""


class BagClip(Indexed):
    """The images of one topic of a rosbag2, in the order of the recording; read lazily.

    An image that cannot be used is skipped and counted while iterating. A mask belongs to the
    image with exactly the same header stamp; it is mono8 or a greyscale PNG of class ids. A
    class file in the bag's folder (`class_files`) names the classes and bounds the ids; without
    one any id below 255 passes and `classes` is empty.

    Attributes:
        topic: the image topic.
        without_mask: images that no mask belongs to; 0 where no masks were asked for.

    """

    def __init__(
        self, path: Path, topic: str | None = None, mask_topic: str | None = None
    ) -> None:
        """Open the bag's index and choose the topics; with masks, read all header stamps.

        Args:
            path: the bag's folder, or its only file.
            topic: image topic; None where there is only one.
            mask_topic: topic of the masks; None for unlabelled images.

        Raises:
            DataError: the bag cannot be read, or the choice is not obvious (the text lists the
                candidates), or no mask belongs to any image, or two to one.

        """
        self.spec = f"bag:{path}"
        self.skipped = Counter()
        self.path = path
        with BagReader(path) as reader:
            masks = reader.choose(mask_topic) if mask_topic is not None else None
            self.topic = reader.choose(topic, masks.name if masks else None)
        self._shortfall: str | None = None
        known = find_class_file(path if path.is_dir() else path.parent) if masks else None
        self.classes: tuple[ClassInfo, ...] = known.classes if known else ()
        self._format = known.labels if known else ids(IGNORE_LABEL)
        self._masks = _TopicIndex(path, masks.name) if masks else None
        self._mask_at = self._masks.by_stamp() if self._masks else {}
        self.without_mask = self._match() if self._masks else 0

    def __len__(self) -> int:
        """Return the number of images that the bag promises."""
        return self.topic.count

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th image with its recorded stamp and receive time.

        Raises:
            DataError: damage left no message at all, or a mask cannot be used.

        """
        self._shortfall = None
        with BagReader(self.path) as reader:
            self.skipped = reader.skipped  # counts on while the bag is read
            for index, item in enumerate(reader.images([self.topic.name])):
                if index % stride:
                    continue
                try:
                    sample = self._convert(index, item)
                except ImageError as error:
                    count_skip(self.skipped, str(error))
                    continue
                yield self._with_mask(sample)
            self._shortfall = reader.shortfall()

    def shortfall(self) -> str | None:
        """Tell what the latest whole pass did not deliver, and how many images lack a mask."""
        if not self.without_mask or not self._masks:
            return self._shortfall
        text = (
            f"bag {self.path}: {self.without_mask} of {len(self._images.entries)} images on "
            f"{self.topic.name} have no mask of the same stamp on {self._masks.topic}"
        )
        return f"{self._shortfall}; {text}" if self._shortfall else text

    def fingerprint(self) -> str:
        """Return the SHA-256 over the bytes of the bag's storage files."""
        with BagReader(self.path) as reader:
            return reader.fingerprint()

    def frames(self) -> tuple[FrameRef, ...]:
        """Return all images, not decoded yet; the first call reads the whole topic's stamps."""
        return tuple(
            FrameRef(
                f"{index:06d}",
                entry.stamp_ns,
                entry.stamp_ns in self._mask_at,
                partial(self.load, index),
            )
            for index, entry in enumerate(self._images.entries)
        )

    def clips(self) -> tuple[Clip, ...]:
        """Return the images, cut where header stamps jump; see `frames`."""
        return cut_clips(self.frames(), ASSUMED_RATE_HZ)

    def load(self, index: int) -> Sample:
        """Read one image and its mask; safe in any thread.

        Raises:
            DataError: the image or its mask cannot be used.

        """
        return self._with_mask(self._convert(index, self._images.read(index)))

    @cached_property
    def _images(self) -> _TopicIndex:
        return _TopicIndex(self.path, self.topic.name)

    def _match(self) -> int:
        """Return how many images no mask belongs to.

        Raises:
            DataError: that is so of all images.

        """
        images = self._images.entries
        missing = sum(entry.stamp_ns not in self._mask_at for entry in images)
        if missing == len(images):
            example = f" (first image {images[0].stamp_ns} ns" if images else " (no image"
            example += f", first mask {min(self._mask_at, default=None)} ns)"
            msg = (
                f"bag {self.path}: no image on {self.topic.name} has a mask of exactly its "
                f"header stamp{example}: stamp the masks as the images they were made from"
            )
            raise DataError(msg)
        return missing

    def _convert(self, index: int, item: BagImage) -> Sample:
        name = self.topic.name
        frame = message_to_frame(item.message, topic=name, camera=name)
        return Sample(f"{index:06d}", frame, None, item.receive_ns)

    def _with_mask(self, sample: Sample) -> Sample:
        at = self._mask_at.get(sample.frame.stamp_ns)
        if self._masks is None or at is None:
            return sample
        item = self._masks.read(at)
        where = f"mask of stamp {sample.frame.stamp_ns} ns on {item.topic} in bag {self.path}"
        stored = _mask_values(where, item)
        height, width = sample.frame.image.shape[:2]
        if stored is None:
            labels = self._format.from_png(where, bytes(item.message.data))
        else:
            labels = self._format.from_values(where, stored)
        if labels.shape != (height, width):
            size = f"{labels.shape[1]}x{labels.shape[0]}"
            msg = f"{where} is {size} for an image of {width}x{height}: make them one size"
            raise DataError(msg)
        return replace(sample, labels=labels)


class _Entry(NamedTuple):
    """One message: when it was received and what its header says, in nanoseconds."""

    receive_ns: int
    stamp_ns: int


class _TopicIndex:
    """Reads the messages of one image topic in any order.

    Attributes:
        topic: the topic.
        entries: its messages in the order of reading, the undecodable ones left out.

    """

    def __init__(self, path: Path, topic: str) -> None:
        """Read the stamps of all messages.

        Raises:
            DataError: the bag cannot be read, or damage left no message.

        """
        self.topic = topic
        self._path = path
        self._lock = Lock()
        self._reader = BagReader(path)
        # Whoever loads frames later holds no `with` block open for us.
        weakref.finalize(self, self._reader.close)
        self.entries = tuple(
            _Entry(item.receive_ns, _stamp_ns(item)) for item in self._reader.images([topic])
        )
        self._coming: Iterator[tuple[int, BagImage]] = iter(())
        self._next = len(self.entries)

    def by_stamp(self) -> dict[int, int]:
        """Return header stamp -> place in `entries`.

        Raises:
            DataError: two messages share a stamp.

        """
        found: dict[int, int] = {}
        for index, entry in enumerate(self.entries):
            if found.setdefault(entry.stamp_ns, index) != index:
                msg = f"bag {self._path} has two masks of stamp {entry.stamp_ns} on {self.topic}"
                raise DataError(msg)
        return found

    def read(self, index: int) -> BagImage:
        """Return one message; safe in any thread.

        Raises:
            DataError: the bag is not what it was when its stamps were read.

        """
        with self._lock:
            if not self._next <= index <= self._next + AHEAD:
                self._seek(index)
            for at, item in self._coming:
                self._next = at + 1
                if at == index:
                    if _stamp_ns(item) == self.entries[index].stamp_ns:
                        return item
                    break
            self._next = len(self.entries)
        msg = (
            f"message {index} on {self.topic} of bag {self._path} has changed since it was opened"
        )
        raise DataError(msg)

    def _seek(self, index: int) -> None:
        from_ns = self.entries[index].receive_ns
        # Files of a split bag may overlap in time: what comes is told by time, not by place.
        places = (i for i, entry in enumerate(self.entries) if entry.receive_ns >= from_ns)
        self._coming = zip(places, self._reader.images([self.topic], from_ns), strict=False)
        self._next = index


def _stamp_ns(item: BagImage) -> int:
    stamp = item.message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _mask_values(where: str, item: BagImage) -> NDArray[np.uint8] | None:
    """Return the values of a raw mask, uint8 [H, W]; None where it is compressed.

    Raises:
        DataError: it is not of 8 bit greyscale, or damaged.

    """
    message = item.message
    if not hasattr(message, "encoding"):
        return None
    if message.encoding not in MASK_ENCODINGS:
        known = " or ".join(sorted(MASK_ENCODINGS))
        msg = f"{where} has encoding {message.encoding!r}: publish class ids as {known}"
        raise DataError(msg)
    return np.ascontiguousarray(image_to_rgb(message, item.topic)[..., 0])
