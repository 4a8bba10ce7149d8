"""What slimming data and network buys, alone, one after the other, and together.

    PYTHONPATH=. python benchmarks/slimming_ablation.py --camvid DIR --runs runs/slim \
        --json benchmarks/results/slimming_ablation.json

Every variant of `train slim` starts from the same weights (of `--network`, or random ones with
`--scratch`) and takes the same number of steps with several seeds; `shorter`, for comparison,
spends the MACs of `data` on normal training with fewer steps: slimming data must beat that.
`--also` names settings of `train slim` that differ from RECIPE, for all variants; with
`--adjusted`, `train adjust` follows every training: one more pass over the training frames, which
is in no figure of MACs. Only what is missing is run, and a run that was killed goes on. Each
result is scored by `seg_node evaluate` on CamVid val and on street:7, which no training sees. The
table is made of what the runs' `record.json` and these evaluations say: `--table` makes it again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trained_runs import TrainedRun
from seg_node.eval.results import versions
from seg_node.train.slim_settings import VARIANTS

TRAINING_MACS = 0.58
"""A little below the goal of 0.6."""
SHORTER = "shorter"
RECORD = "record.json"
RECIPE = (
    "--batch 8 --crop-width 320 --crop-height 256 --learning-rate 1e-3 --warmup 30 --average 0.99 "
    "--softness 1.04 --scale-min 0.75 --scale-max 1.6 --paste 0.5 --street-share 0.2 "
    f"--streets 100 --training-macs {TRAINING_MACS} --inference-macs 0.58 --checkpoint-every 25"
)
"""Settings that all variants share."""
COSTS = ("training_macs", "training_share", "inference_macs", "inference_share", "seconds")
"""Figures of `record.json` that the table shows."""
HOW = ("also", "precision", "steps", "network", "scratch", "adjusted")
"""Arguments that say how all variants were trained."""


class Run:
    """One variant with one seed."""

    def __init__(self, args: argparse.Namespace, variant: str, seed: int) -> None:
        """Say where it lives."""
        self._args = args
        self.variant, self.seed = variant, seed
        camvid = f"camvid:{args.camvid}"
        tests = {"camvid_val": [camvid], "street_7": ["street:7"]}
        adjust = ("--data", camvid) if args.adjusted else ()
        self._run = TrainedRun(args.runs / f"{variant}_{seed}", tests, args.threads, adjust)

    def finish(self) -> None:
        """Train and score what is missing."""
        args = self._args
        steps = args.steps if self.variant != SHORTER else round(args.steps * TRAINING_MACS)
        slim = self.variant if self.variant != SHORTER else "neither"
        own = ["--slim", slim, "--seed", str(self.seed), "--steps", str(steps)]
        start = [] if args.scratch else ["--init", args.network]
        data = ["--data", f"camvid:{args.camvid}", "--model", args.network]
        shared = [*RECIPE.split(), "--precision", args.precision, *args.also.split()]
        self._run.finish(["slim", *data, *start, *shared, *own], RECORD)

    def figures(self) -> dict[str, Any] | None:
        """Return what the run reached and cost; None if it is not finished."""
        scores, record = self._run.scores(), self._run.folder / RECORD
        if scores is None or not record.exists():
            return None
        found: dict[str, Any] = json.loads(record.read_text())
        normal = found["normal_training_macs"] * self._args.steps // found["steps"]
        found["training_share"] = found["training_macs"] / normal
        return {**found, **{label: score["miou"] for label, score in scores.items()}}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean, least and largest of every figure over the seeds."""
    found: dict[str, Any] = {"seeds": [run["seed"] for run in runs]}
    for name in ("camvid_val", "street_7", *COSTS):
        values = [run[name] for run in runs]
        found[name] = {
            "mean": float(np.mean(values)),
            "min": float(min(values)),
            "max": float(max(values)),
        }
    return found


def table(variants: dict[str, dict[str, Any]]) -> str:
    """Return the table as Markdown; fractions are cut off, not rounded."""
    head = "variant | seeds | CamVid val mIoU | street:7 mIoU | training TMAC | of normal"
    lines = [f"| {head} | inference GMAC | of whole | seconds |", "|---" * 9 + "|"]
    for name, found in variants.items():
        cells = [
            name,
            str(len(found["seeds"])),
            *(_spread(found[k]) for k in ("camvid_val", "street_7")),
        ]
        cells += [
            f"{found['training_macs']['mean'] / 1e12:.2f}",
            _cut(found["training_share"]["mean"]),
        ]
        cells += [
            f"{found['inference_macs']['mean'] / 1e9:.3f}",
            _cut(found["inference_share"]["mean"]),
        ]
        cells.append(f"{found['seconds']['mean']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cut(value: float) -> str:
    return f"{np.floor(value * 1e3) / 1e3:.3f}"


def _spread(found: dict[str, float]) -> str:
    return f"{_cut(found['mean'])} ({_cut(found['min'])} to {_cut(found['max'])})"


def main() -> None:
    """Run what is missing, and write the table of what is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--camvid", required=True, help="folder of CamVid")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--json", type=Path, required=True, help="figures to write")
    parser.add_argument(
        "--variants", nargs="+", choices=(*VARIANTS, SHORTER), default=(*VARIANTS, SHORTER)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", default="swiftnet18-half", help="model that is slimmed")
    parser.add_argument("--scratch", action="store_true", help="start from random weights")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--adjusted", action="store_true", help="adjust logits before scoring")
    parser.add_argument("--also", default="", help="settings of `train slim` for all variants")
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args()
    # Seed by seed, so that a table of what is there compares all variants early.
    runs = [Run(args, variant, seed) for seed in args.seeds for variant in args.variants]
    if not args.table:
        for run in runs:
            run.finish()
    done: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        figures = run.figures()
        if figures is not None:
            done.setdefault(run.variant, []).append(figures)
    variants = {name: summary(found) for name, found in done.items()}
    print(table(variants))
    how = {"recipe": RECIPE, **{k: getattr(args, k) for k in HOW}}
    found = {**how, "versions": versions(), "variants": variants, "runs": done}
    args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
