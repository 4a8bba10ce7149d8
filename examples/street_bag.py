"""Writes a labelled bag of the synthetic street, to try `seg_node replay` on (docs/replay.md).

    python examples/street_bag.py out/street_bag

Images are on /camera/image, their masks on /camera/truth, both stamped at 15 Hz.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seg_node.data.bag_writer import BagWriter
from seg_node.data.clips import StreetClip

START_NS = 1_000_000_000_000_000_000
"""Stamp of the first frame: a stamp of 0 would mean that nobody has set it."""


def main() -> None:
    """Write the bag."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the new bag")
    parser.add_argument("--seed", type=int, default=7, help="which street")
    parser.add_argument("--frames", type=int, default=90)
    args = parser.parse_args()
    with BagWriter(args.out) as bag:
        for sample in StreetClip(args.seed, args.frames):
            assert sample.labels is not None
            stamp_ns = START_NS + sample.frame.stamp_ns
            frame_id = sample.frame.frame_id
            image, labels = sample.frame.image, sample.labels
            bag.write_image("/camera/image", image, stamp_ns=stamp_ns, frame_id=frame_id)
            bag.write_image("/camera/truth", labels, stamp_ns=stamp_ns, frame_id=frame_id)


if __name__ == "__main__":
    main()
