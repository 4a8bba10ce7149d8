"""Labelled pictures on the disk: what all data sets of files have in common."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from seg_node.core.types import DataError, Frame
from seg_node.data.pictures import picture_size, read_image
from seg_node.data.sources import Clip, FrameRef, Indexed, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from seg_node.core.types import ClassInfo
    from seg_node.data.label_files import LabelFormat

PHOTO_STEP_NS = 10_000_000_000
"""Stamp distance of pictures that do not follow each other: too far to reuse anything."""
FRAME_ID = "camera"
_JPEG_SUFFIXES = frozenset({".jpg", ".jpeg"})


@dataclass(frozen=True)
class Picture:
    """Where one frame lies.

    Attributes:
        name: unique within its data set, fit for a file name.
        image: the picture file.
        labels: the label file; None where the data set has none for it.
        stamp_ns: its time, in nanoseconds, among those of its camera.
        camera: camera or recording that it belongs to.

    """

    name: str
    image: Path
    labels: Path | None
    stamp_ns: int
    camera: str


class PictureSet(Indexed):
    """Pictures with label files, read one by one.

    Attributes:
        pictures: the frames that iterating yields.

    """

    def __init__(
        self,
        spec: str,
        pictures: Sequence[Picture],
        classes: tuple[ClassInfo, ...],
        labels: LabelFormat,
    ) -> None:
        """Keep the list; no picture is read.

        Args:
            spec: name of the data.
            pictures: its frames, in the order of iterating.
            classes: classes of the labels in id order.
            labels: what the label files hold.

        Raises:
            DataError: there is no picture.

        """
        if not pictures:
            msg = f"{spec} holds no picture: check the folder and the split"
            raise DataError(msg)
        self.spec = spec
        self.skipped = Counter()
        self.classes = classes
        self.pictures = tuple(pictures)
        self.labels = labels

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pictures)

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th sample in the order of the list.

        Raises:
            DataError: see `load`.

        """
        return (self.load(picture) for picture in self.pictures[::stride])

    def load(self, picture: Picture) -> Sample:
        """Read one sample; safe in any thread.

        Raises:
            DataError: a file is missing, unreadable, damaged or holds labels out of range, or
                image and labels differ in size; the text names the file.

        """
        return self.with_labels(picture, read_image(picture.image))

    def with_labels(self, picture: Picture, image: NDArray[np.uint8]) -> Sample:
        """Make a sample of a picture that has been read, RGB uint8 [H, W, 3].

        Raises:
            DataError: as `load`, of the label file.

        """
        labels = None
        if picture.labels is not None:
            labels = self.label_format(picture).read(picture.labels)
            _compare_sizes(picture, image.shape[:2], labels.shape)
        return Sample(
            picture.name, Frame(image, picture.stamp_ns, FRAME_ID, picture.camera), labels
        )

    def label_format(self, picture: Picture) -> LabelFormat:
        """Return what the label file of this picture holds."""
        del picture  # most data sets have one format
        return self.labels

    def refer(self, picture: Picture) -> FrameRef:
        """Return a reference to a picture."""
        labelled = picture.labels is not None
        return FrameRef(picture.name, picture.stamp_ns, labelled, partial(self.load, picture))

    def frames(self) -> tuple[FrameRef, ...]:
        """Return all pictures, unread, in the order of iterating."""
        return tuple(map(self.refer, self.pictures))

    def clips(self) -> tuple[Clip, ...]:
        """Return nothing: single pictures do not follow each other."""
        return ()

    def problems(self, *, full: bool = False) -> Iterator[str]:
        """Yield what is wrong with the files, one sentence each; see `sources.check`."""
        look = self.load if full else _glance
        for picture in self.pictures:
            problem = _problem_of(look, picture)
            if problem is not None:
                yield problem


def by_camera(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Return the pictures of each camera, in order of their stamps."""
    cameras: dict[str, list[Picture]] = {}
    for picture in pictures:
        cameras.setdefault(picture.camera, []).append(picture)
    return [sorted(found, key=lambda picture: picture.stamp_ns) for found in cameras.values()]


def _problem_of(look: Callable[[Picture], object], picture: Picture) -> str | None:
    try:
        look(picture)
    except DataError as error:
        return str(error)
    return None


def _compare_sizes(picture: Picture, image: tuple[int, ...], labels: tuple[int, ...]) -> None:
    if image != labels:
        msg = (
            f"{picture.labels} holds labels of {labels[1]}x{labels[0]} for the image "
            f"{picture.image} of {image[1]}x{image[0]}: make them one size"
        )
        raise DataError(msg)


def _glance(picture: Picture) -> None:
    """Compare files and headers without decoding.

    Raises:
        DataError: a file is missing, unreadable or cut off, or the sizes differ.

    """
    image = picture_size(picture.image)
    if picture.labels is None:
        return
    labels = picture_size(picture.labels)
    # A JPEG may ask to be turned: decoding will show.
    turned = picture.image.suffix.lower() in _JPEG_SUFFIXES and image == labels[::-1]
    if not turned:
        _compare_sizes(picture, image, labels)
