"""What named data are made of: samples, references to them, clips, and the face of a source."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice, pairwise
from statistics import median_low
from typing import Protocol, runtime_checkable, TYPE_CHECKING

import numpy as np

from seg_node.core.types import DataError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from seg_node.core.types import ClassInfo, Frame

ASSUMED_RATE_HZ = 10.0
"""Rate of pictures whose stamps tell none."""
RATE_SAMPLES = 9
"""Samples that `estimate_rate` looks at."""
RATE_RANGE_HZ = (0.5, 120.0)
MAX_REASONS = 20
"""Different reasons that `count_skip` keeps apart."""
MAX_PROBLEMS = 100
"""Problems after which `check` stops looking."""
STEP_TOLERANCE = 0.5
"""Share of the usual step by which a step inside a clip may differ from it.

A camera's jitter is well below it; a lost frame doubles the step and so ends the clip.
"""
_NS_PER_S = 1_000_000_000


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


@dataclass(frozen=True)
class FrameRef:
    """A frame that is known and not read yet.

    Attributes:
        name: the name that its sample will have.
        stamp_ns: the stamp that its frame will have, in nanoseconds.
        labelled: whether its sample will have labels.
        loader: reads it; any thread may call it.

    """

    name: str
    stamp_ns: int
    labelled: bool
    loader: Callable[[], Sample] = field(repr=False, compare=False)

    def load(self) -> Sample:
        """Read and decode the frame; safe in any thread.

        Raises:
            DataError: a file is missing, unreadable, damaged or contradicts another; the text
                names it.

        """
        return self.loader()


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one camera at a constant rate, the oldest first.

    Attributes:
        name: name of its first frame.
        rate_hz: frames per second, to a thousandth.
        frames: the frames; any number of them, also none, may be labelled.

    """

    name: str
    rate_hz: float
    frames: tuple[FrameRef, ...]

    def preceding(self, index: int, count: int) -> tuple[FrameRef, ...]:
        """Return the `count` frames right before frame `index`, oldest first.

        At the start of the clip there are fewer, before frame 0 none.

        Raises:
            DataError: the clip has no frame `index`, or `count` is negative.

        """
        if not 0 <= index < len(self.frames):
            msg = f"clip {self.name} has frames 0..{len(self.frames) - 1}, not {index}"
            raise DataError(msg)
        if count < 0:
            msg = f"{count} frames before frame {index} of {self.name}: ask for 0 or more"
            raise DataError(msg)
        return self.frames[max(0, index - count) : index]


class Source(Protocol):
    """A finite stream of samples in time order; iterating again starts over.

    Attributes:
        spec: name of the data, such as `camvid:DIR`.
        skipped: reason -> images of the latest pass that could not be used.
        classes: the classes of its labels in id order; empty where it has no labels or nobody
            says what they mean.

    """

    spec: str
    skipped: Counter[str]
    classes: tuple[ClassInfo, ...] = ()

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

    def clips(self) -> tuple[Clip, ...]:
        """Return its consecutive frames, cut where the stamps jump; no picture is decoded.

        Empty where no two frames are known to follow each other.
        """
        return ()

    def problems(self, *, full: bool = False) -> Iterator[str]:
        """Yield what is wrong with the data, one sentence each; see `check`."""
        if not full:
            return
        try:
            for _ in self:
                pass
        except DataError as error:
            yield str(error)
        for reason, count in self.skipped.items():
            yield f"{self.spec}: {count} x {reason}"
        short = self.shortfall()
        if short is not None:
            yield short


@runtime_checkable
class Indexed(Source, Protocol):
    """A source whose samples can be read in any order."""

    def frames(self) -> tuple[FrameRef, ...]:
        """Return its samples, unread, in the order of iterating."""
        ...


def check(source: Source, *, full: bool = False) -> list[str]:
    """Look for what would stop a run over the data later on.

    Args:
        source: the data.
        full: decode every frame and look at every label. Otherwise only files, headers and
            sizes are compared, about a millisecond a frame.

    Returns:
        One sentence a problem, with the file's name; at most `MAX_PROBLEMS`.

    """
    return list(islice(source.problems(full=full), MAX_PROBLEMS))


def cut_clips(frames: Sequence[FrameRef], lone_rate_hz: float) -> tuple[Clip, ...]:
    """Cut the frames of one camera into clips of a constant rate.

    The usual step is the median one; a clip ends where a step differs from it by more than
    `STEP_TOLERANCE`. Every frame is in exactly one clip.

    Args:
        frames: frames of one camera, in the order in which they are to be played.
        lone_rate_hz: rate where no stamp follows another, such as of a single frame.

    """
    steps = [after.stamp_ns - before.stamp_ns for before, after in pairwise(frames)]
    usual = median_low([s for s in steps if s > 0] or [round(_NS_PER_S / lone_rate_hz)])
    runs: list[list[FrameRef]] = []
    for index, frame in enumerate(frames):
        if index and abs(steps[index - 1] - usual) <= STEP_TOLERANCE * usual:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    rate_hz = round(_NS_PER_S / usual, 3)
    return tuple(Clip(run[0].name, rate_hz, tuple(run)) for run in runs)


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
        return ASSUMED_RATE_HZ
    return float(np.clip(_NS_PER_S / np.median(steps_ns), *RATE_RANGE_HZ))
