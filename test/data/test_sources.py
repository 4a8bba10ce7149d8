"""Clips, references and checks, apart from any data."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError, Frame
from seg_node.data.sources import (
    check,
    Clip,
    count_skip,
    cut_clips,
    FrameRef,
    Indexed,
    MAX_PROBLEMS,
    MAX_REASONS,
    Sample,
    Source,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MS = 1_000_000


def refs(*stamps_ms: int) -> tuple[FrameRef, ...]:
    """Return frames of these stamps, named by them; loading one is an error."""

    def load() -> Sample:
        msg = "listing must not load"
        raise AssertionError(msg)

    return tuple(FrameRef(str(ms), ms * MS, False, load) for ms in stamps_ms)


def names(frames: tuple[FrameRef, ...]) -> list[str]:
    """Return the frames' names."""
    return [frame.name for frame in frames]


def test_preceding_is_oldest_first_and_short_at_the_start() -> None:
    """Frame 0 has no predecessor; frame 2 has two."""
    clip = Clip("0", 10.0, refs(0, 100, 200, 300, 400))
    assert names(clip.preceding(3, 2)) == ["100", "200"]
    assert names(clip.preceding(4, 4)) == ["0", "100", "200", "300"]
    assert names(clip.preceding(2, 5)) == ["0", "100"]
    assert clip.preceding(0, 3) == ()
    assert clip.preceding(4, 0) == ()


def test_preceding_of_no_frame_is_refused() -> None:
    """An index from the end would silently be another frame's past."""
    clip = Clip("0", 10.0, refs(0, 100))
    for index in (-1, 2):
        with pytest.raises(DataError, match=rf"clip 0 has frames 0\.\.1, not {index}"):
            clip.preceding(index, 1)
    with pytest.raises(DataError, match="ask for 0 or more"):
        clip.preceding(1, -1)


def test_clips_are_cut_where_stamps_jump() -> None:
    """Jitter stays inside a clip; a lost frame, a standing and a backward stamp end it."""
    frames = refs(0, 100, 203, 301, 501, 600, 600, 700, 50, 150)
    clips = cut_clips(frames, 30.0)
    parts = [["0", "100", "203", "301"], ["501", "600"], ["600", "700"], ["50", "150"]]
    assert [names(clip.frames) for clip in clips] == parts
    assert {clip.rate_hz for clip in clips} == {10.0}
    assert [clip.name for clip in clips] == ["0", "501", "600", "50"]


def test_rate_is_the_usual_one() -> None:
    """One long gap does not change the rate; a lone frame gets the rate that is assumed."""
    assert [c.rate_hz for c in cut_clips(refs(0, 40, 80, 5000), 1.0)] == [25.0, 25.0]
    (lone,) = cut_clips(refs(70), 17.0)
    assert lone.rate_hz == 17.0
    assert cut_clips((), 17.0) == ()


class Broken(Source):
    """Four images, of which one is skipped and one is missing at the end."""

    def __init__(self, error: str = "") -> None:
        """Prepare; with an error, the second sample raises it."""
        self.spec, self.skipped, self.error = "broken:1", Counter[str](), error

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield a frame, skip one, and end early."""
        del stride
        yield Sample("0", Frame(np.zeros((2, 2, 3), np.uint8)), None)
        if self.error:
            raise DataError(self.error)
        count_skip(self.skipped, "a grey image")

    def __len__(self) -> int:
        """Return 4."""
        return 4

    def shortfall(self) -> str | None:
        """Tell that the last ones are missing."""
        return "delivered 2 of 4"


def test_check_of_a_stream() -> None:
    """In full form a stream is played, and everything that it left out is a problem."""
    assert check(Broken()) == []
    assert check(Broken(), full=True) == ["broken:1: 1 x a grey image", "delivered 2 of 4"]
    assert check(Broken("file x is cut"), full=True)[0] == "file x is cut"
    assert not isinstance(Broken(), Indexed)
    assert Broken().clips() == ()
    assert Broken().classes == ()


def test_check_is_bounded() -> None:
    """A folder of ten thousand broken files is told in a hundred lines."""

    class Endless(Broken):
        def problems(self, *, full: bool = False) -> Iterator[str]:
            del full
            while True:
                yield "one more"

    assert len(check(Endless())) == MAX_PROBLEMS


def test_reasons_are_bounded() -> None:
    """A bag whose every image is broken in another way does not fill the memory."""
    skipped: Counter[str] = Counter()
    for index in range(MAX_REASONS + 30):
        count_skip(skipped, f"reason {index}")
    count_skip(skipped, "reason 0")
    assert skipped["reason 0"] == 2
    assert skipped["for other reasons"] == 30
    assert skipped.total() == MAX_REASONS + 31
