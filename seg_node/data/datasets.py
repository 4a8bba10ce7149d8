"""Named data: `camvid:DIR`, `folder:DIR`, `video:FILE`, `bag:DIR`, `street:SEED`.

Every source is a sequence of samples in time order, with labels where the data has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import CAMVID_CLASSES, DataError, Frame, IGNORE_LABEL
from seg_node.data.street import Street
from seg_node.data.video import VideoReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CAMVID_RATE_HZ = 30
"""Rate of the source video; the number in a CamVid stem counts its frames."""
CAMVID_VOID = 11
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
FOLDER_RATE_HZ = 10.0
"""Assumed rate of a folder of pictures, which carry no time."""
STREET_RATE_HZ = 15.0


@dataclass(frozen=True)
class Sample:
    """One frame of a source.

    Attributes:
        name: unique within the source, fit for a file name.
        frame: the image.
        labels: class per pixel, uint8 [H, W], 255 = void; None where the data has no labels.

    """

    name: str
    frame: Frame
    labels: NDArray[np.uint8] | None


class Source(Protocol):
    """A finite stream of samples in time order; iterating again starts over."""

    spec: str

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in time order."""
        ...

    def __len__(self) -> int:
        """Return the number of samples that iterating is expected to yield."""
        ...


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a picture file as RGB, uint8 [H, W, 3].

    Raises:
        DataError: the file is missing or not a picture.

    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        msg = f"{path} is missing or not a readable picture"
        raise DataError(msg)
    return np.ascontiguousarray(image[:, :, ::-1], np.uint8)


def read_labels(path: Path, classes: int, void: int | None = None) -> NDArray[np.uint8]:
    """Read a greyscale picture of class ids; `void` becomes 255.

    Raises:
        DataError: the file is missing, not single-channel, or holds an id that is out of range.

    """
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:  # noqa: PLR2004 - greyscale
        msg = f"{path} is missing or not an 8-bit greyscale picture of class ids"
        raise DataError(msg)
    ids = np.asarray(labels, np.uint8)
    if void is not None:
        ids = np.where(ids == void, np.uint8(IGNORE_LABEL), ids)
    known = ids[ids != IGNORE_LABEL]
    if known.size and int(known.max()) >= classes:
        msg = f"{path} holds label {known.max()}; expected 0..{classes - 1} or {IGNORE_LABEL}"
        raise DataError(msg)
    return ids


