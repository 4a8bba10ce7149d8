"""What the plots of the page show, as plain numbers for its JavaScript.

A recording may have ten thousand frames, a screen has a thousand columns: lines are thinned to
`POINTS` points, each of them the worst (times, ages) or the mean (shares) of consecutive frames.
"""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.core.types import Reason
from seg_node.eval.results import DENSE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from seg_node.eval.advice import Choice
    from seg_node.eval.frames import ModeFrames

    Column = NDArray[np.float64]

POINTS = 600
"""Most points of a line."""
BINS = 40
"""Columns of the histogram."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#555555")
"""Colour of each mode in turn, told apart by colour-blind people (Okabe & Ito), yellow darker."""
_NS_PER_S = 1e9


def chart_data(
    choices: Sequence[Choice],
    frames: Mapping[str, ModeFrames],
    score_name: str,
    parts: Sequence[tuple[str, Choice]] = (),
    times: Mapping[str, Column] | None = None,
) -> dict[str, Any]:
    """Return everything that is plotted.

    Args:
        choices: what was tried, see `advice.find_choices`.
        frames: the table of frames, by mode.
        score_name: what the scores of the choices are.
        parts: name of each recording of a fleet, and what a mode came to in it.
        times: times of all steps in milliseconds, float64 [n], by mode; None for those of
            `frames`.

    """
    if times is None:
        times = {mode: table.numbers["step_ms"] for mode, table in frames.items()}
    modes = list(dict.fromkeys([*frames, *(choice.mode for choice in choices)]))
    timeline = {mode: _timeline(table) for mode, table in frames.items() if len(table.index)}
    return {
        "first": _first(choices, timeline),
        "colors": {mode: COLORS[i % len(COLORS)] for i, mode in enumerate(modes)},
        "score": score_name,
        "points": [
            *(_point(choice) for choice in choices),
            *(_point(choice, recording) for recording, choice in parts),
        ],
        "histogram": _histogram(times),
        "timeline": timeline,
        "reasons": {reason.name: reason.value for reason in Reason},
    }


def _first(choices: Sequence[Choice], timeline: Mapping[str, Any]) -> str:
    """Return the mode to show first: the best but dense, which does the same in every frame."""
    others = [c for c in choices if c.mode != DENSE and c.mode in timeline and not c.settings]
    best = max(others, key=lambda c: c.score or 0.0, default=None)
    return best.mode if best else next(iter(timeline), DENSE)


def _point(choice: Choice, recording: str | None = None) -> dict[str, Any]:
    return {
        "mode": choice.mode,
        "name": choice.name if recording is None else f"{choice.name}, {recording} alone",
        "part": recording is not None,
        "swept": bool(choice.settings),
        "pareto": choice.pareto,
        "score": choice.score,
        "p50": choice.p50_ms,
        "p95": choice.p95_ms,
        "gmac": choice.gmac,
        "age": choice.age_ms,
    }


def _histogram(every: Mapping[str, Column]) -> dict[str, Any]:
    """Return the share of each mode's frames in bins of equal ratio: times differ by factors."""
    times = {mode: _known(values) for mode, values in every.items()}
    times = {mode: values for mode, values in times.items() if len(values)}
    if not times:
        return {"edges": [], "shares": {}}
    low = min(values.min() for values in times.values())
    high = max(values.max() for values in times.values())
    # A run whose steps all took the same time still needs a bin of some width.
    edges = np.geomspace(max(low, 1e-3) * 0.99, max(high, 1e-3) * 1.01, BINS + 1)
    shares = {m: np.histogram(values, edges)[0] / len(values) for m, values in times.items()}
    return {
        "edges": _rounded(edges, 4),
        "shares": {mode: _rounded(values, 4) for mode, values in shares.items()},
    }


def _timeline(table: ModeFrames) -> dict[str, Any]:
    """Return the lines of one mode over time; null where nothing was measured."""
    begins = _begins(len(table.index))
    numbers = table.numbers
    worst = {
        name: np.fmax.reduceat(numbers[column], begins)
        for name, column in (("step", "step_ms"), ("late", "late_ms"), ("oldest", "age_max_ms"))
    }
    means = {
        name: _reduce_mean(numbers[column], begins)
        for name, column in (
            ("high", "high"),
            ("low", "low"),
            ("reuse", "reuse"),
            ("age", "age_p50_ms"),
        )
    }
    seconds = (table.stamp_ns - table.stamp_ns[0]) / _NS_PER_S
    return {
        "frames_per_point": -(-len(table.index) // len(begins)),
        "seconds": _rounded(seconds[begins], 3),
        "index": table.index[begins].tolist(),
        "reason": [table.reason[row] for row in begins],
        "dropped": np.add.reduceat(table.dropped.astype(int), begins).tolist(),
        **{name: _rounded(values, 3) for name, values in (worst | means).items()},
    }


def _begins(count: int) -> NDArray[np.int64]:
    """Return the first row of every point: all rows, or as many as a screen can show."""
    return np.arange(0, count, max(1, -(-count // POINTS)))


def _reduce_mean(values: Column, begins: NDArray[np.int64]) -> Column:
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), begins)
    counts = np.add.reduceat(known.astype(np.float64), begins)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _known(values: Column) -> Column:
    return values[np.isfinite(values)]


def _rounded(values: Column, digits: int) -> list[float | None]:
    """Return plain numbers, null for nan, which JSON does not have."""
    return [round(float(v), digits) if np.isfinite(v) else None for v in values]
