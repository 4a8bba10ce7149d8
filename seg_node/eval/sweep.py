"""The same recording under many settings: `seg_node replay DATA --sweep NAME=V1,V2`.

Every point is a replay of its own without pictures, in a folder named by the hash of all that it
depends on. So a sweep that was ended goes on where it was, and a wider one repeats nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import hashlib
from itertools import product
import json
import logging
from typing import Any, TYPE_CHECKING

from seg_node.core.config import options
from seg_node.core.types import ConfigError, DataError
from seg_node.eval.clocks import EVERY_FRAME, LIVE
from seg_node.eval.cost_file import read_costs
from seg_node.eval.outputs import RESULTS
from seg_node.eval.progress import EXIT_INTERRUPTED
from seg_node.eval.replay import follow
from seg_node.eval.replay_command import EXIT_FAILED, open_course, open_recording
from seg_node.eval.require import FIGURES, judge, VERDICTS
from seg_node.eval.results import DENSE, versions, write_json
from seg_node.eval.session import open_model
from seg_node.eval.sweep_report import write_sweep_report
from seg_node.eval.tables import show, Table
from seg_node.nets.manifest import find_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from seg_node.core.config import Config, Value
    from seg_node.data.sources import Source
    from seg_node.eval.replay_command import Request

SWEEP = "sweep.json"
POINTS = "points"
"""Folder of the points."""
_SHOWN = (
    "miou",
    "miou_drop",
    "agreement_miou",
    "gmac",
    "gmac_saving",
    "p50_ms",
    "p95_ms",
    "lateness_p95_ms",
    "age_p95_ms",
    "dropped",
)
"""Figures of a row, as in `require.FIGURES`."""
COSTS = ("gmac", "p95_ms")
"""What accuracy is weighed against: a front for each."""
_HASH_DIGITS = 12

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes in turn.

    Attributes:
        name: dotted name of the setting.
        values: at least one.

    """

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Point:
    """One combination of values.

    Attributes:
        settings: the values by name, those of the sweep alone.
        config: all settings.
        key: hash of all that its results depend on.

    """

    settings: Mapping[str, Value]
    config: Config
    key: str


def run_sweep(request: Request, axes: Sequence[Axis]) -> int:
    """Do `seg_node replay DATA --sweep ...`.

    Returns:
        Exit status: 0; 1 if there are rules and no row keeps all of them; 130 after Ctrl-C.

    Raises:
        DataError: the data cannot be used, or the folder is not ours to write.
        ModelError: the model cannot be loaded.
        ConfigError: a value is out of range, or a setting or the clock cannot be swept.

    """
    _check_request(request)
    configs = _configs(request, axes)
    _check_folder(request.out)
    # Without mode dense nobody could say what a point loses.
    request = replace(request, reference=replace(request.reference, dense=True))
    source = open_recording(request)
    common = _common(request, source)
    points = [_point(common, settings, config) for settings, config in configs]
    content: dict[str, Any] = {}
    for number, point in enumerate(points):
        logger.info("point %d of %d: %s", number + 1, len(points), _text(point.settings))
        results = _results(request, source, point)
        content = _write(request, source, points[: number + 1], len(points))
        if results["interrupted"]:
            logger.info("interrupted by Ctrl-C: the same command goes on from here")
            return EXIT_INTERRUPTED
    classes = find_manifest(request.config.model)[0].classes
    page = write_sweep_report(content["rows"], request.out / POINTS, classes, request.out)
    _show(content, request, page)
    meeting = [row for row in content["rows"] if row["meets"]]
    return EXIT_FAILED if request.rules and not meeting else 0


def _check_request(request: Request) -> None:
    """Refuse what a sweep does not do.

    Raises:
        ConfigError: it is asked for.

    """
    why = None
    if request.resume:
        why = "--resume: it goes on by itself"
    elif request.compare_with is not None:
        why = "--compare: its rows are compared with each other"
    elif request.clock == LIVE:
        why = "--clock live: record its costs.json, then sweep with --clock virtual --costs"
    if why:
        msg = f"--sweep does not go with {why}"
        raise ConfigError(msg)


def _configs(request: Request, axes: Sequence[Axis]) -> list[tuple[dict[str, Value], Config]]:
    """Return every combination, checked before anything runs."""
    names = [axis.name for axis in axes]
    for name in names:
        if name == "mode" or names.count(name) > 1:
            why = "modes are compared by --mode a,b" if name == "mode" else "it is given twice"
            msg = f"--sweep cannot vary {name}: {why}"
            raise ConfigError(msg)
    found = []
    for values in product(*(axis.values for axis in axes)):
        settings = dict(zip(names, values, strict=True))
        found.append((settings, request.config.updated(settings)))
    return found


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds something other than a sweep.

    Raises:
        DataError: it does.

    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / SWEEP).is_file()):
        msg = f"{out} is not empty and holds no earlier sweep: choose another --out"
        raise DataError(msg)
    if not (out / SWEEP).is_file():
        write_json({"command": "sweep", "rows": []}, out / SWEEP)


