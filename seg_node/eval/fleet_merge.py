"""One set of results of all recordings of a fleet, from what lies in their folders.

Figures are pooled over frames: one confusion matrix, one list of times, as if all recordings were
one. Each is counted once, whatever became of the workers, because only what lies at a recording's
own place counts. They are added in the order in which they were named, never as they came.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
import json
from typing import Any, TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.eval.bag_intervals import bag_intervals
from seg_node.eval.counts import COUNTS, Counts
from seg_node.eval.fleet_folder import COMMAND
from seg_node.eval.outputs import RESULTS
from seg_node.eval.require import FIGURES, judge, VERDICTS
from seg_node.eval.results import DENSE, make_results, ModeRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from seg_node.eval.fleet_task import BagEnd, BagTask
    from seg_node.eval.require import Rule
    from seg_node.nets.manifest import Manifest


@dataclass(frozen=True)
class BagResult:
    """What became of one recording.

    Attributes:
        task: what was asked.
        end: how it ended.
        attempts: how often it was begun in this run of the fleet.
        results: its `results.json`; None unless it is done.
        counts: its counters; None unless it is done.

    """

    task: BagTask
    end: BagEnd
    attempts: int
    results: dict[str, Any] | None = None
    counts: Counts | None = None


def read_bag(task: BagTask, end: BagEnd, attempts: int, classes: int) -> BagResult:
    """Read what a recording has left where it is done.

    Raises:
        DataError: it cannot be read.

    """
    if end.state != "done":
        return BagResult(task, end, attempts)
    path = task.folder / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read ({error}): remove its folder, and --resume runs it again"
        raise DataError(msg) from error
    return BagResult(task, end, attempts, results, Counts.read(task.folder / COUNTS, classes))


def merge(bags: Sequence[BagResult], manifest: Manifest, rules: Sequence[Rule]) -> dict[str, Any]:
    """Return the content of the fleet's `results.json`.

    Args:
        bags: all recordings, in the order in which they were named; at least one is done.
        manifest: model that was used.
        rules: what the pooled figures must keep.

    """
    request, out = bags[0].task.request, bags[0].task.out
    done = [(bag, bag.results, bag.counts) for bag in bags if bag.results and bag.counts]
    modes, reference = _pooled([counts for _, _, counts in done], len(manifest.classes))
    devices = list(dict.fromkeys(results["device"] for _, results, _ in done))
    of = f"{len(done)} of " if len(done) < len(bags) else ""
    data, device = of + _count(len(bags), "recording"), "; ".join(devices)
    interrupted = any(bag.end.state == "interrupted" for bag in bags)
    content: dict[str, Any] = {
        "command": COMMAND,
        "clock": request.clock,
        "interrupted": interrupted,
        **make_results(data, manifest, device, request.config, modes),
        **{name: done[0][1][name] for name in ("machine", "versions")},  # of the workers
        "reference": reference.untimed_summary() if reference else None,
        "source": _source([results["source"] for _, results, _ in done]),
        "notes": _notes(bags, devices),
        "over_recordings": [
            asdict(x) for x in bag_intervals([counts.modes for _, _, counts in done])
        ],
        "recordings": [_entry(bag, out) for bag in bags],
    }
    verdicts = [] if interrupted else judge(tuple(rules), content)
    return {**content, VERDICTS: [verdict.entry() for verdict in verdicts]}


def _pooled(
    done: Sequence[Counts], classes: int
) -> tuple[dict[str, ModeRecord], ModeRecord | None]:
    """Return the record of every mode over all recordings, and that of the reference."""
    modes = {mode: ModeRecord(classes) for mode in done[0].modes}
    for mode, record in modes.items():
        for counts in done:
            record.absorb(counts.modes[mode])
    beside = [counts.reference for counts in done if counts.reference is not None]
    if not beside:
        return modes, None
    reference = ModeRecord(classes)
    for record in beside:
        reference.absorb(record)
    return modes, reference


def _source(sources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what is to be known of the data of all recordings together."""
    skipped: Counter[str] = Counter()
    stamps: Counter[str] = Counter()
    for source in sources:
        skipped.update(source["skipped_reasons"])
        stamps.update(source["stamp_problems"])
    short = sum(source["shortfall"] is not None for source in sources)
    told = f"{_count(short, 'recording')} fell short of what was promised: see the pages"
    return {
        "topic": None,
        "promised": sum(source["promised"] for source in sources),
        "rate_hz": None,
        "skipped": skipped.total(),
        "skipped_reasons": dict(skipped),
        "stamp_problems": dict(stamps),
        "shortfall": told if short else None,
        "sha256": None,
    }


def _notes(bags: Sequence[BagResult], devices: Sequence[str]) -> list[str]:
    """Return one line for everything that makes the pooled figures other than they seem."""
    notes = []
    done = [(bag.task.name, bag.results) for bag in bags if bag.results]
    same: dict[str, list[str]] = {}
    for name, results in done:
        if results["source"]["sha256"] is not None:
            same.setdefault(results["source"]["sha256"], []).append(name)
    notes += [
        f"{' and '.join(names)} hold the same bytes and count as often"
        for names in same.values()
        if len(names) > 1
    ]
    if len(devices) > 1:
        notes.append(f"times are of different devices: {'; '.join(devices)}")
    for name, what in (
        ("machine", "times are of {} machines"),
        ("versions", "figures are of {} sets of versions"),
    ):
        different = {json.dumps(results[name], sort_keys=True) for _, results in done}
        if len(different) > 1:
            notes.append(what.format(f"{len(different)} different"))
    labelled = sum(
        any(entry["labelled_frames"] for entry in results["modes"].values()) for _, results in done
    )
    if 0 < labelled < len(done):
        notes.append(f"labels are in {labelled} of {len(done)} recordings: mIoU is of those")
    return notes


def _entry(bag: BagResult, out: Path) -> dict[str, Any]:
    """Return the row of a recording."""
    entry: dict[str, Any] = {
        "name": bag.task.name,
        "data": bag.task.request.data,
        "state": bag.end.state,
        "error": bag.end.error,
        "attempts": bag.attempts,
        "folder": None if bag.results is None else str(bag.task.folder.relative_to(out)),
        "sha256": None,
        "modes": {},
    }
    if bag.results is None:
        return entry
    modes = bag.results["modes"]
    dense = bag.results["reference"] or modes.get(DENSE)
    return {
        **entry,
        "sha256": bag.results["source"]["sha256"],
        "modes": {m: {n: of(e, dense) for n, of in FIGURES.items()} for m, e in modes.items()},
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
