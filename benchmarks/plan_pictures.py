"""Shows a mode with a memory at work: mask, plan and age of each block, beside each other.

    python benchmarks/plan_pictures.py docs/pictures/adaptive_street.jpg
    python benchmarks/plan_pictures.py docs/pictures/adaptive_motorway.mp4 --data video:FILE

A JPEG shows the last frame, an MP4 all of them. All frames go through the pipeline, in order. The
default data are the synthetic street at 960x720.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from seg_node.core.config import Config
from seg_node.core.drawing import side_by_side
from seg_node.data.compressed_images import encode_jpeg
from seg_node.data.datasets import estimate_rate, open_source, StreetClip
from seg_node.data.video import VideoWriter
from seg_node.demo.views import make_views
from seg_node.eval.progress import progress
from seg_node.eval.session import open_sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from seg_node.data.datasets import Source

SIZE = (960, 720)
"""Width and height of the street."""
JPEG_QUALITY, CONSTANT_RATE_FACTOR = 85, 25


def pictures(source: Source, mode: str, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield one picture for each of the first frames."""
    config = Config().updated({"mode": mode, "threads": 1})
    (session,) = open_sessions(config, (mode,)).values()
    classes = session.manifest.classes
    with progress("drawing", count) as show:
        for done, sample in enumerate(islice(source, count), 1):
            image = sample.frame.image
            result = session.segmenter.step(sample.frame)
            views = make_views(image, result.labels, result.plan, result.age_ms, classes, config)
            yield side_by_side(list(views.values()))
            show(done)


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="JPEG or MP4 file to write")
    parser.add_argument("--data", help="named data (default: street 1 at 960x720)")
    parser.add_argument("--frames", type=int, default=41, help="how many (default: 41)")
    parser.add_argument("--mode", default="adaptive", help="default: adaptive")
    args = parser.parse_args()

    source = open_source(args.data) if args.data else StreetClip(1, args.frames, SIZE)
    found = pictures(source, args.mode, args.frames)
    if args.out.suffix == ".mp4":
        rate_hz = estimate_rate(source)
        with VideoWriter(args.out, rate_hz, quality=CONSTANT_RATE_FACTOR) as video:
            for picture in found:
                video.write(picture)
    else:
        *_, last = found
        args.out.write_bytes(encode_jpeg(last, JPEG_QUALITY))


if __name__ == "__main__":
    main()
