"""Take a trained model into models/: python benchmarks/release_model.py RUN.json --commit C ...

Writes float16 weights and a manifest, with the policy and the LOW branch where the run has them,
scores the network with `seg_node evaluate`, keeps the outputs in
benchmarks/results/evaluate_<score>_<model>.json and their figures, cut off and not rounded, in the
manifest. The model card is for a person to write.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
import json
import math
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any, TYPE_CHECKING

import torch

from seg_node.nets.build import load_model
from seg_node.nets.weights import save_weights

if TYPE_CHECKING:
    from seg_node.nets.manifest import Manifest

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("miou", "pixel_accuracy")


def release(run: Path, name: str, facts: dict[str, Any]) -> Manifest:
    """Write weights and manifest of a finished run into models/.

    Args:
        run: manifest that the training wrote.
        name: name of the model.
        facts: fields of the manifest that a person says.

    """
    model = load_model(str(run), fold=False)
    file = f"{name}.safetensors"
    sha256 = save_weights(model.net, ROOT / "models" / file, dtype=torch.float16)
    parts = {part: _part(run, model.manifest, part, name, sha256) for part in ("policy", "low")}
    own = {**facts, **parts}
    manifest = replace(model.manifest, name=name, file=file, sha256=sha256, scores={}, **own)
    manifest.write(ROOT / "models")
    return manifest


def _part(run: Path, manifest: Manifest, part: str, name: str, network: str) -> Any:
    """Copy the weights of a policy or LOW branch, and return what is known of them."""
    known = getattr(manifest, part)
    if known is None:
        return None
    if known.network_sha256 != network:
        msg = f"{run}: the {part} belongs to other weights than float16 ones; train it on those"
        raise SystemExit(msg)
    file = f"{name}-{part}.safetensors"
    shutil.copyfile(run.parent / known.file, ROOT / "models" / file)
    return replace(known, file=file)


def score(model: str, label: str, data: list[str]) -> dict[str, float]:
    """Evaluate a model, keep the output, and return its figures under their names."""
    out = Path("benchmarks") / "results" / f"evaluate_{label}_{model}.json"
    command = ["-m", "seg_node.cli", "evaluate", *data, "--model", model, "--json", str(out)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    (mode,) = json.loads((ROOT / out).read_text())["modes"].values()
    return {f"{label}_{figure}": math.floor(mode[figure] * 1e4) / 1e4 for figure in FIGURES}


def main() -> None:
    """Release and score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="manifest that the training wrote")
    parser.add_argument("--name", required=True)
    parser.add_argument("--commit", required=True, help="commit whose code trained it")
    parser.add_argument("--data", required=True, help="what it was trained on, in words")
    parser.add_argument("--terms", required=True, help="terms of these data")
    parser.add_argument("--command", help="command that trained it, if the run does not say")
    parser.add_argument("--camvid", default="../shared/data/camvid", help="folder of CamVid")
    args = parser.parse_args()
    facts = {"commit": args.commit, "data": args.data, "terms": args.terms}
    if args.command:
        facts["command"] = args.command
    manifest = release(args.run, args.name, facts)
    scores = score(args.name, "camvid_val", [f"camvid:{args.camvid}", "--split", "val"])
    scores |= score(args.name, "street_7", ["street:7"])
    replace(manifest, scores=scores).write(ROOT / "models")


if __name__ == "__main__":
    main()
