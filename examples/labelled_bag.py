"""Writes a labelled bag of named data, to try `seg_node replay` on one (docs/replay.md).

    python examples/labelled_bag.py street:7 out/street_bag --frames 90
    python examples/labelled_bag.py camvid:DIR out/camvid_bag
    python examples/labelled_bag.py folder:DIR out/my_bag

Images are on /camera/image, their masks on /camera/truth, with one stamp; a frame without labels
has no mask. The class file beside them names the classes, which bounds the ids of the masks.
"""

from __future__ import annotations

import argparse
import csv
from itertools import islice
from pathlib import Path
import sys

from seg_node.core.types import SegNodeError
from seg_node.data.bag_writer import BagWriter
from seg_node.data.datasets import open_source

START_NS = 1_000_000_000_000_000_000
"""Stamp of the first frame: a stamp of 0 would mean that nobody has set it."""


def main() -> int:
    """Write the bag; errors of the data are one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="named data, such as camvid:DIR")
    parser.add_argument("out", type=Path, help="folder of the new bag")
    parser.add_argument("--split", default="val", help="split of the data (default: val)")
    parser.add_argument("--frames", type=int, help="stop after so many")
    args = parser.parse_args()
    try:
        written = write_bag(args.data, args.out, args.split, args.frames)
    except SegNodeError as error:
        sys.stderr.write(f"labelled_bag: {error}\n")
        return 1
    sys.stdout.write(f"{written} frames, bag:{args.out}\n")
    return 0


def write_bag(data: str, out: Path, split: str, frames: int | None) -> int:
    """Write the bag and its class file; returns how many frames it has.

    Raises:
        DataError: the data cannot be read, or the bag cannot be written.

    """
    source = open_source(data, split=split)
    count = 0
    with BagWriter(out) as bag:
        for sample in islice(source, frames):
            frame, stamp_ns = sample.frame, START_NS + sample.frame.stamp_ns
            frame_id = frame.frame_id
            bag.write_image("/camera/image", frame.image, stamp_ns=stamp_ns, frame_id=frame_id)
            if sample.labels is not None:
                labels = sample.labels
                bag.write_image("/camera/truth", labels, stamp_ns=stamp_ns, frame_id=frame_id)
            count += 1
    if source.classes:
        with (out / "classes.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("id", "name", "r", "g", "b"))
            table.writerows((i, c.name, *c.color) for i, c in enumerate(source.classes))
    return count


if __name__ == "__main__":
    sys.exit(main())
