"""The page of a fleet: the pooled figures as those of one run, and every recording below them."""

from __future__ import annotations

from dataclasses import dataclass, replace
import math
from typing import Any, TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from seg_node.eval.advice import find_choices
from seg_node.eval.compare import quantity
from seg_node.eval.report import mode_table, REPORT, write_report
from seg_node.eval.results import DENSE, NS_PER_MS
from seg_node.eval.tables import three_digits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from seg_node.core.types import ClassInfo
    from seg_node.eval.advice import Choice
    from seg_node.eval.fleet_merge import BagResult


@dataclass(frozen=True)
class FleetPart:
    """What the page of a fleet shows of its recordings.

    Attributes:
        parts: name of each recording, and what a mode came to in it.
        times: times of all steps in milliseconds, float64 [n], by mode.
        failures: `name` and `error` of the recordings that do not count.
        tables: by mode, `columns` and `rows` as of `mode_table`, each row with its `page`.
        shown: the mode whose table is open.
        intervals: `mode`, `title`, `value` and `range` of pooled figures.

    """

    parts: Sequence[tuple[str, Choice]]
    times: Mapping[str, NDArray[np.float64]]
    failures: Sequence[Mapping[str, str]]
    tables: Sequence[tuple[str, dict[str, Any]]]
    shown: str
    intervals: Sequence[dict[str, Any]]


def write_fleet_report(
    results: dict[str, Any], bags: Sequence[BagResult], classes: Sequence[ClassInfo], out: Path
) -> Path:
    """Write the page and return its path.

    Args:
        results: content of the fleet's `results.json`.
        bags: all recordings, at least one done.
        classes: classes of the masks, in label order.
        out: folder to write into.

    """
    return write_report(results, {}, {}, classes, out, fleet=_part(results, bags))


def _part(results: dict[str, Any], bags: Sequence[BagResult]) -> FleetPart:
    labelled = any(entry["miou"] is not None for entry in results["modes"].values())
    parts = [
        (bag.task.name, _alike(choice, labelled=labelled))
        for bag in bags
        if bag.results
        for choice in find_choices(bag.results, ())
        if choice.mode in results["modes"]
    ]
    pages = {
        x["name"]: f"{quote(x['folder'])}/{REPORT}" for x in results["recordings"] if x["folder"]
    }
    return FleetPart(
        parts=parts,
        times=_times(bags),
        failures=[x for x in results["recordings"] if x["state"] == "failed"],
        shown=next((mode for mode in results["modes"] if mode != DENSE), DENSE),
        tables=[(mode, _table(mode, parts, pages)) for mode in results["modes"]],
        intervals=[_interval_row(row) for row in results["over_recordings"]],
    )


def _alike(choice: Choice, *, labelled: bool) -> Choice:
    """Return a choice with the kind of score that the pooled ones have."""
    return replace(choice, score=choice.entry["miou"]) if labelled else choice


def _times(bags: Sequence[BagResult]) -> dict[str, NDArray[np.float64]]:
    found: dict[str, list[NDArray[np.float64]]] = {}
    for bag in bags:
        for mode, record in bag.counts.modes.items() if bag.counts else ():
            found.setdefault(mode, []).append(np.array(record.step_ns) / NS_PER_MS)
    return {mode: np.concatenate(times) for mode, times in found.items()}


def _table(
    mode: str, parts: Sequence[tuple[str, Choice]], pages: Mapping[str, str]
) -> dict[str, Any]:
    """Return the recordings in one mode, the lowest score first, those without one last."""
    own = [(name, choice) for name, choice in parts if choice.mode == mode]
    own.sort(key=lambda pair: math.inf if pair[1].score is None else pair[1].score)
    table = mode_table([choice for _, choice in own], {mode: ""})
    for row, (name, _) in zip(table["rows"], own, strict=True):
        row.update(name=name, page=pages[name])
    return table


def _interval_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return an interval for people, its unit told once."""
    low, high = (
        f"{row[end]:.4f}" if not row["unit"] else three_digits(row[end]) for end in ("low", "high")
    )
    text = f"{low} .. {high} {row['unit']}".rstrip()
    return {**row, "value": quantity(row["value"], row["unit"]), "range": text}
