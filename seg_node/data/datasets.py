"""Named data: `camvid:DIR`, `folder:DIR`, `video:FILE`, `bag:DIR`, `street:SEED`.

Every source is a sequence of samples in time order, with labels where the data has them. What a
source cannot deliver is not silent: `skipped` counts it by reason, `shortfall` says what was
promised and did not come.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
import hashlib
from itertools import islice, pairwise
from pathlib import Path
from typing import Protocol, TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.types import CAMVID_CLASSES, DataError, Frame, IGNORE_LABEL, ImageError
from seg_node.data.bag import BagReader
from seg_node.data.image_conversion import message_to_frame
from seg_node.data.street import Street
from seg_node.data.video import VideoReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CAMVID_RATE_HZ = 30
"""Rate of the source video; the number in a CamVid stem counts its frames."""
CAMVID_VOID = 11
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
BAG_SUFFIXES = frozenset({".mcap", ".db3", ".zstd"})
FOLDER_RATE_HZ = 10.0
"""Assumed rate of a folder of pictures, which carry no time."""
STREET_RATE_HZ = 15.0
RATE_SAMPLES = 9
"""Samples that `estimate_rate` looks at."""
RATE_RANGE_HZ = (0.5, 120.0)
MAX_REASONS = 20
"""Different reasons that `count_skip` keeps apart."""
HASH_CHUNK = 1 << 20
"""Bytes that a fingerprint reads at a time."""


@dataclass(frozen=True)
class Sample:
    """One frame of a source.

    Attributes:
        name: unique within the source, fit for a file name.
        frame: the image.
        labels: class per pixel, uint8 [H, W], 255 = void; None where the data has no labels.
        receive_ns: when a recorder received it, in nanoseconds; None where nobody recorded.

    """

    name: str
    frame: Frame
    labels: NDArray[np.uint8] | None
    receive_ns: int | None = None


class Source(Protocol):
    """A finite stream of samples in time order; iterating again starts over.

    Attributes:
        spec: name of the data, one of `SOURCE_KINDS`.
        skipped: reason -> images of the latest pass that could not be used.

    """

    spec: str
    skipped: Counter[str]

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in time order."""
        return self.every(1)

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th sample, the first one included, in time order."""
        ...

    def __len__(self) -> int:
        """Return the number of samples that iterating is expected to yield; 0 if unknown."""
        ...

    def shortfall(self) -> str | None:
        """Tell what was promised and did not come in the latest pass; None if all came."""
        return None

    def fingerprint(self) -> str | None:
        """Return a hash of the data's bytes, in hexadecimal; None where there is none."""
        return None


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


