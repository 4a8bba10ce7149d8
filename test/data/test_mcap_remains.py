"""What is said of a bag whose recorder died: how much of it is whole."""

from __future__ import annotations

from typing import Literal, TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import DataError
from seg_node.data.bag import BagReader
from seg_node.data.bag_writer import BagWriter
from seg_node.data.mcap_remains import describe_remains

if TYPE_CHECKING:
    from pathlib import Path

Compression = Literal["none", "chunk"]
COUNT = 9
PERIOD_NS = 500_000_000
START_NS = 1_700_000_000_000_000_000


def write_bag(path: Path, compression: Compression = "none") -> Path:
    """Write pictures of which several fit a chunk, and return the storage file."""
    noise = np.random.default_rng(2).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    with BagWriter(path, compression=compression) as bag:
        for index in range(COUNT):
            stamp_ns = START_NS + index * PERIOD_NS
            bag.write_image("/camera", noise, stamp_ns=stamp_ns, frame_id="camera")
    return path / f"{path.name}.mcap"


@pytest.mark.parametrize("compression", ["none", "chunk"])
def test_whole_messages_are_counted_without_unpacking(
    tmp_path: Path, compression: Compression
) -> None:
    """All of them where only the end is missing, fewer the more is cut."""
    file = write_bag(tmp_path / "bag", compression)
    data = file.read_bytes()
    assert describe_remains(file) == f"{COUNT} messages of its first 4.0 s are whole"
    counts = []
    for kept in (0.0001, 0.4, 0.7, 0.9):
        file.write_bytes(data[: max(8, int(len(data) * kept))])
        text = describe_remains(file)
        counts.append(0 if text.startswith("no message") else int(text.partition(" ")[0]))
        if counts[-1]:
            assert f"first {(counts[-1] - 1) * PERIOD_NS / 1e9:.1f} s" in text
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert 0 < counts[1] < counts[3] < COUNT


def test_the_refusal_of_a_half_written_bag_says_it(tmp_path: Path) -> None:
    file = write_bag(tmp_path / "bag")
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * 0.7)])
    with pytest.raises(DataError, match=r"repair it with .*; \d messages of its first .* whole$"):
        BagReader(tmp_path / "bag")
