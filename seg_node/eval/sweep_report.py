"""The page of a sweep: every point in the same plots and tables as the modes of one run."""

from __future__ import annotations

import json
from typing import Any, TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.eval.advice import SweepPoint
from seg_node.eval.outputs import RESULTS
from seg_node.eval.report import write_report
from seg_node.eval.require import VERDICTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from seg_node.core.types import ClassInfo


def write_sweep_report(
    rows: Sequence[dict[str, Any]], points: Path, classes: Sequence[ClassInfo], out: Path
) -> Path:
    """Write the page and return its path.

    Args:
        rows: of `sweep.json`, at least one: `point` (name of its folder), `settings`, `mode`,
            `pareto` (empty where something else beats the row), `verdicts` (see `Verdict.entry`).
        points: folder with a folder of every point.
        classes: classes of the masks, in label order.
        out: folder to write into.

    Raises:
        DataError: the results of a point cannot be read.

    """
    found = []
    results: dict[str, Any] = {}
    for key, own in _by_point(rows).items():
        results = _read(points / key / RESULTS)
        best = frozenset(row["mode"] for row in own if row["pareto"])
        verdicts = [verdict for row in own for verdict in row[VERDICTS]]
        found.append(SweepPoint(own[0]["settings"], results["modes"], best, verdicts))
    swept = {name: "swept" for point in found for name in point.settings}
    config = {**results["config"], **swept}
    page = {**results, "command": "sweep", "modes": {}, "config": config, VERDICTS: []}
    return write_report(page, {}, {}, classes, out, found)


def _by_point(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["point"], []).append(row)
    return grouped


def _read(path: Path) -> dict[str, Any]:
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"cannot read a point of the sweep, {path}: {error}"
        raise DataError(msg) from error
    return results
