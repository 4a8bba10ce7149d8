"""Tells what got better or worse since an earlier run: `--compare old.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
import json
from typing import Any, Literal, TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.eval.frames import FRAMES, read_frames
from seg_node.eval.intervals import difference, difference_unpaired, Figure, FIGURES
from seg_node.eval.tables import Table, three_digits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from seg_node.eval.frames import ModeFrames
    from seg_node.eval.intervals import Difference

Verdict = Literal["better", "worse", "no difference seen"]
UNCHANGED: Verdict = "no difference seen"
COMPARE = "compare"
"""Key of the comparison in `results.json`."""


@dataclass(frozen=True)
class Change:
    """One figure of one mode, then and now.

    Attributes:
        mode: the mode.
        figure: key of the figure.
        title: its name for people.
        unit: its unit for people.
        old: its value then.
        new: its value now.
        low: lower end of the 95% interval of `new - old`.
        high: upper end.
        frames: frames that it was computed of.
        paired: whether they were the same frames in both runs.
        verdict: better or worse if the whole interval is on one side of 0.

    """

    mode: str
    figure: str
    title: str
    unit: str
    old: float
    new: float
    low: float
    high: float
    frames: int
    paired: bool
    verdict: Verdict


@dataclass(frozen=True)
class OldRun:
    """An earlier run, read before this one begins so that a wrong path is told at once.

    Attributes:
        path: its `results.json`.
        results: what that holds.
        frames: its table of frames, by mode.

    """

    path: Path
    results: dict[str, Any]
    frames: Mapping[str, ModeFrames]


def read_old_run(path: Path) -> OldRun:
    """Read the results of an earlier run and the table of frames beside them.

    Raises:
        DataError: they cannot be read, or are no results of replay or evaluate.

    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"cannot compare with {path}: {error}"
        raise DataError(msg) from error
    if not isinstance(results, dict) or not results.get("modes") or "classes" not in results:
        msg = f"cannot compare with {path}: give the results.json of a replay or evaluate"
        raise DataError(msg)
    table = path.with_name(FRAMES)
    if not table.exists():
        msg = (
            f"cannot compare with {path}: there is no {FRAMES} beside it, which replay and "
            "evaluate write into --out"
        )
        raise DataError(msg)
    return OldRun(path, results, read_frames(table, len(results["classes"])))


def compare(
    old: OldRun, results: dict[str, Any], frames: Mapping[str, ModeFrames]
) -> dict[str, Any]:
    """Compare this run with an earlier one, mode by mode.

    Frames are paired where both runs saw the same data; else each run's frames are drawn by
    themselves, and the intervals are wider.

    Args:
        old: the earlier run.
        results: content of this run's `results.json`.
        frames: this run's table of frames, by mode.

    Returns:
        The value of `compare` in `results.json`: `old` (the file), `notes` (what else differs),
        `changes` (the fields of `Change`).

    Raises:
        DataError: the runs have no mode in common, or other classes.

    """
    _check(old, results, frames)
    paired = _same_data(old.results, results)
    changes = [
        change
        for mode, now in frames.items()
        if mode in old.frames
        for figure in FIGURES
        if (change := _change(mode, figure, old.frames[mode], now, paired=paired))
    ]
    return {
        "old": str(old.path),
        "notes": _notes(old.results, results, paired=paired),
        "changes": [asdict(change) for change in changes],
    }


def _check(old: OldRun, results: dict[str, Any], frames: Mapping[str, ModeFrames]) -> None:
    if old.results["classes"] != results["classes"]:
        msg = f"cannot compare with {old.path}: its model has other classes"
        raise DataError(msg)
    if not set(frames) & set(old.frames):
        msg = (
            f"cannot compare with {old.path}: it has mode {', '.join(old.frames)}, this "
            f"run {', '.join(frames)}; run a mode that both have"
        )
        raise DataError(msg)


def _same_data(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether both runs read the same data: by fingerprint, or by name where none is."""
    prints = [run.get("source", {}).get("sha256") for run in (old, new)]
    if None in prints:
        return bool(old["data"] == new["data"])
    return bool(prints[0] == prints[1])


def _change(
    mode: str, figure: Figure, old: ModeFrames, new: ModeFrames, *, paired: bool
) -> Change | None:
    found = (difference if paired else difference_unpaired)(figure, old, new)
    if found is None:
        return None
    return Change(
        mode=mode,
        figure=figure.key,
        title=figure.title,
        unit=figure.unit,
        **asdict(found),
        verdict=verdict(figure, found),
    )


def verdict(figure: Figure, found: Difference) -> Verdict:
    """Return whether the difference is on the good or on the bad side of 0, as a whole."""
    if found.low <= 0 <= found.high:
        return UNCHANGED
    return "better" if (found.low > 0) == figure.higher_is_better else "worse"


def _notes(old: dict[str, Any], new: dict[str, Any], *, paired: bool) -> list[str]:
    """Return one line for everything else that is not the same in both runs."""
    notes = []
    if not paired:
        notes.append(
            f"other data ({old['data']} then, {new['data']} now): frames cannot be paired, so "
            "the data may be what differs"
        )
    if old["model"] != new["model"]:
        notes.append(f"another model: {old['model']['name']} then, {new['model']['name']} now")
    if old.get("device") != new.get("device"):
        notes.append(f"another device: {old.get('device')} then, {new.get('device')} now")
    changed = {
        name: (old.get("config", {}).get(name), value)
        for name, value in new.get("config", {}).items()
        if name != "mode" and _plain(old.get("config", {}).get(name)) != _plain(value)
    }
    notes += [f"{name} was {before}, is {now}" for name, (before, now) in changed.items()]
    for lacking, run in (("then", old), ("now", new)):
        other = new if run is old else old
        missing = [mode for mode in other["modes"] if mode not in run["modes"]]
        if missing:
            notes.append(f"not run {lacking}: {', '.join(missing)}")
    return notes


def _plain(value: object) -> object:
    """Return a setting as JSON would give it back."""
    return list(value) if isinstance(value, tuple) else value


def change_table(comparison: dict[str, Any]) -> Table:
    """Return the comparison as a table for the terminal."""
    header = ("mode", "figure", "then", "now", "95% of the change", "frames", "verdict")
    rows = [
        (
            change["mode"],
            change["title"],
            quantity(change["old"], change["unit"]),
            quantity(change["new"], change["unit"]),
            f"{change['low']:+.4g} .. {change['high']:+.4g}",
            str(change["frames"]),
            change["verdict"],
        )
        for change in comparison["changes"]
    ]
    return Table(f"Against {comparison['old']}", header, tuple(rows))


def quantity(value: float, unit: str) -> str:
    """Return a figure for people: four digits of a score, with the unit of anything else."""
    return f"{three_digits(value)} {unit}" if unit else f"{value:.4f}"
