"""What a replay is compared with: labels of the data, labels in a folder, or mode `dense`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
import re
from typing import TYPE_CHECKING

from seg_node.core.types import ConfigError, DataError, IGNORE_LABEL
from seg_node.data.class_files import find_class_file
from seg_node.data.label_files import ids
from seg_node.data.pictures import list_pictures
from seg_node.data.sources import Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seg_node.core.types import ClassInfo
    from seg_node.data.sources import Sample

TOLERANCE_MS = 5.0
"""Most time between the stamp of a label and that of its frame, unless said otherwise."""
_SECONDS = re.compile(r"(\d+)\.(\d{1,9})")
_STAMP_DIGITS = 12
"""Least digits of a number that is a stamp in nanoseconds, not the number of a frame."""
_NS_PER_S = 1_000_000_000
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Reference:
    """What to compare with, beside the labels that the data have.

    Attributes:
        labels: folder of label pictures; None for the data's own labels, if any.
        dense: whether mode `dense` runs beside the modes.
        tolerance_ms: most time between a label and its frame, at least 0.

    """

    labels: Path | None = None
    dense: bool = False
    tolerance_ms: float = TOLERANCE_MS


def parse_reference(texts: Sequence[str], tolerance_ms: float | None = None) -> Reference:
    """Return what `--reference`, given any number of times, and `--tolerance-ms` ask for.

    Raises:
        ConfigError: a text is neither `dense` nor `labels:DIR`, or the tolerance is of no use.

    """
    folders = [text.partition(":")[2] for text in texts if text.startswith("labels:")]
    other = [text for text in texts if text != "dense" and not text.startswith("labels:")]
    if other or "" in folders or len(folders) > 1:
        wrong = other[0] if other else ", ".join(texts)
        msg = f"--reference {wrong!r}: give dense, labels:DIR, or both, each once"
        raise ConfigError(msg)
    if tolerance_ms is not None and (not folders or not tolerance_ms >= 0):
        msg = f"--tolerance-ms {tolerance_ms}: give 0 or more, beside --reference labels:DIR"
        raise ConfigError(msg)
    tolerance = TOLERANCE_MS if tolerance_ms is None else tolerance_ms
    return Reference(Path(folders[0]) if folders else None, "dense" in texts, tolerance)


class FolderLabels(Source):
    """A source with its labels from a folder of label pictures.

    A file name is a stamp, in nanoseconds (12 digits or more) or in seconds with a dot, or else
    the name of a frame, such as its number in a bag. A stamp's label belongs to the frame nearest
    in time within the tolerance. `classes.csv` or `classes.txt` in the folder names the classes.

    Args:
        source: the frames; labels of its own are replaced.
        folder: the label pictures, PNG.
        tolerance_ms: most time between a label and its frame.

    Raises:
        DataError: the folder holds no label pictures, or both kinds of names.

    """

    def __init__(self, source: Source, folder: Path, tolerance_ms: float = TOLERANCE_MS) -> None:
        """List the files; they are read later."""
        self.spec = source.spec
        self.skipped = source.skipped
        self._source = source
        self._folder = folder
        self._tolerance_ms = tolerance_ms
        known = find_class_file(folder)
        self.classes: tuple[ClassInfo, ...] = known.classes if known else ()
        self._format = known.labels if known else ids(IGNORE_LABEL)
        files = {path: _stamp_ns(path.stem) for path in list_pictures(folder, ".png")}
        if len({stamp is None for stamp in files.values()}) > 1:
            named = next(path.name for path, stamp in files.items() if stamp is None)
            msg = f"{folder} names labels by stamp, but {named} is no stamp: name all in one way"
            raise DataError(msg)
        self._by_stamp = sorted((s, path) for path, s in files.items() if s is not None)
        self._by_name = {_key(path.stem): path for path, s in files.items() if s is None}
        self._matched: Counter[Path] = Counter()

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th frame with its label.

        Raises:
            DataError: a label cannot be used or fits two frames, or (at the end of a whole pass)
                no label fits any frame.

        """
        self._matched.clear()
        for sample in self._source.every(stride):
            self.skipped = self._source.skipped
            path = self._label_of(sample)
            yield replace(sample, labels=None if path is None else self._read(path, sample))
        if not self._matched:
            msg = f"no label in {self._folder} fits any frame of {self.spec}: {self._how()}"
            raise DataError(msg)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._source)

    def shortfall(self) -> str | None:
        """Tell what the source did not deliver, and how many labels fit no frame."""
        spare = len(self._by_stamp) + len(self._by_name) - len(self._matched)
        text = f"{spare} labels in {self._folder} fit no frame: {self._how()}" if spare else None
        told = [x for x in (self._source.shortfall(), text) if x]
        return "; ".join(told) or None

    def fingerprint(self) -> str | None:
        """Return the hash of the frames; the labels are not in it."""
        return self._source.fingerprint()

    def _label_of(self, sample: Sample) -> Path | None:
        if self._by_name:
            path = self._by_name.get(_key(sample.name))
        else:
            stamp_ns = sample.frame.stamp_ns
            nearest, path_ = min(self._by_stamp, key=lambda item: abs(item[0] - stamp_ns))
            near = abs(nearest - stamp_ns) <= self._tolerance_ms * _NS_PER_MS
            path = path_ if near else None
        if path is not None:
            self._matched[path] += 1
            if self._matched[path] > 1:
                msg = (
                    f"label {path} lies within {self._tolerance_ms:g} ms of two frames of "
                    f"{self.spec}: lower --tolerance-ms"
                )
                raise DataError(msg)
        return path

    def _read(self, path: Path, sample: Sample) -> NDArray[np.uint8]:
        labels = self._format.read(path)
        height, width = sample.frame.image.shape[:2]
        if labels.shape != (height, width):
            size = f"{labels.shape[1]}x{labels.shape[0]}"
            msg = f"label {path} is {size} for an image of {width}x{height}: make them one size"
            raise DataError(msg)
        return labels

    def _how(self) -> str:
        if self._by_name:
            return "name them as the frames, which a bag or video numbers from 0"
        return f"stamps may differ by {self._tolerance_ms:g} ms, see --tolerance-ms"


def _stamp_ns(stem: str) -> int | None:
    """Return the stamp that a file is named by; None if it is named otherwise."""
    seconds = _SECONDS.fullmatch(stem)
    if seconds:
        return int(seconds[1]) * _NS_PER_S + int(seconds[2].ljust(9, "0"))
    return int(stem) if stem.isdigit() and len(stem) >= _STAMP_DIGITS else None


def _key(name: str) -> str:
    """Return a frame's name; of a number, without leading zeros."""
    return str(int(name)) if name.isdigit() else name
