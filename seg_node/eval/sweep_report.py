"""The page of a sweep: every point in the same plots and tables as the modes of one run."""

from __future__ import annotations

from dataclasses import replace
import json
from typing import Any, TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.eval.advice import SweepPoint
from seg_node.eval.outputs import RESULTS
from seg_node.eval.report import REPORT, write_report
from seg_node.eval.require import VERDICTS
from seg_node.eval.results import DENSE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from seg_node.core.types import ClassInfo

NOT_OF_DENSE = (
    "block_size",
    "budget.",
    "gate.",
    "keyframe_interval",
    "max_age_ms",
    "motion.",
    "policy.",
    "reuse.",
)
"""How settings begin that mode `dense` does not read: a sweep over them repeats it."""


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
        page = f"{points.name}/{key}/{REPORT}"
        found.append(SweepPoint(own[0]["settings"], results["modes"], best, verdicts, page))
    swept = {name: "swept" for point in found for name in point.settings}
    config = {**results["config"], **swept}
    content = {**results, "command": "sweep", "modes": {}, "config": config, VERDICTS: []}
    return write_report(content, {}, {}, classes, out, _dense_once(found))


def _dense_once(found: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Show mode `dense` once where nothing that was swept concerns it: the median run by p95."""
    runs = [point for point in found if DENSE in point.modes]
    swept = {name for point in found for name in point.settings}
    if not runs or not all(name.startswith(NOT_OF_DENSE) for name in swept):
        return list(found)
    by_time = sorted(runs, key=lambda point: float(point.modes[DENSE]["ms"]["p95"]))
    median = by_time[len(by_time) // 2]
    rest = [
        replace(point, modes={m: entry for m, entry in point.modes.items() if m != DENSE})
        for point in found
    ]
    alone = replace(median, settings={}, modes={DENSE: median.modes[DENSE]})
    return [alone, *(point for point in rest if point.modes)]


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