class CamVid:
    """CamVid at 480x360, 11 classes: `images/`, `labels/` and `<split>.txt` in one folder.

    Args:
        root: the folder.
        split: name of the list, such as `train`, `val` or `test`.

    Raises:
        DataError: the list is missing or empty.

    """

    def __init__(self, root: Path, split: str) -> None:
        """Read the list of stems; pictures are read while iterating."""
        self.spec = f"camvid:{root}"
        self.root = root
        listing = root / f"{split}.txt"
        if not listing.is_file():
            have = sorted(p.stem for p in root.glob("*.txt")) or "none"
            msg = f"{root} has no split {split!r} (no {listing.name}); splits there: {have}"
            raise DataError(msg)
        self.stems = tuple(listing.read_text().split())
        if not self.stems:
            msg = f"{listing} names no frame"
            raise DataError(msg)

    def __len__(self) -> int:
        """Return the number of frames in the split."""
        return len(self.stems)

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in the order of the list."""
        return (self.load(stem) for stem in self.stems)

    def load(self, stem: str) -> Sample:
        """Read one sample; its stamp is its frame number in the 30 Hz source video."""
        sequence, _, number = stem.rpartition("_")
        digits = "".join(c for c in number if c.isdigit())
        stamp_ns = int(digits or 0) * 1_000_000_000 // CAMVID_RATE_HZ
        image = read_image(self._picture(stem))
        labels = read_labels(
            self.root / "labels" / f"{stem}.png", len(CAMVID_CLASSES), CAMVID_VOID
        )
        if labels.shape != image.shape[:2]:
            msg = f"{stem}: image {image.shape[:2]} and labels {labels.shape} differ in size"
            raise DataError(msg)
        return Sample(stem, Frame(image, stamp_ns, "camera", sequence), labels)

    def _picture(self, stem: str) -> Path:
        jpeg = self.root / "images" / f"{stem}.jpg"
        return jpeg if jpeg.exists() else jpeg.with_suffix(".png")


class Folder:
    """Pictures of one folder in name order, at an assumed 10 Hz.

    A folder with `images/` and `labels/` inside reads labels `labels/<stem>.png` (greyscale
    ids of the 11 CamVid classes, 255 = void) where they exist.
    """

    def __init__(self, root: Path) -> None:
        """List the pictures.

        Raises:
            DataError: the folder is missing or holds no picture.

        """
        self.spec = f"folder:{root}"
        inner = root / "images"
        self.labels = root / "labels" if inner.is_dir() else None
        pictures = inner if inner.is_dir() else root
        self.paths = tuple(
            sorted(p for p in pictures.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        )
        if not self.paths:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            msg = f"{pictures} holds no picture ({kinds}); name a folder of pictures"
            raise DataError(msg)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.paths)

    def __iter__(self) -> Iterator[Sample]:
        """Yield the pictures in name order."""
        for index, path in enumerate(self.paths):
            stamp_ns = round(index * 1e9 / FOLDER_RATE_HZ)
            frame = Frame(read_image(path), stamp_ns, "camera", path.parent.name)
            labels = self.labels / f"{path.stem}.png" if self.labels else None
            known = labels is not None and labels.exists()
            yield Sample(
                path.stem,
                frame,
                read_labels(labels, len(CAMVID_CLASSES)) if labels and known else None,
            )


class VideoFile:
    """Frames of one video file, without labels."""

    def __init__(self, path: Path) -> None:
        """Open the file once to learn its length.

        Raises:
            DataError: the file cannot be opened or has no video stream.

        """
        self.spec = f"video:{path}"
        self.path = path
        with VideoReader(path) as reader:
            self.count = reader.frame_count or 0

    def __len__(self) -> int:
        """Return the number of frames that the container promises; 0 if it does not say."""
        return self.count

    def __iter__(self) -> Iterator[Sample]:
        """Yield the frames in display order."""
        with VideoReader(self.path) as reader:
            for index, frame in enumerate(reader.frames()):
                yield Sample(f"{index:06d}", frame, None)


class StreetClip:
    """A labelled clip of the synthetic street."""

    def __init__(self, seed: int, count: int = 150, size: tuple[int, int] = (480, 360)) -> None:
        """Prepare the street of a seed; size is (width, height) in pixels."""
        self.spec = f"street:{seed}"
        self.count = count
        self.street = Street(seed, *size, rate_hz=STREET_RATE_HZ)

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.count

    def __iter__(self) -> Iterator[Sample]:
        """Render and yield the frames."""
        for index, item in enumerate(self.street.frames(self.count)):
            yield Sample(f"{index:06d}", item.frame, item.labels)


SOURCE_KINDS = ("camvid:DIR", "folder:DIR", "video:FILE", "bag:DIR", "street:SEED")


def open_source(spec: str, *, split: str = "val") -> Source:
    """Open named data.

    Args:
        spec: one of `SOURCE_KINDS`.
        split: split of a data set that has splits.

    Raises:
        DataError: unknown kind, or the data cannot be opened.

    """
    kind, colon, rest = spec.partition(":")
    if colon and rest and kind == "camvid":
        return CamVid(Path(rest), split)
    if colon and rest and kind == "folder":
        return Folder(Path(rest))
    if colon and rest and kind == "video":
        return VideoFile(Path(rest))
    if colon and kind == "street" and rest.isdigit():
        return StreetClip(int(rest))
    msg = f"cannot open data {spec!r}; name it as one of {', '.join(SOURCE_KINDS)}"
    raise DataError(msg)


def guess_spec(source: str) -> str:
    """Return the named form of what a user typed: a bag, a folder, a video, or already named.

    Raises:
        DataError: the path does not exist.

    """
    if source.partition(":")[0] in {kind.partition(":")[0] for kind in SOURCE_KINDS}:
        return source
    path = Path(source)
    if not path.exists():
        msg = f"{source!r} does not exist; name a file, a folder, or {', '.join(SOURCE_KINDS)}"
        raise DataError(msg)
    if (path / "metadata.yaml").exists() or path.suffix in {".mcap", ".db3"}:
        return f"bag:{source}"
    if path.is_dir():
        stored = [*path.glob("*.mcap"), *path.glob("*.db3")]
        return f"bag:{source}" if stored else f"folder:{source}"
    return f"video:{source}"