def _common(request: Request, source: Source) -> dict[str, Any]:
    """Return what the results of all points depend on.

    Raises:
        DataError: the data or the cost file cannot be read.

    """
    modes = request.modes or (request.config.mode,)
    if request.costs is not None:
        read_costs(request.costs, modes)
    return {
        "data": source.spec,
        "bytes": source.fingerprint(),
        "modes": modes,
        "clock": request.clock,
        "costs": None if request.costs is None else request.costs.read_text(encoding="utf-8"),
        "reference": str(request.reference),
        "topics": (request.topic, request.mask_topic),
        "limit": request.extent.limit,
        "versions": versions(),
    }


def _point(common: Mapping[str, Any], settings: dict[str, Value], config: Config) -> Point:
    """Name a point by what its results depend on."""
    known = {**common, "config": {option.name: option.value for option in options(config)}}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    return Point(settings, config, digest[:_HASH_DIGITS])


def _results(request: Request, source: Source, point: Point) -> dict[str, Any]:
    """Return the results of a point: those of an earlier run, or else of a replay."""
    folder = request.out / POINTS / point.key
    known = _read(folder / RESULTS)
    if known is not None:
        return known
    modes = request.modes or (point.config.mode,)
    course = open_course(request, open_model(point.config), point.config, modes)
    return follow(source, course, folder, replace(request.extent, pictures=False))


def _read(path: Path) -> dict[str, Any] | None:
    """Return whole results; None where there are none, or those of a replay that was ended."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read ({error}): remove its folder, and the point is run again"
        raise DataError(msg) from error
    complete = not content["interrupted"] and "modes" in content
    return content if complete else None


def _write(
    request: Request, source: Source, points: Sequence[Point], total: int
) -> dict[str, Any]:
    """Write `sweep.json` of all points that are complete, and return its content."""
    rows: list[dict[str, Any]] = []
    machine: dict[str, Any] = {}
    for point in points:
        results = _read(request.out / POINTS / point.key / RESULTS)
        if results is not None:
            rows += _rows(request, point, results)
            machine = {name: results[name] for name in ("model", "device", "versions")}
    measure = "miou" if all(row["miou"] is not None for row in rows) else "agreement_miou"
    for cost in COSTS:
        for row, front in zip(rows, pareto(rows, measure, cost), strict=True):
            row["pareto"] += [cost] if front else []
    content = {
        "command": "sweep",
        "data": source.spec,
        **machine,
        "clock": request.clock,
        "points": total,
        "complete": len({row["point"] for row in rows}),
        "accuracy": measure,
        "rules": [str(rule) for rule in request.rules],
        "rows": rows,
    }
    write_json(content, request.out / SWEEP)
    return content


def _rows(request: Request, point: Point, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row of every mode of a point."""
    verdicts = judge(request.rules, results)
    modes = results["modes"]
    dense = results["reference"] or modes.get(DENSE)
    rows = []
    for mode, entry in modes.items():
        figures = {name: FIGURES[name](entry, dense) for name in _SHOWN}
        if mode == DENSE and results["clock"] == EVERY_FRAME and len(modes) > 1:
            figures["agreement_miou"] = 1.0  # with itself
        judged = [verdict.entry() for verdict in verdicts if verdict.mode == mode]
        rows.append(
            {
                "point": point.key,
                "settings": dict(point.settings),
                "mode": mode,
                **figures,
                "pareto": [],
                VERDICTS: judged,
                "meets": all(verdict["passed"] for verdict in judged) if judged else None,
            }
        )
    return rows


def pareto(rows: Sequence[Mapping[str, Any]], gain: str, cost: str) -> list[bool]:
    """Return which rows no other row beats: none is better in one figure and as good in the other.

    Args:
        rows: figures by name.
        gain: the figure of which more is better.
        cost: the figure of which less is better.

    Returns:
        One truth per row; false where a figure was not measured.

    """
    fronts = []
    for row in rows:
        if row[gain] is None or row[cost] is None:
            fronts.append(False)
            continue
        fronts.append(
            not any(
                other[gain] is not None
                and other[cost] is not None
                and other[gain] >= row[gain]
                and other[cost] <= row[cost]
                and (other[gain] > row[gain] or other[cost] < row[cost])
                for other in rows
            )
        )
    return fronts


def _show(content: dict[str, Any], request: Request, page: Path) -> None:
    """Print the rows as a table."""
    names = list(content["rows"][0]["settings"])
    header = (*names, "mode", *_SHOWN, *(f"front by {x}" for x in COSTS), "meets")
    cells = [
        (
            *(str(row["settings"][name]) for name in names),
            row["mode"],
            *("-" if row[name] is None else f"{row[name]:.4g}" for name in _SHOWN),
            *("*" if x in row["pareto"] else "" for x in COSTS),
            "" if row["meets"] is None else ("yes" if row["meets"] else "no"),
        )
        for row in content["rows"]
    ]
    title = f"{content['data']}, accuracy by {content['accuracy']}"
    notes = [f"written to {request.out}: {SWEEP}, {POINTS}", f"look at {page.resolve()}"]
    if not any(row["pareto"] for row in content["rows"]):
        notes.append("no accuracy was measured: give labels")
    show(content, [Table(title, header, tuple(cells))], notes)


def _text(settings: Mapping[str, Value]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
