"""Runs of an ablation: each is trained and scored by the commands of seg_node, once.

Only what is missing is run, and a training that was killed goes on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "net"
"""Of the model that every run writes."""
ADJUSTED = "adjusted"
"""Folder of the model with adjusted logits, in that of the run."""


class TrainedRun:
    """A training in a folder of its own, and what its model is scored on.

    Args:
        folder: of the run.
        tests: words of `seg_node evaluate` that name the data, by the name of the score.
        threads: of each command.
        adjust: words that name the data on which logits are adjusted before scoring
            (`train adjust`); none for scores of the model as it was trained.

    """

    def __init__(
        self,
        folder: Path,
        tests: Mapping[str, Sequence[str]],
        threads: int,
        adjust: Sequence[str] = (),
    ) -> None:
        """Say where it lives."""
        self.folder = folder
        self._tests = tests
        self._threads = threads
        self._adjust = adjust

    def finish(self, training: Sequence[str], last: str) -> None:
        """Train and score what is missing.

        Args:
            training: words of `seg_node train`, but for where its results go.
            last: the file that a finished training writes last.

        """
        if not (self.folder / last).exists():
            where = ["--out", str(self.folder), "--name", NAME, "--resume"]
            self._command(["train", *training, *where])
        trained = model = str(self.folder / f"{NAME}.json")
        if self._adjust:
            folder = self.folder / ADJUSTED
            model = str(folder / f"{NAME}.json")
            if not Path(model).exists():
                words = [*self._adjust, "--model", trained, "--out", str(folder)]
                self._command(["train", "adjust", *words])
        for label, data in self._tests.items():
            out = self._file(label)
            if not out.exists():
                self._command(["evaluate", *data, "--model", model, "--json", str(out)])

    def scores(self) -> dict[str, dict[str, Any]] | None:
        """Return what `evaluate` wrote of mode dense, by score; None if some is missing."""
        files = {label: self._file(label) for label in self._tests}
        if not all(file.exists() for file in files.values()):
            return None
        return {k: json.loads(f.read_text())["modes"]["dense"] for k, f in files.items()}

    def _file(self, label: str) -> Path:
        return (self.folder / ADJUSTED if self._adjust else self.folder) / f"{label}.json"

    def _command(self, words: Sequence[str]) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        print("seg_node", *words, flush=True)
        subprocess.run([sys.executable, "-m", "seg_node.cli", *words], env=env, check=True)