class CamVid(Source):
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
        self.skipped = Counter()
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

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th sample in the order of the list."""
        return (self.load(stem) for stem in self.stems[::stride])

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


class Folder(Source):
    """Pictures of one folder in name order, at an assumed 10 Hz.

    A folder with `images/` and `labels/` inside reads labels `labels/<stem>.png` (greyscale
    ids of the 11 CamVid classes, 255 = void) where they exist. A picture that cannot be read is
    skipped and counted; a label file that cannot be used is an error.
    """

    def __init__(self, root: Path) -> None:
        """List the pictures.

        Raises:
            DataError: the folder is missing or holds no picture.

        """
        self.spec = f"folder:{root}"
        self.skipped = Counter()
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

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th picture in name order.

        Raises:
            DataError: a label file cannot be used; the text names it.

        """
        self.skipped = Counter()
        for index in range(0, len(self.paths), stride):
            path = self.paths[index]
            try:
                image = read_image(path)
            except DataError as error:
                count_skip(self.skipped, str(error))
                continue
            stamp_ns = round(index * 1e9 / FOLDER_RATE_HZ)
            frame = Frame(image, stamp_ns, "camera", path.parent.name)
            yield Sample(path.stem, frame, self._read_labels(path.stem, image.shape[:2]))

    def _read_labels(self, stem: str, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
        path = self.labels / f"{stem}.png" if self.labels else None
        if path is None or not path.exists():
            return None
        labels = read_labels(path, len(CAMVID_CLASSES))
        if labels.shape != shape:
            msg = f"{path} holds labels {labels.shape} for an image {shape}: make them one size"
            raise DataError(msg)
        return labels


class VideoFile(Source):
    """Frames of one video file, without labels."""

    def __init__(self, path: Path) -> None:
        """Open the file once to learn its length.

        Raises:
            DataError: the file cannot be opened or has no video stream.

        """
        self.spec = f"video:{path}"
        self.skipped = Counter()
        self.path = path
        with VideoReader(path) as reader:
            self.count = reader.frame_count or 0

    def __len__(self) -> int:
        """Return the number of frames that the container promises; 0 if it does not say."""
        return self.count

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th frame in display order."""
        self.skipped = Counter()
        with VideoReader(self.path) as reader:
            for index, frame in enumerate(reader.frames()):
                if index % stride == 0:
                    yield Sample(f"{index:06d}", frame, None)
            if reader.damaged:
                self.skipped["damaged frame of the video"] = reader.damaged

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        with self.path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(HASH_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()


class StreetClip(Source):
    """A labelled clip of the synthetic street."""

    def __init__(self, seed: int, count: int = 150, size: tuple[int, int] = (480, 360)) -> None:
        """Prepare the street of a seed; size is (width, height) in pixels."""
        self.spec = f"street:{seed}"
        self.skipped = Counter()
        self.count = count
        self.street = Street(seed, *size, rate_hz=STREET_RATE_HZ)

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.count

    def every(self, stride: int) -> Iterator[Sample]:
        """Render and yield every `stride`-th frame."""
        for index in range(0, self.count, stride):
            image, labels = self.street.picture(index)
            stamp_ns = round(index * 1e9 / STREET_RATE_HZ)
            yield Sample(f"{index:06d}", Frame(image, stamp_ns, "street_camera", "street"), labels)


class BagClip(Source):
    """The images of one topic of a rosbag2, in the order of the recording; read lazily.

    An image that cannot be used is skipped and counted.
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        """Open the bag's index and choose the topic.

        Args:
            path: the bag's folder, or its only file.
            topic: image topic; None where there is only one.

        Raises:
            DataError: the bag cannot be read, or the choice is not obvious; the text lists the
                candidates.

        """
        self.spec = f"bag:{path}"
        self.skipped = Counter()
        self.path = path
        with BagReader(path) as reader:
            self.topic = reader.choose(topic)
        self._shortfall: str | None = None

    def __len__(self) -> int:
        """Return the number of images that the bag promises."""
        return self.topic.count

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th image with its recorded stamp and receive time.

        Raises:
            DataError: damage left no message at all.

        """
        self._shortfall = None
        name = self.topic.name
        with BagReader(self.path) as reader:
            self.skipped = reader.skipped  # counts on while the bag is read
            for index, item in enumerate(reader.images([name])):
                if index % stride:
                    continue
                try:
                    frame = message_to_frame(item.message, topic=name, camera=name)
                except ImageError as error:
                    count_skip(self.skipped, str(error))
                    continue
                yield Sample(f"{index:06d}", frame, None, item.receive_ns)
            self._shortfall = reader.shortfall()

    def shortfall(self) -> str | None:
        """Tell what the bag promised and did not deliver in the latest whole pass."""
        return self._shortfall

    def fingerprint(self) -> str:
        """Return the SHA-256 over the bytes of the bag's storage files."""
        with BagReader(self.path) as reader:
            return reader.fingerprint()


def count_skip(skipped: Counter[str], reason: str) -> None:
    """Count one skipped image; past `MAX_REASONS` different reasons the rest count together."""
    known = reason in skipped or len(skipped) < MAX_REASONS
    skipped[reason if known else "for other reasons"] += 1


def estimate_rate(source: Source) -> float:
    """Return frames per second by the stamps of the first few samples, in 0.5..120.

    Where the stamps tell nothing, 10.
    """
    stamps = [sample.frame.stamp_ns for sample in islice(source, RATE_SAMPLES)]
    steps_ns = [after - before for before, after in pairwise(stamps) if after > before]
    if not steps_ns:
        return FOLDER_RATE_HZ
    return float(np.clip(1e9 / np.median(steps_ns), *RATE_RANGE_HZ))


SOURCE_KINDS = ("camvid:DIR", "folder:DIR", "video:FILE", "bag:DIR", "street:SEED")


def open_source(spec: str, *, split: str = "val", topic: str | None = None) -> Source:
    """Open named data.

    Args:
        spec: one of `SOURCE_KINDS`.
        split: split of a data set that has splits.
        topic: image topic of a bag; None where the bag has only one.

    Raises:
        DataError: unknown kind, the data cannot be opened, or a topic of what has no topics.

    """
    kind, colon, rest = spec.partition(":")
    if topic is not None and kind != "bag":
        msg = f"{spec} has no topics: leave topic {topic!r} out, or name a bag as bag:DIR"
        raise DataError(msg)
    if colon and rest and kind == "bag":
        return BagClip(Path(rest), topic)
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
    if (path / "metadata.yaml").exists() or path.suffix in BAG_SUFFIXES:
        return f"bag:{source}"
    if path.is_dir():
        stored = any(x.suffix in BAG_SUFFIXES for x in path.iterdir())
        return f"bag:{source}" if stored else f"folder:{source}"
    return f"video:{source}"
