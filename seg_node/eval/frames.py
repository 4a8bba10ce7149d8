"""The table of a run: one row per frame and mode, as `frames.csv` beside `results.json`.

It is written frame by frame, so that memory stays flat however long the recording is, and holds
enough to compute every figure of `results.json` anew from any selection of its frames: that is
what confidence intervals need (`compare.py`).
"""

from __future__ import annotations

from array import array
from contextlib import contextmanager, ExitStack
import csv
from dataclasses import asdict, dataclass, field, fields
import math
import sys
from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.core.closing import Closing
from seg_node.core.types import Action, DataError
from seg_node.eval.metrics import mean_of_seen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from seg_node.core.types import StepResult
    from seg_node.eval.results import FrameScore

FRAMES = "frames.csv"
"""Name of the table in the folder of a run."""
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class FrameRow:
    """One frame in one mode; what was not measured is None.

    Attributes:
        index: number of the frame in its source, from 0, dropped ones counted.
        stamp_ns: header stamp.
        mode: how compute was chosen.
        dropped: whether the mode never saw the frame; its scores are then those of the mask
            that was the newest one, where anybody counted them.
        step_ms: time of the whole step.
        late_ms: time from the frame's arrival to its mask, where frames arrive.
        high: share of the blocks at full resolution, 0..1.
        low: share of the blocks at half resolution, 0..1.
        reuse: share of the blocks that were remembered, 0..1.
        reason: why its plan is what it is, a name of `Reason`.
        age_p50_ms: median over the blocks of the age of what is behind them.
        age_max_ms: age of the oldest block.
        gmac: multiply-accumulates, 1e9.
        joules: energy of the step.
        miou: the frame's own mean IoU, 0..1.
        agreement: share of its pixels with the class that mode `dense` gives them, 0..1.
        stage_ms: time of each stage.
        overlaps: by class, (intersection, union) in pixels; a class that is nowhere is left out.

    """

    index: int
    stamp_ns: int
    mode: str
    dropped: bool = False
    step_ms: float | None = None
    late_ms: float | None = None
    high: float | None = None
    low: float | None = None
    reuse: float | None = None
    reason: str | None = None
    age_p50_ms: float | None = None
    age_max_ms: float | None = None
    gmac: float | None = None
    joules: float | None = None
    miou: float | None = None
    agreement: float | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    overlaps: Mapping[int, tuple[int, int]] = field(default_factory=dict)


COLUMNS = tuple(f.name for f in fields(FrameRow))
NUMBERS = (
    "step_ms",
    "late_ms",
    "high",
    "low",
    "reuse",
    "age_p50_ms",
    "age_max_ms",
    "gmac",
    "joules",
    "miou",
    "agreement",
)
"""The columns that hold a number or nothing."""


def row_of(  # noqa: PLR0913 - what is known of a frame
    index: int,
    stamp_ns: int,
    mode: str,
    result: StepResult,
    score: FrameScore,
    *,
    late_ms: float | None = None,
) -> FrameRow:
    """Return the row of a frame that went through a step.

    Args:
        index: number of the frame in its source, from 0.
        stamp_ns: its header stamp.
        mode: how compute was chosen.
        result: what the step made of it.
        score: how right that is.
        late_ms: time from its arrival to its mask; None where frames do not arrive.

    """
    report = result.report
    return FrameRow(
        index=index,
        stamp_ns=stamp_ns,
        mode=mode,
        step_ms=report.total_ns / _NS_PER_MS,
        high=result.plan.fraction(Action.HIGH),
        low=result.plan.fraction(Action.LOW),
        reuse=result.plan.fraction(Action.REUSE),
        reason=result.plan.reason.name,
        age_p50_ms=float(np.median(result.age_ms)),
        age_max_ms=float(result.age_ms.max()),
        gmac=report.macs / 1e9,
        late_ms=late_ms,
        joules=report.joules,
        miou=score.miou,
        agreement=score.agreement,
        stage_ms={stage: ns / _NS_PER_MS for stage, ns in report.stage_ns.items()},
        overlaps=seen_overlaps(score),
    )


def seen_overlaps(score: FrameScore) -> dict[int, tuple[int, int]]:
    """Return (intersection, union) in pixels of the classes in the frame; none without labels."""
    if score.overlaps is None:
        return {}
    pairs = enumerate(score.overlaps.tolist())
    return {label: (hit, union) for label, (hit, union) in pairs if union}


class FrameWriter(Closing):
    """Writes the table row by row; use it as a context manager.

    Every row is flushed to the disk's cache whole, so a run that is killed leaves a table whose
    last line alone may be cut.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        """Open the table.

        Args:
            path: the file.
            keep: go on with a table that is there: keep its rows of the frames 0..keep-1 and
                write after them. 0 starts anew.

        Raises:
            DataError: the file cannot be written, or has no whole rows of so many frames.

        """
        self._path = path
        with self._written(), ExitStack() as on_error:
            if keep:
                _cut(path, keep)
            how = "a" if keep else "w"
            file = path.open(how, encoding="utf-8", newline="", buffering=1)
            self._file = on_error.enter_context(file)
            self._rows = csv.writer(self._file, lineterminator="\n")
            if not keep:
                self._rows.writerow(COLUMNS)
            on_error.pop_all()

    def write(self, row: FrameRow) -> None:
        """Write one row; the rows of a frame lie together, frames in order.

        Raises:
            DataError: the disk is full, or refuses otherwise.

        """
        with self._written():
            self._rows.writerow([_text(value) for value in asdict(row).values()])

    def close(self) -> None:
        """Finish the file.

        Raises:
            DataError: the disk is full, or refuses otherwise.

        """
        with self._written():  # what could not be written before is tried once more
            self._file.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Tell in one sentence what the disk refuses."""
        try:
            yield
        except OSError as error:
            msg = f"cannot write {self._path}: {error}"
            raise DataError(msg) from error


