"""Data in another size: pictures smooth, labels of the nearest pixel, the rest as it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import ConfigError, Frame, Motion
from seg_node.data.clips import StreetClip
from seg_node.data.resizing import in_size, parse_size, Resized, resized
from seg_node.data.sources import Sample, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

RNG = np.random.default_rng(0)
SAMPLE = Sample(
    "one",
    Frame(RNG.integers(0, 256, (24, 32, 3), np.uint8), 7, "optical", "front"),
    RNG.integers(0, 11, (24, 32), np.uint8),
    9,
)


class Few(Source):
    """Three samples, of which one more was promised."""

    spec, skipped = "few:3", Counter[str]()

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield them; one picture is damaged in every pass."""
        self.skipped = Counter({"damaged": 1})
        yield from [replace(SAMPLE, name=str(index)) for index in range(0, 3, stride)]

    def __len__(self) -> int:
        """Return how many were promised."""
        return 4

    def shortfall(self) -> str | None:
        """Tell of the missing one."""
        return "one frame is missing"

    def fingerprint(self) -> str | None:
        """Return a hash."""
        return "abc"


def test_images_are_means_and_labels_those_of_the_nearest_pixel() -> None:
    assert SAMPLE.labels is not None
    twice = resized(SAMPLE, (64, 48))
    assert twice.labels is not None
    np.testing.assert_array_equal(twice.labels, np.kron(SAMPLE.labels, np.ones((2, 2), np.uint8)))
    assert twice.frame.image.shape == (48, 64, 3)
    flat = np.asarray(twice.frame.image, float)[10:38, 10:54]
    known = np.kron(SAMPLE.frame.image, np.ones((2, 2, 1)))[10:38, 10:54]
    assert 0 < np.abs(flat - known).mean() < np.abs(flat - known.mean()).mean()
    half = resized(SAMPLE, (16, 12))
    assert half.labels is not None
    assert half.labels.shape == (12, 16)
    means = SAMPLE.frame.image.reshape(12, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(half.frame.image - means).max() <= 0.5


def test_all_else_stays_but_motion_in_pixels_of_the_old_size() -> None:
    motion = Motion(np.zeros((24, 32, 2), np.float32), np.ones((24, 32), np.bool_))
    sample = replace(SAMPLE, frame=replace(SAMPLE.frame, motion=motion))
    assert resized(sample, (32, 24)) is sample
    found = resized(sample, (40, 24))
    assert found.frame.motion is None
    assert (found.name, found.receive_ns, found.frame.stamp_ns) == ("one", 9, 7)
    assert (found.frame.frame_id, found.frame.camera) == ("optical", "front")
    assert resized(replace(sample, labels=None), (40, 24)).labels is None


def test_a_source_in_another_size_tells_what_its_own_tells() -> None:
    source = in_size(Few(), (40, 24))
    assert isinstance(source, Resized)
    found = list(source.every(2))
    assert [(x.name, x.frame.image.shape) for x in found] == [
        ("0", (24, 40, 3)),
        ("2", (24, 40, 3)),
    ]
    assert source.skipped == {"damaged": 1}
    assert (source.spec, len(source), source.classes) == ("few:3", 4, ())
    assert (source.shortfall(), source.fingerprint()) == ("one frame is missing", "abc")
    own = Few()
    assert in_size(own, None) is own


def test_a_street_is_drawn_in_the_size() -> None:
    """Its motion is exact in pixels of that size."""
    found = in_size(StreetClip(3, 2), (96, 64))
    assert isinstance(found, StreetClip)
    assert (found.spec, len(found)) == ("street:3", 2)
    for one, other in zip(found, StreetClip(3, 2, (96, 64)), strict=True):
        np.testing.assert_array_equal(one.frame.image, other.frame.image)
    assert found.street.render(1).flow.shape == (64, 96, 2)


@pytest.mark.parametrize(
    "text", ["960", "960x", "x720", "960X720", "960 x 720", "-1x5", "1e3x20", "٩x٩", "960x720x3"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected WIDTHxHEIGHT in pixels, such as 960x720"):
        parse_size(text)


@pytest.mark.parametrize("size", [(0, 720), (960, 15), (8193, 16), (999999999, 999999999)])
def test_a_size_out_of_range_is_refused(size: tuple[int, int]) -> None:
    assert parse_size("960x720") == (960, 720)
    with pytest.raises(ConfigError, match=f"size is {size[0]}x{size[1]}; each side may be 16 to"):
        in_size(Few(), size)
