"""What warped features are worth at each distance, by how the motion was found, and its cost.

    PYTHONPATH=. python benchmarks/motion_sources.py CAMVID_DIR --clips VIDEO ... \
        --json benchmarks/results/motion_sources.json

Features of the frame d frames earlier, moved to the present one, go through the head and are
scored on every labelled frame that has 11 predecessors: CamVid val at 15 Hz, and the street with
its exact motion. Ways to find the motion: `direct` between the two frames; `composed` of the
motions from frame to frame; `refined`: direct, starting from the composed one; `chosen`, as
`MotionTracker` does: each pixel takes the better of the composed and the refined one, from which
the next frame goes on. `shipped` is DIS as the node uses it, the others are presets of OpenCV. The
motion from a frame to the next is estimated from that of the frame before on; `from nothing` it is
not. Sizes are sides of the grey images relative to 480x360.

`cuts` says how unlike the moved frame before is (`unlike`), for frames of one clip and for
frames of different clips, and how much of the motion a forward-backward check calls known.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from itertools import permutations
import json
import os
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.flow import FlowEstimator, work_image
from seg_node.core.masks import decide
from seg_node.core.motion import compose, still, unlike
from seg_node.core.tracking import MotionTracker, OnHost
from seg_node.core.types import Motion
from seg_node.core.warp import nearest, origin, pull, rescale, warp
from seg_node.data.camvid import CamVid
from seg_node.data.street import Street
from seg_node.data.video import VideoReader
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.results import versions
from seg_node.eval.temporal import consistent
from seg_node.nets.build import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

DISTANCES = (1, 2, 3, 5, 8, 11)
PRESETS = {
    "shipped": None,
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
ESTIMATES = (
    ("shipped", 1.0),
    ("shipped", 0.5),
    ("ultrafast", 1.0),
    ("ultrafast", 0.5),
    ("ultrafast", 0.25),
    ("fast", 1.0),
    ("medium", 1.0),
)
DIRECT = ESTIMATES[:6]
CHOSEN = ESTIMATES[:4]
STREET_SEED, STREET_FRAMES = 7, 50
CUT_STREETS = (1, 2, 3, 7)
CUT_FRAMES = 40
STRIDE_PX = 4
SWIFTNET = "swiftnet18-half"

Grey = Any
Flow = Any


@dataclass
class Clip:
    """Frames with labels and features, and what was measured on them."""

    images: list[NDArray[np.uint8]]
    labels: list[NDArray[np.uint8]]
    features: list[torch.Tensor]
    head: torch.nn.Module
    classes: int
    miou: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def score(self, name: str, motion: Callable[[int, int], Flow], *, zeros: bool = False) -> None:
        """Score one way to find the motion from frame t to frame k at all distances."""
        found = {}
        for d in DISTANCES:
            confusion = ConfusionMatrix(self.classes)
            for t in range(max(DISTANCES), len(self.images)):
                moved = moved_features(self.features[t - d], motion(t, t - d), zeros=zeros)
                confusion.update(self.labels[t], self.predict(moved))
            found[str(d)] = confusion.dataset_miou()
        self.miou[name] = found
        print(f"{name:28s}", " ".join(f"{x or 0:.4f}" for x in found.values()), flush=True)

    def dense(self) -> float | None:
        """Return the score of features of the frames themselves."""
        confusion = ConfusionMatrix(self.classes)
        for t in range(max(DISTANCES), len(self.images)):
            confusion.update(self.labels[t], self.predict(self.features[t]))
        return confusion.dataset_miou()

    def predict(self, features: torch.Tensor) -> NDArray[np.uint8]:
        """Return the classes of features."""
        height, width = self.images[0].shape[:2]
        with torch.inference_mode():
            return decide(self.head(features), STRIDE_PX, (height, width))[0]


def moved_features(features: torch.Tensor, flow: Flow, *, zeros: bool) -> torch.Tensor:
    """Move features by a flow of any size; zeros come in from outside, or the border."""
    size = (features.shape[-2], features.shape[-1])
    with torch.inference_mode():
        fitted = rescale(torch.from_numpy(flow)[None], size)
        moved = warp(features, fitted)
        if not zeros:
            return moved
        x, y = origin(fitted[0].numpy())
        inside = (x >= 0) & (x <= size[1] - 1) & (y >= 0) & (y <= size[0] - 1)
        return moved * torch.from_numpy(inside)


def load_clip(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Clip:
    """Compute the features of all frames."""
    model = load_model(SWIFTNET)
    net: Any = model.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
    images, labels, features = [], [], []
    with torch.inference_mode():
        for image, truth in pairs:
            images.append(image)
            labels.append(truth)
            features.append(net.features(torch.from_numpy(image).permute(2, 0, 1)[None]))
    return Clip(images, labels, features, net.head, len(model.manifest.classes))


def shrunk(grey: Grey, scale: float) -> Grey:
    """Reduce a grey image."""
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    return grey if scale == 1 else cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def chain(steps: dict[int, Motion], t: int, k: int) -> Flow:
    """Return the flow from frame t to frame k, composed of the steps between."""
    motion = steps[t]
    for i in range(t - 1, k, -1):
        motion = compose(motion, steps[i])
    return motion.flow


def score_estimates(clip: Clip, estimates: tuple[tuple[str, float], ...]) -> None:
    """Score the estimated ways."""
    for preset, scale in estimates:
        estimator = FlowEstimator(PRESETS[preset])
        greys = [shrunk(work_image(x), scale) for x in clip.images]
        steps = steps_of(estimator, greys)

        def composed(t: int, k: int, steps: dict[int, Motion] = steps) -> Flow:
            return chain(steps, t, k)

        def direct(t: int, k: int, greys: Grey = greys, by: Any = estimator) -> Flow:
            return by.estimate(greys[k], greys[t]).flow

        def refined(t: int, k: int, greys: Grey = greys, at: Any = composed) -> Flow:
            dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
            return dis.calc(greys[t], greys[k], at(t, k))

        if (preset, scale) in CHOSEN:
            flows = chosen(estimator, greys, steps)
            clip.score(f"chosen {preset} {scale}", lambda t, k, flows=flows: flows[t, k])  # type: ignore[misc]  # lambda binds now
        clip.score(f"composed {preset} {scale}", composed)
        if (preset, scale) in DIRECT:
            clip.score(f"direct {preset} {scale}", direct)
        if (preset, scale) == ESTIMATES[0]:
            flows = chosen(estimator, greys, steps_of(estimator, greys, anew=True))
            name = f"chosen {preset} {scale}, from nothing"
            clip.score(name, lambda t, k, flows=flows: flows[t, k])  # type: ignore[misc]  # lambda binds now
            clip.score(f"refined {preset} {scale}", refined)
            clip.score(f"composed {preset} {scale}, zeros outside", composed, zeros=True)


def steps_of(
    estimator: FlowEstimator, greys: list[Grey], *, anew: bool = False
) -> dict[int, Motion]:
    """Return the motion of each frame since the one before."""
    steps: dict[int, Motion] = {}
    for i in range(1, len(greys)):
        start = None if anew else steps.get(i - 1)
        steps[i] = estimator.estimate(greys[i - 1], greys[i], start=start)
    return steps


def chosen(
    estimator: FlowEstimator, greys: list[Grey], steps: dict[int, Motion]
) -> dict[tuple[int, int], Flow]:
    """Return the flow from t to k, for all that are scored, as `MotionTracker` finds it."""
    flows = {}
    for k in range(len(greys) - 1):
        motion = steps[k + 1]
        flows[k + 1, k] = motion.flow
        for t in range(k + 2, min(len(greys), k + max(DISTANCES) + 1)):
            motion = estimator.refine(greys[k], greys[t], compose(steps[t], motion))
            if t - k in DISTANCES:
                flows[t, k] = motion.flow
    return flows


def none(clip: Clip) -> Callable[[int, int], Flow]:
    """Return the way of no motion."""
    height, width = clip.images[0].shape[:2]
    flow = still((height, width)).flow
    return lambda _t, _k: flow


def measure_camvid(source: CamVid) -> dict[str, Any]:
    """Score all ways on the clip of CamVid val."""
    (refs,) = source.clips()
    samples = (ref.load() for ref in refs.frames)
    clip = load_clip((s.frame.image.copy(), s.labels) for s in samples if s.labels is not None)
    clip.score("none", none(clip))
    score_estimates(clip, ESTIMATES)
    scored = len(clip.images) - max(DISTANCES)
    return {"rate_hz": refs.rate_hz, "frames": scored, "dense": clip.dense(), "miou": clip.miou}


def measure_street() -> dict[str, Any]:
    """Score exact and estimated motion on the street."""
    street = Street(STREET_SEED)
    frames = [street.render(i) for i in range(STREET_FRAMES)]
    clip = load_clip((f.frame.image, f.labels) for f in frames)
    steps = {i: Motion(f.flow, ~f.occluded) for i, f in enumerate(frames)}
    clip.score("none", none(clip))
    clip.score("composed exact", lambda t, k: chain(steps, t, k))
    score_estimates(clip, ESTIMATES[:1])
    scored = len(clip.images) - max(DISTANCES)
    return {"rate_hz": 15.0, "frames": scored, "dense": clip.dense(), "miou": clip.miou}


def timed(repeats: int, call: Callable[[], object]) -> dict[str, float]:
    """Return milliseconds of a call; others use this machine, so the best says most."""
    ms = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        ms.append(1e3 * (time.perf_counter() - start))
    return {"best": round(min(ms), 2), "p50": round(float(np.median(ms)), 2)}


def measure_ms() -> dict[str, Any]:
    """Time estimates, their preparation, a whole step and the warp."""
    found: dict[str, Any] = {}
    for width, height in ((480, 360), (960, 720)):
        street = Street(1, width, height)
        frames = [street.render(i).frame for i in range(2, 5)]
        name = f"{width}x{height}"
        old, new = (work_image(f.image) for f in frames[:2])
        found[f"work_image {name}"] = timed(40, lambda f=frames[1]: work_image(f.image))  # type: ignore[misc]  # lambda binds now
        tracker = MotionTracker("flow", OnHost())

        def track(tracker: MotionTracker[Any, Any] = tracker, pair: Any = tuple(frames)) -> None:
            tracker.start(pair[0])
            for frame in pair[1:]:
                tracker.track(frame)

        found[f"start and track two frames {name}"] = timed(40, track)
        features = torch.randn(1, 64, height // 4, width // 4)
        features = features.contiguous(memory_format=torch.channels_last)
        flow = rescale(
            torch.from_numpy(FlowEstimator().estimate(old, new).flow)[None],
            (height // 4, width // 4),
        )
        found[f"warp of 64 channels {name}"] = timed(40, lambda x=features, y=flow: warp(x, y))  # type: ignore[misc]  # lambda binds now
    for preset, scale in ESTIMATES:
        estimator = FlowEstimator(PRESETS[preset])
        pair = [shrunk(x, scale) for x in (old, new)]
        found[f"estimate {preset} {scale}"] = timed(40, lambda e=estimator, p=pair: e.estimate(*p))  # type: ignore[misc]  # lambda binds now
    motion = FlowEstimator().estimate(old, new)
    found["refine shipped 1.0"] = timed(40, lambda: FlowEstimator().refine(old, new, motion))
    found["compose 1.0"] = timed(40, lambda: compose(motion, motion))
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Return the ends and the middle of some figures."""
    middle = float(np.median(values))
    return {"min": round(min(values), 3), "p50": round(middle, 3), "max": round(max(values), 3)}


