"""The page of a run: `report.html`, one file that opens anywhere, without a network.

How to read it: docs/report.md. It holds nothing that `results.json` and `frames.csv` do not hold,
but for the pictures of the worst frames.
"""

from __future__ import annotations

import base64
from importlib import resources
from typing import Any, TYPE_CHECKING

import cv2
import jinja2
import numpy as np

from seg_node.data.compressed_images import encode_jpeg
from seg_node.eval.advice import advise, find_choices
from seg_node.eval.charts import chart_data
from seg_node.eval.compare import COMPARE, compare, quantity
from seg_node.eval.files import write_whole
from seg_node.eval.frames import FRAMES, read_frames
from seg_node.eval.machine import in_words
from seg_node.eval.outputs import RESULTS
from seg_node.eval.require import VERDICTS
from seg_node.eval.results import write_json
from seg_node.eval.tables import three_digits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from seg_node.core.types import ClassInfo
    from seg_node.eval.advice import Choice, SweepPoint
    from seg_node.eval.compare import OldRun
    from seg_node.eval.fleet_report import FleetPart
    from seg_node.eval.frames import ModeFrames
    from seg_node.eval.worst import Views, WorstFrames

REPORT = "report.html"
MOST_FRAMES = 24
"""Worst frames on a page, all modes together: some 100 kB each."""
PICTURE_WIDTH = 440
"""Width of their pictures in pixels."""
QUALITY = 72
"""JPEG quality of their pictures, 0..100."""

COLUMNS = (
    ("mIoU", "how much of each class is found and right, mean over the classes; 1 is perfect"),
    ("as dense", "share of the pixels with the same class as computing everything gives"),
    ("half within", "half of the frames took at most this time (p50 of the step)"),
    ("95% within", "95 of 100 frames took at most this time (p95)"),
    ("99% within", "99 of 100 frames took at most this time (p99)"),
    ("speed-up", "how many times as fast as mode dense, over the whole run"),
    ("GMAC", "multiply-accumulates of a frame in billions: compute, whatever the machine"),
    ("saved", "share of the compute of mode dense that was not needed"),
    ("oldest part", "in 95 of 100 frames nothing shown was computed longer ago than this"),
    ("J a frame", "energy of a frame, where the machine tells it; idle power included"),
    ("frames", "frames that went through this mode"),
    ("dropped", "frames that came too fast and were never looked at"),
)
"""Headings of the table of modes, with what they mean."""
BESIDE = {
    "evaluate": "results.json (all figures), frames.csv (one line per frame and mode)",
    "fleet": "results.json (all figures), bags (every recording with a page and files of its own)",
    "replay": "results.json (all figures), frames.csv (one line per frame and mode), result_bag "
    "(masks and pictures at the stamps of the data, for Foxglove and rviz)",
    "sweep": "sweep.json (all figures), points (every point with a page of its own)",
}
"""What lies in the folder of the page, by command; a replay without pictures has no bag."""
ABSENT = "-"


def conclude(  # noqa: PLR0913, PLR0917 - all that a run has come to
    results: dict[str, Any],
    worst: Mapping[str, WorstFrames],
    classes: Sequence[ClassInfo],
    out: Path,
    old: OldRun | None = None,
    points: Sequence[SweepPoint] = (),
) -> None:
    """Write `results.json` and the page of a run whose table of frames is written.

    Args:
        results: content of `results.json`; gets the comparison.
        worst: the worst frames, by mode.
        classes: classes of the masks, in label order.
        out: folder of the run.
        old: an earlier run to compare with; None for none.
        points: of a sweep; none where there was none.

    Raises:
        DataError: a file cannot be read or written, or the runs cannot be compared.

    """
    frames = read_frames(out / FRAMES, len(classes))
    if old and frames:
        results[COMPARE] = compare(old, results, frames)
    write_json(results, out / RESULTS)
    write_report(results, frames, worst, classes, out, points)