def _text(value: Any) -> str:
    """Return a value as a field: nothing for None, six digits of a float, `a:1 b:2` of a map."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return " ".join(f"{key}:{_member(item)}" for key, item in value.items())
    return str(value)


def _member(item: Any) -> str:
    return f"{item[0]}/{item[1]}" if isinstance(item, tuple) else f"{item:.4g}"


def _cut(path: Path, keep: int) -> None:
    """Take all rows but those of frames 0..keep-1 out of the table, and a last line that is cut.

    Modes that drop frames are not in step, so rows to go may lie between those to keep.
    """
    partial = path.with_name(path.name + ".partial")
    last = -1
    with path.open("rb") as file, partial.open("wb") as kept:
        kept.write(file.readline())
        for line in file:
            index = int(line.partition(b",")[0] or keep)
            if index < keep and line.endswith(b"\n"):
                kept.write(line)
                last = max(last, index)
    if last != keep - 1:
        partial.unlink()
        msg = f"{path} ends at frame {last}, so nothing can follow frame {keep - 1}: start anew"
        raise DataError(msg)
    partial.replace(path)


@dataclass(frozen=True)
class ModeFrames:
    """The frames of one mode, as columns of n frames each, in the order of their numbers.

    Attributes:
        index: number of each frame in its source, int64 [n].
        stamp_ns: header stamps, int64 [n].
        dropped: whether the mode never saw the frame, bool [n].
        reason: names of `Reason`, n of them; empty for dropped frames.
        numbers: the columns of `NUMBERS`, float64 [n]; nan where nothing was measured.
        stage_ms: stages, float64 [n]; nan in frames without the stage.
        overlaps: (intersection, union) in pixels per class, int64 [n, classes, 2]; zeros in
            frames without labels.

    """

    index: NDArray[np.int64]
    stamp_ns: NDArray[np.int64]
    dropped: NDArray[np.bool_]
    reason: tuple[str, ...]
    numbers: Mapping[str, NDArray[np.float64]]
    stage_ms: Mapping[str, NDArray[np.float64]]
    overlaps: NDArray[np.int64]

    def miou(self) -> float | None:
        """Return the mean IoU pooled over all frames; None without labels."""
        hit, union = self.overlaps.sum(0).T
        return mean_of_seen([h / u if u else None for h, u in zip(hit, union, strict=True)])


def read_frames(path: Path, classes: int) -> dict[str, ModeFrames]:
    """Read a table.

    Args:
        path: the file.
        classes: number of classes of the model.

    Returns:
        The frames of each mode, in the order in which the modes appear.

    Raises:
        DataError: the file cannot be read, is no such table, or holds a class that is not there.

    """
    modes: dict[str, _Columns] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                msg = f"{path} is no table of frames: its first line is not {','.join(COLUMNS)}"
                raise DataError(msg)
            for row in reader:
                modes.setdefault(row["mode"], _Columns(classes)).add(row)
    except OSError as error:
        msg = f"cannot read {path}: {error}"
        raise DataError(msg) from error
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        msg = f"{path} is damaged: {error}"
        raise DataError(msg) from error
    return {mode: columns.frames() for mode, columns in modes.items()}


class _Columns:
    """Gathers the rows of one mode, each as a few machine words."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._index = array("q")
        self._stamp_ns = array("q")
        self._dropped = array("b")
        self._reason: list[str] = []
        self._numbers = {name: array("d") for name in NUMBERS}
        self._stages: dict[str, array[float]] = {}
        self._overlaps: list[NDArray[np.int64]] = []

    def add(self, row: Mapping[str, str]) -> None:
        self._index.append(int(row["index"]))
        self._stamp_ns.append(int(row["stamp_ns"]))
        self._dropped.append(int(row["dropped"]))
        self._reason.append(sys.intern(row["reason"]))
        for name, column in self._numbers.items():
            column.append(_number(row[name]))
        before = len(self._index) - 1
        stages = _pairs(row["stage_ms"])
        for stage in stages:
            self._stages.setdefault(stage, array("d", [math.nan] * before))
        for stage, times in self._stages.items():
            times.append(_number(stages.get(stage, "")))
        self._overlaps.append(self._counts(row["overlaps"]))

    def _counts(self, text: str) -> NDArray[np.int64]:
        counts = np.zeros((self._classes, 2), np.int64)
        for label, pair in _pairs(text).items():
            counts[int(label)] = [int(part) for part in pair.split("/")]
        return counts

    def frames(self) -> ModeFrames:
        """Return what was gathered."""
        index = np.array(self._index, np.int64)
        order = np.argsort(index, kind="stable")
        overlaps = np.array(self._overlaps, np.int64).reshape(-1, self._classes, 2)
        return ModeFrames(
            index=index[order],
            stamp_ns=np.array(self._stamp_ns, np.int64)[order],
            dropped=np.array(self._dropped, np.bool_)[order],
            reason=tuple(self._reason[frame] for frame in order),
            numbers={name: np.array(column)[order] for name, column in self._numbers.items()},
            stage_ms={stage: np.array(times)[order] for stage, times in self._stages.items()},
            overlaps=overlaps[order],
        )


def _pairs(text: str) -> dict[str, str]:
    """Return the members of a field such as `a:1 b:2`."""
    return dict(item.split(":", 1) for item in text.split())


def _number(text: str) -> float:
    return float(text) if text else math.nan
