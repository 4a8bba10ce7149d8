"""Draw the curves of training runs: training_curves.py NAME=RUN ... --out PNG --json FILE.

Each RUN is a folder with `log.jsonl`. Upper plot: loss, smoothed over 10 lines; lower plot:
mean IoU on the validation frames that the run scores, at full and at half resolution. The figures
of the logs are also written as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the choice of backend

SMOOTHED = 10


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return name -> (step, value) of every figure in a run's log."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        if not line.endswith("}"):  # a kill can cut the last line
            break
        values = json.loads(line)
        step = values.pop("step")
        for name, value in values.items():
            curves.setdefault(name, []).append((step, round(value, 4)))
    return curves


def smooth(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Return steps and running means over `SMOOTHED` points."""
    values = np.array([value for _, value in points])
    window = min(SMOOTHED, len(values))
    means = np.convolve(values, np.ones(window) / window, mode="valid")
    return [step for step, _ in points[window - 1 :]], means.tolist()


def draw(runs: dict[str, dict[str, list[tuple[int, float]]]], out: Path) -> None:
    """Write the picture."""
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    for index, (name, curves) in enumerate(runs.items()):
        color = f"C{index}"
        upper.plot(*smooth(curves["loss"]), color=color, label=name)
        for key, style in (("val_miou", "o-"), ("val_low_miou", "s--")):
            if key in curves:
                label = f"{name}, {'half' if 'low' in key else 'full'} resolution"
                lower.plot(*zip(*curves[key], strict=True), style, color=color, label=label, ms=4)
    upper.set_ylabel("training loss")
    lower.set_ylabel("mIoU on validation frames")
    lower.set_xlabel("step")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--json", type=Path, required=True, help="figures to write")
    args = parser.parse_args()
    named = (pair.partition("=") for pair in args.runs)
    runs = {name: read_curves(Path(folder)) for name, _, folder in named}
    draw(runs, args.out)
    args.json.write_text(json.dumps(runs) + "\n")


if __name__ == "__main__":
    main()