def likeness(before: Grey, grey: Grey) -> dict[str, float]:
    """Compare two grey images, moved and as they are."""
    motion = FlowEstimator().estimate(before, grey)
    back = FlowEstimator().estimate(grey, before)
    return {
        "moved": unlike(grey, pull(before, motion.flow)),
        "unmoved": unlike(grey, before),
        "grey_levels_moved": float(cv2.absdiff(grey, pull(before, motion.flow)).mean()),
        "grey_levels_unmoved": float(cv2.absdiff(grey, before).mean()),
        "forward_backward_share": float(consistent(motion.flow, back.flow).mean()),
    }


def gathered(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the spread of each figure."""
    return {key: spread([row[key] for row in rows]) for key in rows[0]}


def measure_cuts(source: CamVid, videos: list[Path]) -> dict[str, Any]:
    """Compare neighbours in clips, and frames of different clips."""
    (refs,) = source.clips()
    clips = {"camvid val": [work_image(x.load().frame.image) for x in refs.frames]}
    for seed in CUT_STREETS:
        street = Street(seed)
        clips[f"street:{seed}"] = [work_image(street.picture(i)[0]) for i in range(CUT_FRAMES)]
    for path in videos:
        with VideoReader(path) as reader:
            frames = [work_image(f.image) for f in reader.frames()]
            clips[f"{path.stem}, every second"] = frames[: 4 * CUT_FRAMES : 2]
    found: dict[str, Any] = {}
    for name, greys in clips.items():
        for distance in (1, 2):
            rows = [likeness(greys[i - distance], greys[i]) for i in range(2, len(greys), 2)]
            found[f"{name}, {distance} apart"] = gathered(rows)
    unrelated = []
    for one, other in permutations(clips, 2):
        for share in (0.0, 0.5, 0.9):
            grey = clips[other][int(share * len(clips[other]))]
            before = clips[one][int(share * len(clips[one]))]
            unrelated.append(likeness(fitted(before, grey.shape), grey))
    found["different clips"] = gathered(unrelated)
    return found


def fitted(grey: Grey, size: tuple[int, int]) -> Grey:
    """Bring a picture to the size of another."""
    return np.ascontiguousarray(nearest(grey, size))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("camvid", type=Path, help="folder of CamVid")
    parser.add_argument("--clips", type=Path, nargs="*", default=[], help="videos, for the cuts")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    source = CamVid(args.camvid, "val")
    model = load_model(SWIFTNET).manifest
    results = {
        "model": {"name": model.name, "sha256": model.sha256},
        "threads": 1,
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions(),
        "ms": measure_ms(),
        "cuts": measure_cuts(source, args.clips),
        "street:7": measure_street(),
        "camvid val": measure_camvid(source),
    }
    args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
