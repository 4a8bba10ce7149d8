"""Memory of a replay over a long recording: it must not grow with the frames.

    python benchmarks/replay_memory.py --out benchmarks/results/replay_memory.json

Replays `--frames` tiny pictures in modes that remember, with all files, and notes the resident
memory of the process every `--every` frames. Growth is the largest reading from frame 100 on less
the one at frame 100.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import resource
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from seg_node.core.config import Config
from seg_node.core.types import Frame
from seg_node.data.clips import StreetClip
from seg_node.data.sources import Sample, Source
from seg_node.eval.replay import replay
from seg_node.eval.results import versions, write_json
from seg_node.eval.session import common, open_sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = (96, 64)
PICTURES = 40
"""Different pictures, shown again and again: drawing more would take most of the time."""
PERIOD_NS = 66_666_667
MODES = ("warp", "adaptive")
SETTLED = 100
"""Frame from which on memory may not grow."""


class Long(Source):
    """A recording of any length, which notes the memory while it is read."""

    def __init__(self, frames: int, every: int) -> None:
        """Draw the pictures."""
        self.clip = StreetClip(1, PICTURES, SIZE)
        self.spec, self.skipped, self.classes = "street:1", self.clip.skipped, self.clip.classes
        self._samples = list(self.clip)
        self._frames = frames
        self._every = every
        self.megabytes: dict[int, float] = {}

    def __len__(self) -> int:
        """Return the number of frames."""
        return self._frames

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield the pictures again and again, with stamps that grow."""
        for index in range(0, self._frames, stride):
            if index % self._every == 0 or index == SETTLED:
                self.megabytes[index] = resident_mb()
                print(f"frame {index}: {self.megabytes[index]:.1f} MB", flush=True)
            sample = self._samples[index % PICTURES]
            stamp_ns = index * PERIOD_NS
            frame = Frame(sample.frame.image, stamp_ns, "camera", "camera")
            yield Sample(f"{index:06d}", frame, sample.labels, stamp_ns)


def resident_mb() -> float:
    """Return the resident memory of this process in MB (1e6 bytes)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> int:
    """Run it and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--model", default="swiftnet18-half")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    config = Config(model=args.model, device="cpu", threads=1)
    sessions = open_sessions(config, MODES)
    source = Long(args.frames, args.every)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results = replay(source, sessions, Path(folder) / "out")
    last = source.megabytes[args.frames] = resident_mb()
    settled = source.megabytes[SETTLED]
    growth = max(mb for index, mb in source.megabytes.items() if index >= SETTLED) - settled
    content = {
        "command": f"python benchmarks/replay_memory.py --frames {args.frames} --out FILE",
        "device": common(sessions).device,
        "versions": versions(),
        "picture": {"width": SIZE[0], "height": SIZE[1]},
        "modes": list(MODES),
        "frames": results["modes"][MODES[0]]["frames"],
        "seconds": round(time.monotonic() - began_s),
        "resident_mb": {str(k): round(v, 1) for k, v in sorted(source.megabytes.items())},
        "growth_mb": round(growth, 1),
        "last_mb": round(last, 1),
    }
    write_json(content, args.out)
    print(f"growth from frame {SETTLED} to {args.frames}: {growth:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
