"""Run under torchrun with a folder and an output: a label file is lost while training runs."""

from __future__ import annotations

from pathlib import Path
import sys

from seg_node.core.types import DataError
from seg_node.train.command import train_segment
from seg_node.train.distributed import join
from seg_node.train.pictures import Pool
from seg_node.train.request import SegmentRequest
from seg_node.train.settings import SegmentTraining


def main(folder: Path, out: Path) -> None:
    """Train, lose the file after the first step, and print how it ended."""
    settings = SegmentTraining(steps=20, batch=4, crop_width=64, crop_height=64)
    request = SegmentRequest((f"folder:{folder}",), out, settings=settings)
    rank = join().rank
    # No memory for pictures: each is read from its file again.
    Pool.__init__.__kwdefaults__["kept_bytes"] = 0  # type: ignore[index]  # it has defaults

    def lose(done: int) -> None:
        if done == 1:
            (folder / "labels" / "5.png").unlink(missing_ok=True)

    try:
        train_segment(request, lose)
    except DataError as err:
        print(f"rank {rank}: {err}")  # noqa: T201 - read by the test


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
