"""Accuracy of all modes against the MACs that they save, on the same labelled clip.

    python benchmarks/modes_curve.py camvid:DIR [CURVE ...] --model NAME [--size 960x720] \
        --json benchmarks/results/modes_curve_NAME.json --picture docs/pictures/modes_curve.png

Every point of every mode starts at several frames of the clip, and only frames from `FROM` on are
scored: so all points score the same frames, and none lives on where its full frames happen to be.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

import cv2
import matplotlib as mpl
import numpy as np

from seg_node.core.config import Config
from seg_node.data.datasets import open_source
from seg_node.data.resizing import parse_size
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.progress import progress
from seg_node.eval.results import versions
from seg_node.eval.session import open_model, sessions_of

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the choice of backend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.config import Value
    from seg_node.core.types import Frame
    from seg_node.nets.build import Model

    Labelled = tuple[Frame, NDArray[np.uint8]]

STARTS = (0, 2, 4, 6, 8, 10)
FROM = 12


@dataclass(frozen=True)
class Curve:
    """What is measured of a mode.

    Attributes:
        mode: its name.
        setting: what moves its operating point.
        values: of this setting.
        also: other settings, the same at all points.

    """

    mode: str
    setting: str
    values: tuple[Value, ...]
    also: dict[str, Value] = field(default_factory=dict)


CURVES: dict[str, Curve] = {
    "warp": Curve("warp", "keyframe_interval", (2, 3, 4, 5, 6, 8, 10, 14, 20)),
    "arseg": Curve("arseg", "keyframe_interval", (2, 3, 4, 6, 12, 20)),
    "segblocks": Curve("segblocks", "policy.high_fraction", (0.1, 0.2, 0.35, 0.5)),
    "stmg": Curve("stmg", "gate.threshold", (0.2, 0.35, 0.5, 0.65, 0.8)),
    "adaptive": Curve("adaptive", "budget.compute", (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)),
    # Here it is the budget alone that says how many blocks are computed, not their age.
    "adaptive, up to 10 s old": Curve(
        "adaptive",
        "budget.compute",
        (0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
        {"max_age_ms": 10_000.0},
    ),
}
"""By name."""


def read(data: str, size: tuple[int, int] | None) -> list[Labelled]:
    """Return the frames of a labelled clip, images at a size (width, height), and their labels."""
    pairs = []
    for sample in open_source(data, split="val"):
        frame = sample.frame
        if size is not None:
            image = cv2.resize(frame.image, size, interpolation=cv2.INTER_LINEAR)
            frame = type(frame)(np.asarray(image, np.uint8), frame.stamp_ns)
        assert sample.labels is not None
        pairs.append((frame, sample.labels))
    return pairs


def score(model: Model, pairs: list[Labelled], config: Config, starts: tuple[int, ...]) -> Any:
    """Return mIoU over all starts, that of each, and the share of dense MACs."""
    classes = len(model.manifest.classes)
    pooled, each, macs, dense = ConfusionMatrix(classes), [], 0, 0
    for start in starts:
        (session,) = sessions_of(model, config).values()
        own = ConfusionMatrix(classes)
        for index, (frame, truth) in enumerate(pairs[start:], start):
            result = session.segmenter.step(frame)
            if index < FROM:
                continue
            labels = result.labels
            if labels.shape != truth.shape:
                size = (truth.shape[1], truth.shape[0])
                nearest = cv2.INTER_NEAREST_EXACT
                labels = np.asarray(cv2.resize(labels, size, interpolation=nearest), np.uint8)
            pooled.update(truth, labels)
            own.update(truth, labels)
            macs, dense = macs + result.report.macs, dense + result.report.dense_macs
        each.append(own.dataset_miou())
    return {"miou": pooled.dataset_miou(), "miou_of_starts": each, "macs_of_dense": macs / dense}


def draw(content: dict[str, Any], out: Path) -> None:
    """Write the picture."""
    figure, axes = plt.subplots(figsize=(8, 5))
    dense = content["dense"]["miou"]
    axes.axhline(dense, color="0.4", lw=1, label="dense")
    axes.axhline(dense - 0.005, color="0.4", lw=1, ls=":", label="dense - 0.005")
    for mode, points in content["modes"].items():
        ordered = sorted(points, key=lambda point: point["macs_of_dense"])
        saved = [100 * (1 - point["macs_of_dense"]) for point in ordered]
        axes.plot(saved, [point["miou"] for point in ordered], "o-", ms=4, label=mode)
    axes.set_xlabel("MACs saved, %")
    axes.set_ylabel("mIoU")
    axes.set_ylim(dense - 0.08, dense + 0.01)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    axes.set_title(f"{content['model']}, {content['size']}")
    figure.tight_layout()
    figure.savefig(out, dpi=100)


def main() -> None:
    """Measure, print and write; points that the file has already are not measured again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--model", default=Config().model)
    parser.add_argument("--size", type=parse_size)
    parser.add_argument("curves", nargs="*", help="of these only", metavar="CURVE")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    pairs = read(args.data, args.size)
    config = Config(model=args.model, device="cpu")
    model = open_model(config)
    height, width = pairs[0][0].image.shape[:2]
    content: dict[str, Any] = {
        "command": f"python benchmarks/modes_curve.py camvid:DIR --model {args.model}",
        "model": args.model,
        "sha256": model.manifest.sha256,
        "size": f"{width}x{height}",
        "starts": STARTS,
        "scored_from": FROM,
        "curves": {name: asdict(curve) for name, curve in CURVES.items()},
        "versions": versions(),
        "modes": {},
    }
    if args.json.exists():
        content["modes"] = json.loads(args.json.read_text())["modes"]
    content["dense"] = score(model, pairs, config.updated({"mode": "dense"}), STARTS[:1])
    todo = [(name, value) for name in args.curves or CURVES for value in CURVES[name].values]
    with progress("modes_curve", len(todo)) as tell:
        for index, (name, value) in enumerate(todo):
            curve = CURVES[name]
            points = content["modes"].setdefault(name, [])
            if any(point[curve.setting] == value for point in points):
                continue
            starts = STARTS if curve.mode != "segblocks" else STARTS[:1]
            settings = {"mode": curve.mode, curve.setting: value, **curve.also}
            point = score(model, pairs, config.updated(settings), starts)
            points.append({curve.setting: value, **point})
            args.json.write_text(json.dumps(content, indent=1) + "\n")
            print(name, curve.setting, value, f"{point['macs_of_dense']:.3f} {point['miou']:.4f}")
            tell(index + 1)
    args.json.write_text(json.dumps(content, indent=1) + "\n")
    if args.picture:
        draw(content, args.picture)


if __name__ == "__main__":
    main()
