"""What each part of the training recipe buys, on a known drive and on one that was never seen.

    PYTHONPATH=. python benchmarks/recipe_ablation.py --camvid DIR --runs runs/recipe \
        --json benchmarks/results/recipe_ablation.json --picture docs/pictures/recipe_ablation.png

CamVid val is the same drive as more than half of the training frames: it says little of others.
Here one drive (0006R0, 101 frames) is taken out of training: every variant of the recipe trains
`swiftnet18-half` from fresh weights on the other two and is scored on CamVid val (known drive)
and on the drive left out (unseen drive); with `--adjusted` once more after `train adjust` on the
same two drives. Only what is missing is run, and a run that was killed goes on. `--table` draws
again what is there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.trained_runs import NAME, TrainedRun
from benchmarks.training_curves import read_curves
from seg_node.eval.results import versions

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the choice of backend

NETWORK = "swiftnet18-half"
UNSEEN = "0006R0"
RECIPE = {
    "batch": "8",
    "crop-width": "320",
    "crop-height": "256",
    "learning-rate": "2e-3",
    "warmup": "80",
    "average": "0.99",
    "precision": "bf16",
    "softness": "1.04",
    "scale-min": "0.75",
    "scale-max": "1.6",
    "paste": "0.5",
    "street-share": "0.25",
    "streets": "300",
    "low-share": "0.2",
    "validate-every": "100",
}
"""Close to that of the shipped weights (docs/training.md), without teachers, and far shorter."""
VARIANTS: dict[str, dict[str, str]] = {
    "recipe": {},
    "no streets": {"street-share": "0"},
    "nothing pasted": {"paste": "0"},
    "no halved steps": {"low-share": "0"},
    "scales 0.5 to 2": {"scale-min": "0.5", "scale-max": "2"},
    "one scale": {"scale-min": "1", "scale-max": "1"},
    "colours as they are": {"jitter": "0"},
    "colours twice as much": {"jitter": "0.8"},
    "flatter classes (1.1)": {"softness": "1.1"},
    "equal classes": {"softness": "0"},
    "no Jaccard": {"jaccard": "0"},
    "crops 448x320": {"crop-width": "448", "crop-height": "320"},
}
"""What each variant changes."""


class Run:
    """One variant with one seed."""

    def __init__(self, args: argparse.Namespace, variant: str, seed: int) -> None:
        """Say where it lives."""
        self._steps, self._variant, self._seed = args.steps, variant, seed
        self._camvid, self._without = args.camvid, without_drive(args.camvid, args.runs)
        words = "".join(c if c.isalnum() else "_" for c in variant)
        tests = {"known": [f"camvid:{args.camvid}"], "unseen": [f"camvid:{self._without}"]}
        folder, adjust = args.runs / f"{words}_{seed}", ("--data", f"camvid:{self._without}")
        self._run = TrainedRun(folder, tests, args.threads)
        self._adjusted = TrainedRun(folder, tests, args.threads, adjust)

    def finish(self, *, adjusted: bool) -> None:
        """Train and score what is missing."""
        settings = {**RECIPE, **VARIANTS[self._variant]}
        own = {"seed": str(self._seed), "steps": str(self._steps)}
        words = [w for name, value in {**settings, **own}.items() for w in (f"--{name}", value)]
        data = ["--data", f"camvid:{self._without}", "--validation", f"camvid:{self._camvid}"]
        training = ["segment", *data, "--model", NETWORK, *words]
        for run in (self._run, self._adjusted) if adjusted else (self._run,):
            run.finish(training, f"{NAME}.json")

    def scores(self) -> dict[str, Any] | None:
        """Return what the evaluations say, and the curve; None where the run is not finished."""
        found = self._run.scores()
        if found is None:
            return None
        per_class = {k: [x and round(x, 3) for x in v["class_iou"]] for k, v in found.items()}
        adjusted = self._adjusted.scores()
        return {
            "seed": self._seed,
            **{k: round(v["miou"], 4) for k, v in found.items()},
            "adjusted": adjusted and {k: round(v["miou"], 4) for k, v in adjusted.items()},
            "class_iou": per_class,
            "curve": read_curves(self._run.folder)["val_miou"],
        }


def without_drive(camvid: Path, runs: Path) -> Path:
    """Return a folder that trains without the drive `UNSEEN` and validates on it."""
    folder = runs / "unseen_drive"
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    stems = (camvid / "train.txt").read_text().split()
    for name, chosen in (("train", False), ("val", True)):
        kept = [s for s in stems if s.startswith(UNSEEN) is chosen]
        (folder / f"{name}.txt").write_text("\n".join(kept) + "\n")
    for name in ("images", "labels", "classes.csv"):
        (folder / name).symlink_to((camvid / name).resolve())
    return folder


def table(args: argparse.Namespace) -> dict[str, Any]:
    """Return the finished runs of every variant."""
    rows = {}
    for variant, changes in VARIANTS.items():
        runs = [Run(args, variant, seed).scores() for seed in range(args.seeds)]
        if finished := [run for run in runs if run is not None]:
            rows[variant] = {"changes": changes, "runs": finished}
    return {"network": NETWORK, "steps": args.steps, "recipe": RECIPE, "unseen": UNSEEN,
            "versions": versions(), "variants": rows}  # fmt: skip


def draw(found: dict[str, Any], out: Path) -> None:
    """Write the picture: curves on the known drive, and both scores at the end."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5))
    names = list(found["variants"])
    for index, name in enumerate(names):
        runs = found["variants"][name]["runs"]
        style = {"color": f"C{index}" if index else "black", "lw": 1 if index else 2.5}
        for run in runs[:1]:
            left.plot(*zip(*run["curve"], strict=True), label=name, **style)
        for key, offset, color in (("known", 0.2, "C0"), ("unseen", -0.2, "C1")):
            values = [run[key] for run in runs]
            at = len(names) - 1 - index + offset
            right.barh(
                at,
                sum(values) / len(values),
                0.36,
                color=color,
                label=f"{key} drive" if not index else None,
            )
            right.plot(values, [at] * len(values), "k.", ms=4)
    left.set(xlabel="step", ylabel="mIoU on every fourth frame of CamVid val", ylim=(0.25, None))
    left.grid(alpha=0.3)
    left.legend(fontsize="x-small", loc="lower right")
    right.set_yticks(range(len(names)), names[::-1])
    right.set(xlabel="mIoU at the end", xlim=(0.3, None))
    right.grid(alpha=0.3, axis="x")
    right.legend(fontsize="small", loc="lower right")
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    """Run what is missing, write the table and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--camvid", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--json", type=Path, required=True, help="table to write")
    parser.add_argument("--picture", type=Path, required=True, help="PNG to write")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--adjusted", action="store_true", help="score models with adjusted logits, too"
    )
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("variants", nargs="*", help="run these only")
    args = parser.parse_args()
    for seed in range(0 if args.table else args.seeds):
        for variant in args.variants or VARIANTS:
            Run(args, variant, seed).finish(adjusted=args.adjusted)
    found = table(args)
    args.json.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, args.picture)
    for name, row in found["variants"].items():
        for label, of in (("", lambda r: r), (", adjusted", lambda r: r["adjusted"])):
            runs = [scores for scores in map(of, row["runs"]) if scores]
            if runs:
                told = ", ".join(f"{r['known']:.3f} {r['unseen']:.3f}" for r in runs)
                print(f"{name + label:34} known, unseen: {told}")


if __name__ == "__main__":
    main()
