"""What mode arseg is worth by where its motion comes from, beside warp, LOW and dense.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/motion_ablation.py CAMVID_DIR \
        --json benchmarks/results/motion_ablation_swiftnet18-half.json

The pipeline itself runs, under the protocol of `seg_node.eval.distances`: a clip is encoded as
H.264 with a key picture at every keyframe, and everything sees what the decoder makes of it. So
vectors, estimated motion and exact motion move the same pictures. Exact motion is known of the
street alone; it arrives with the frame, as vectors do, what was hidden marked as not valid.

A clip is played from only some of its first frames, so that the run ends in minutes:
`frames_by_distance` says how many labelled frames stand behind each score.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TYPE_CHECKING

import cv2
import torch

from seg_node.core.config import Config
from seg_node.core.types import Motion
from seg_node.data.camvid import CamVid
from seg_node.data.clips import StreetClip
from seg_node.eval.distances import (
    distance_table,
    DistanceRecord,
    LOW,
    open_low,
    parse_encoding,
    pictures,
    play,
    Protocol,
)
from seg_node.eval.progress import progress
from seg_node.eval.results import versions, write_json
from seg_node.eval.session import open_model, sessions_of
from seg_node.eval.tables import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seg_node.core.types import Frame
    from seg_node.data.sources import Clip
    from seg_node.data.street import Street
    from seg_node.eval.session import Session
    from seg_node.nets.build import Model

    Pictures = Sequence[tuple[Frame, NDArray[np.uint8] | None]]

MODEL = "swiftnet18-half"
INTERVAL = 12
OFFSETS = (0, 3, 6, 9)
"""First frames from which a clip is played."""
ENCODING = "h264:1500@15"
"""100 kbit a picture, as in AR-Seg's experiment, at the rate of both clips."""
STREET_SEED, STREET_FRAMES = 7, 60

MODES = ("warp", "arseg")
SOURCES = ("none", "codec", "flow")
EXACT = "exact"
TAKES_EXACT = "codec"
"""Value of `motion.source` that takes the motion a frame carries."""


def open_all(model: Model, motions: Sequence[str]) -> dict[str, Session]:
    """Return dense, LOW, and both modes by each motion."""
    config = Config(model=MODEL, device="cpu", keyframe_interval=INTERVAL)
    assert model.low is not None
    found = sessions_of(model, config, ("dense",))
    found[LOW] = open_low(model.low, model.manifest, config)
    for mode in MODES:
        for motion in motions:
            source = TAKES_EXACT if motion == EXACT else motion
            own = config.updated({"mode": mode, "motion.source": source})
            found[f"{mode} {motion}"] = sessions_of(model, own)[mode]
    return found


def with_exact(shown: Pictures, street: Street, offset: int) -> Pictures:
    """Return decoded pictures of the street from one frame on, with the motion it really had."""
    moved = [shown[0]]
    for index, ((before, _), (frame, labels)) in enumerate(pairwise(shown), start=offset + 1):
        truth = street.render(index)
        motion = Motion(truth.flow, ~truth.occluded, since_ns=before.stamp_ns)
        moved.append((replace(frame, motion=motion), labels))
    return moved


def measure(model: Model, clip: Clip, protocol: Protocol, street: Street | None) -> dict[str, Any]:
    """Score everything on a clip; exact motion where it is one of a street."""
    sessions = open_all(model, SOURCES if street is None else (*SOURCES, EXACT))
    classes = len(model.manifest.classes)
    records = {name: DistanceRecord(classes, INTERVAL) for name in sessions}
    with progress(clip.name, len(OFFSETS) * len(sessions)) as bar:
        done = 0
        for offset in OFFSETS:
            shown = list(pictures(clip, offset, protocol))
            exact = shown if street is None else with_exact(shown, street, offset)
            for name, session in sessions.items():
                seen = exact if name.endswith(EXACT) else shown
                play(session, seen, offset, records[name])
                done += 1
                bar(done)
    full = records["dense"].dense_macs
    return {
        "interval": INTERVAL,
        "clip": {"name": clip.name, "rate_hz": clip.rate_hz, "frames": len(clip.frames)},
        "modes": {name: entry(record, full) for name, record in records.items()},
    }


def entry(record: DistanceRecord, dense_macs: float) -> dict[str, Any]:
    """Return what is kept of a record."""
    summary = record.summary(dense_macs)
    del summary["class_iou_by_distance"]
    return {**summary, "frames_by_distance": record.scored}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("camvid", type=Path, help="folder of CamVid")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model = open_model(Config(model=MODEL, device="cpu"))
    protocol = Protocol(INTERVAL, parse_encoding(ENCODING, INTERVAL))
    street = StreetClip(STREET_SEED, STREET_FRAMES)
    (camvid_clip,), (street_clip,) = CamVid(args.camvid, "val").clips(), street.clips()
    assert protocol.encoding is not None
    results: dict[str, Any] = {
        "command": "python benchmarks/motion_ablation.py CAMVID_DIR",
        "model": {"name": model.manifest.name, "sha256": model.manifest.sha256},
        "versions": versions(),
        "encoding": asdict(protocol.encoding),
        "first_frames": OFFSETS,
        "camvid val": measure(model, camvid_clip, protocol, None),
        street.spec: measure(model, street_clip, protocol, street.street),
    }
    write_json(results, args.json)
    for data in ("camvid val", street.spec):
        print(data, plain(distance_table(results[data])), sep="\n")


if __name__ == "__main__":
    main()
