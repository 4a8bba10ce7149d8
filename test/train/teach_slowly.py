"""Run under torchrun: two processes teach, one slowly; each prints how many frames are taught."""

from __future__ import annotations

from pathlib import Path
import sys
import time

import torch

from seg_node.data.clips import StreetClip
from seg_node.data.sources import FrameRef, Sample
from seg_node.nets.build import load_model
from seg_node.train.distributed import join, leave
from seg_node.train.teacher import Teacher


def late(frame: FrameRef) -> FrameRef:
    """Return a frame that takes a second to read."""

    def load() -> Sample:
        time.sleep(1.0)
        return frame.load()

    return FrameRef(frame.name, frame.stamp_ns, frame.labelled, load)


def main() -> None:
    """Teach and print."""
    folder, model = Path(sys.argv[1]), sys.argv[2]
    share = join()
    classes = load_model(model).manifest.classes
    teacher = Teacher([model], folder, classes, torch.device("cpu"), share)
    frames = list(StreetClip(3, count=4, size=(64, 48)).frames())
    teacher.prepare([late(f) if i % 2 == 0 else f for i, f in enumerate(frames)])
    taught = len(list(folder.glob("*.npy")))
    (folder / f"rank{share.rank}.txt").write_text(str(taught))
    leave()


if __name__ == "__main__":
    main()