def write_report(  # noqa: PLR0913, PLR0917 - the parts of the page
    results: dict[str, Any],
    frames: Mapping[str, ModeFrames],
    worst: Mapping[str, WorstFrames],
    classes: Sequence[ClassInfo],
    out: Path,
    points: Sequence[SweepPoint] = (),
    fleet: FleetPart | None = None,
) -> Path:
    """Write the page and return its path.

    Args:
        results: content of `results.json`; its `compare` and `verdicts` are shown where they are
            there.
        frames: the table of frames, by mode.
        worst: the worst frames, by mode; a mode without any is left out.
        classes: classes of the masks, in label order.
        out: folder to write into.
        points: of a sweep; none where there was none.
        fleet: the recordings of a fleet, whose figures are pooled; None for one recording.

    """
    path = out / REPORT
    page = render_report(results, frames, worst, classes, points, fleet)
    write_whole(path, page)
    return path


def render_report(  # noqa: PLR0913, PLR0917 - the parts of the page
    results: dict[str, Any],
    frames: Mapping[str, ModeFrames],
    worst: Mapping[str, WorstFrames],
    classes: Sequence[ClassInfo],
    points: Sequence[SweepPoint] = (),
    fleet: FleetPart | None = None,
) -> str:
    """Return the page as HTML; see `write_report`."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # modes keep their order
    environment.filters["quantity"] = _quantity
    template = environment.from_string(_file("report.html.j2"))
    choices = find_choices(results, points)
    advice = advise(choices, frames)
    parts = (fleet.parts, fleet.times) if fleet else ()
    data = chart_data(choices, frames, advice.score_name, *parts)
    comparison = results.get(COMPARE)
    return template.render(
        results=results,
        advice=advice,
        swept=bool(points),
        fleet=fleet,
        **mode_table(choices, data["colors"]),
        comparison=comparison,
        changes=[_change_row(change) for change in comparison["changes"]] if comparison else [],
        verdicts=results.get(VERDICTS, ()),
        machine=in_words(results["machine"]),
        judged=[choice for choice in choices if choice.verdicts] if points else [],
        notes=_notes(results),
        **_class_tables(results, classes, data["colors"]),
        worst=_pictures(worst),
        first_mode=data["first"],
        worst_note=_worst_note(results),
        facts=_facts(results),
        has_frames=bool(data["timeline"]),
        beside=_beside(results),
        data=data,
        style=_file("report.css"),
        # Its last line names a map for debuggers, which lies nowhere here.
        library=_file("chart.umd.min.js").partition("//# sourceMappingURL")[0],
        script=_file("report.js"),
    )


def _file(name: str) -> str:
    """Return a file that is shipped beside this module."""
    return (resources.files("seg_node.eval") / "page" / name).read_text(encoding="utf-8")


def mode_table(choices: Sequence[Choice], colors: Mapping[str, str]) -> dict[str, Any]:
    """Return columns and rows of a table of modes, without columns that nobody fills.

    Args:
        choices: a row each.
        colors: by mode.

    Returns:
        `columns`, pairs of `COLUMNS`, and `rows`, each with `name`, `color` and `cells`.

    """
    rows = [_mode_row(choice, colors) for choice in choices]
    filled = [
        column for column in range(len(COLUMNS)) if any(r["cells"][column] != ABSENT for r in rows)
    ]
    for row in rows:
        row["cells"] = [row["cells"][column] for column in filled]
    return {"columns": [COLUMNS[column] for column in filled], "rows": rows}


def _beside(results: dict[str, Any]) -> str:
    bare = results["command"] == "replay" and not results.get("pictures", True)
    return BESIDE["evaluate" if bare else results["command"]]


def _mode_row(choice: Choice, colors: Mapping[str, str]) -> dict[str, Any]:
    entry = choice.entry
    ms, agreement = entry["ms"] or {}, entry["agreement"] or {}
    cells = (
        _text(entry["miou"], ".3f"),
        _text(agreement.get("pixel"), ".1%"),
        _quantity(ms.get("p50"), " ms"),
        _quantity(ms.get("p95"), " ms"),
        _quantity(ms.get("p99"), " ms"),
        _text(entry["speedup_vs_dense"], ".2f", "x"),
        _quantity(entry["gmac_per_frame"]),
        _text(entry["gmac_saving"], ".1%"),
        _text(choice.age_ms, ".0f", " ms"),
        _quantity(entry.get("joules_per_frame"), " J"),
        str(entry["frames"]),
        str(entry["dropped"] or ABSENT),
    )
    row = {"name": choice.name, "page": choice.page, "color": colors[choice.mode]}
    return {**row, "cells": cells}


def _text(value: float | None, form: str, unit: str = "") -> str:
    return ABSENT if value is None else f"{value:{form}}{unit}"


def _quantity(value: float | None, unit: str = "") -> str:
    return ABSENT if value is None else f"{three_digits(value)}{unit}"


def _change_row(change: dict[str, Any]) -> dict[str, str]:
    styles = {"better": "good", "worse": "bad"}
    return {
        "mode": change["mode"],
        "title": change["title"],
        "old": quantity(change["old"], change["unit"]),
        "new": quantity(change["new"], change["unit"]),
        "interval": f"{change['low']:+.3g} .. {change['high']:+.3g}",
        "verdict": change["verdict"],
        "style": styles.get(change["verdict"], ""),
    }


def _class_tables(
    results: dict[str, Any], classes: Sequence[ClassInfo], colors: Mapping[str, str]
) -> dict[str, Any]:
    """Return the rows of the table of classes, none without labels, and the colours of all."""
    names = [{"name": item.name, "color": "rgb({},{},{})".format(*item.color)} for item in classes]
    scored = {mode: e for mode, e in results["modes"].items() if e["class_iou"] is not None}
    shares = next((e["class_share"] for e in scored.values()), None) or [None] * len(names)
    rows = []
    for label, item in enumerate(names):
        iou = {mode: entry["class_iou"][label] for mode, entry in scored.items()}
        cells = [
            (_text(value, ".3f"), round(100 * (value or 0.0), 1), colors[mode])
            for mode, value in iou.items()
        ]
        rows.append({**item, "share": _text(shares[label], ".1%"), "cells": cells})
    return {
        "class_rows": rows if scored else [],
        "labelled_modes": list(scored),
        "classes": names,
    }


def _pictures(worst: Mapping[str, WorstFrames]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return name, title and JPEG files of the worst frames of every mode that has some."""
    shown = [(mode, kept.views()) for mode, kept in worst.items()]
    shown = [(mode, views) for mode, views in shown if views]
    most = max(1, MOST_FRAMES // max(1, len(shown)))
    return [(mode, [_frame(view) for view in views[:most]]) for mode, views in shown]


def _frame(view: Views) -> dict[str, Any]:
    return {
        "name": view.name,
        "title": f"frame {view.name}: {view.score:.3f}",
        "views": [(name, _jpeg(picture)) for name, picture in view.pictures.items()],
    }


def _jpeg(picture: NDArray[np.uint8]) -> str:
    """Return a picture in the width of the page's as base64."""
    size = (PICTURE_WIDTH, max(1, round(picture.shape[0] * PICTURE_WIDTH / picture.shape[1])))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return base64.b64encode(encode_jpeg(np.asarray(small, np.uint8), QUALITY)).decode("ascii")


def _worst_note(results: dict[str, Any]) -> str:
    if any(entry["miou"] is not None for entry in results["modes"].values()):
        return (
            "Those of lowest mIoU, half a second apart where there are enough. The reference is "
            "the labels of the data."
        )
    return (
        "Those that differ most from computing everything (mode dense), which is the reference "
        "here; half a second apart where there are enough."
    )


def _notes(results: dict[str, Any]) -> list[str]:
    """Return one line for everything that is odd about the data."""
    source = results["source"]
    notes = [f"Skipped {n} x: {text}" for text, n in source["skipped_reasons"].items()]
    notes += [f"Header stamps: {n} x {text}" for text, n in source["stamp_problems"].items()]
    notes += [f"Mind: {note}." for note in results.get("notes", ())]
    return notes + ([source["shortfall"]] if source["shortfall"] else [])


def _facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Return everything that it takes to run this again."""
    source = results["source"]
    facts = {
        "data": results["data"],
        "topic": source["topic"],
        "sha256 of the data": source["sha256"],
        "frames per second": source["rate_hz"] and f"{source['rate_hz']:.4g}",
        "model": results["model"]["name"],
        "sha256 of the model": results["model"]["sha256"],
        "device": results["device"],
        "machine": in_words(results["machine"]),
        **{f"version of {name}": value for name, value in results["versions"].items()},
        **results["config"],
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]
