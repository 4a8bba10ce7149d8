"""What a demo leaves: pictures, result bag, `results.json` and the page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
import logging
from typing import Any, TYPE_CHECKING

from seg_node.core.types import Action
from seg_node.data.compressed_images import encode_jpeg, encode_png
from seg_node.demo.judge import mask_fault, problems
from seg_node.demo.page import render_page
from seg_node.demo.views import made_plan, make_sheet, make_views
from seg_node.eval.files import write_whole
from seg_node.eval.outputs import Outputs, RESULTS, spread_indices
from seg_node.eval.progress import progress
from seg_node.eval.replay import describe_source, source_notes
from seg_node.eval.result_bag import Made, Stats
from seg_node.eval.results import make_results, ModeRecord, spread, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from seg_node.core.config import Config
    from seg_node.data.datasets import Sample, Source
    from seg_node.demo.clip import Clip, Sent
    from seg_node.demo.views import Views
    from seg_node.nets.manifest import Manifest
    from seg_node.ros.recorded import RecordedMask, RecordedStatus

SHEET = "contact_sheet.png"
PAGE = "index.html"
SHEET_FRAMES = 6

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Played:
    """What was played and what came back.

    Attributes:
        config: settings of the node.
        manifest: model of the node.
        clip: what was played of the source.
        source_hz: frames per second of the source.
        sent: the published frames.
        masks: what came back, by stamp on the wire.
        stats: the node's statistics, by stamp on the wire.
        plans: grids of actions, uint8 [gh, gw], by stamp on the wire.
        ages: ages of the blocks in ms, uint16 [gh, gw], by stamp on the wire.
        diagnostics: newest status of the node's health, by name.
        worst: highest level seen of each of them.
        node_status: exit status of the node.
        node_command: how the node was started.
        middleware: ROS middleware.
        interrupted: whether Ctrl-C ended the clip.

    """

    config: Config
    manifest: Manifest
    clip: Clip
    source_hz: float
    sent: tuple[Sent, ...]
    masks: Mapping[int, RecordedMask]
    stats: Mapping[int, RecordedStatus]
    plans: Mapping[int, NDArray[np.uint8]]
    ages: Mapping[int, NDArray[np.uint16]]
    diagnostics: Mapping[str, RecordedStatus]
    worst: Mapping[str, int]
    node_status: int
    node_command: tuple[str, ...]
    middleware: str
    interrupted: bool


@dataclass
class _Scores:
    """What the second pass over the source finds out."""

    record: ModeRecord
    faults: list[str]
    views: list[Views]


def write_report(out: Path, source: Source, played: Played) -> dict[str, Any]:
    """Write all files of a demo and return the content of `results.json`.

    The source is read a second time, which yields the same frames: a clip need not fit in memory.

    Raises:
        DataError: a file cannot be written.

    """
    scores = _write_frames(out, source, played)
    results = _results(source, played, scores)
    if scores.views:
        sheet = make_sheet(scores.views, played.manifest.classes)
        write_whole(out / SHEET, encode_png(sheet))
        frames = [
            {caption: encode_jpeg(picture, 85) for caption, picture in views.items()}
            for views in scores.views
        ]
        page = render_page(results, played.manifest.classes, frames)
        write_whole(out / PAGE, page)
    write_json(results, out / RESULTS)
    return results


def _write_frames(out: Path, source: Source, played: Played) -> _Scores:
    """Write bag, preview and samples; judge every mask and score those with labels."""
    classes = played.manifest.classes
    scores = _Scores(ModeRecord(len(classes)), [], [])
    returned = [sent.index for sent in played.sent if sent.stamp_ns in played.masks]
    chosen = {returned[i] for i in spread_indices(len(returned), SHEET_FRAMES) if returned}
    outputs = Outputs(out, classes, played.config, played.clip.rate_hz, frozenset())
    with outputs, progress("writing", len(played.sent)) as show:
        for sent, sample in zip(played.sent, played.clip.samples(source), strict=False):
            mask = played.masks.get(sent.stamp_ns)
            if mask is None:
                scores.record.dropped += 1
                continue
            fault = mask_fault(sample.frame.image, mask, len(classes))
            if fault:
                scores.faults.append(f"frame {sample.name}: {fault}")
            labels = mask.labels()
            if labels.shape != sample.frame.image.shape[:2]:
                continue
            status = played.stats.get(sent.stamp_ns)
            stats = Stats(status.name, status.text, status.values) if status else None
            plan = made_plan(played.plans.get(sent.stamp_ns), status)
            outputs.write(sample, Made(labels, stats, plan))
            _score(scores.record, sample, labels, status, fault)
            if sent.index in chosen:
                age_ms = played.ages.get(sent.stamp_ns)
                views = make_views(
                    sample.frame.image, labels, plan, age_ms, classes, played.config
                )
                scores.views.append(views)
            show(outputs.frames)
    return scores


def _score(
    record: ModeRecord,
    sample: Sample,
    labels: NDArray[np.uint8],
    status: RecordedStatus | None,
    fault: str | None,
) -> None:
    """Count one frame from what the node said of it."""
    if status:
        values = status.values
        macs = float(values["gmac"]) * 1e9
        record.step_ns.append(round(float(values["step_ms"]) * 1e6))
        record.macs += round(macs)
        saving = float(values["gmac_saving"])
        record.dense_macs += round(macs / (1.0 - saving)) if saving < 1.0 else 0
        record.age_ms.append(float(values["age_max_ms"]))
        for action in Action:
            record.actions[action] += float(values[f"fraction_{action.name.lower()}"])
    if sample.labels is not None and not fault:
        record.labelled += 1
        record.confusion.update(sample.labels, labels)


def _results(source: Source, played: Played, scores: _Scores) -> dict[str, Any]:
    modes = {played.config.mode: scores.record}
    device = _value(played.diagnostics, "model", "compute")
    content = make_results(source.spec, played.manifest, device, played.config, modes)
    content["versions"] |= {"middleware": played.middleware}
    return {
        "command": "demo",
        "interrupted": played.interrupted,
        **content,
        "source": describe_source(source, Counter(), played.source_hz),
        "demo": _measured(played, scores),
    }


def _measured(played: Played, scores: _Scores) -> dict[str, Any]:
    """Return rates, latencies and losses of the clip, and what is wrong with them."""
    masks = [played.masks[s.stamp_ns] for s in played.sent if s.stamp_ns in played.masks]
    latency_ms = [
        (played.masks[s.stamp_ns].received_ns - s.stamp_ns) / 1e6
        for s in played.sent
        if s.stamp_ns in played.masks
    ]
    wrong = problems(len(played.sent), len(masks), scores.faults, played.node_status)
    return {
        "played": len(played.sent),
        "returned": len(masks),
        "played_hz": _rate([s.stamp_ns for s in played.sent]),
        "returned_hz": _rate([m.received_ns for m in masks]),
        "latency_ms": spread(latency_ms, mean=True),
        "converter": _value(played.diagnostics, "input", "converter"),
        "health": {
            name.rpartition(": ")[2]: {"worst": played.worst[name], "last": status.text}
            for name, status in played.diagnostics.items()
        },
        "empty_masks": scores.faults,
        "notes": list(played.clip.notes),
        "node_status": played.node_status,
        "node_command": list(played.node_command[1:]),
        "problems": wrong,
    }


def _value(diagnostics: Mapping[str, RecordedStatus], part: str, key: str) -> str:
    """Return one value of the node's health, empty if it was never said."""
    for name, status in diagnostics.items():
        if name.endswith(f": {part}"):
            return status.values.get(key, "")
    return ""


def _rate(times_ns: Sequence[int]) -> float | None:
    """Return events per second from their times; None if fewer than two."""
    steps = [after - before for before, after in pairwise(sorted(times_ns))]
    return len(steps) / (sum(steps) * 1e-9) if sum(steps) > 0 else None


def summary(results: dict[str, Any], out: Path) -> str:
    """Return what a person wants to know of a demo, in a few lines."""
    demo = results["demo"]
    ((_, entry),) = results["modes"].items()
    masks = f"got {demo['returned']} masks back at {_hz(demo['returned_hz'])}"
    lines = [
        f"{results['data']}  {results['model']['name']}  {results['device']}",
        f"played {demo['played']} frames at {_hz(demo['played_hz'])}, {masks}",
    ]
    if demo["latency_ms"]:
        ms = demo["latency_ms"]
        text = f"latency, stamp to mask: p50 {ms['p50']:.0f} ms, p95 {ms['p95']:.0f} ms"
        step = f"; step p50 {entry['ms']['p50']:.0f} ms" if entry["ms"] else ""
        lines.append(text + step)
    if entry["miou"] is not None:
        lines.append(f"mIoU {entry['miou']:.4f} on {entry['labelled_frames']} labelled frames")
    lines += source_notes(results["source"])
    lines.append(f"written to {out}: {', '.join(sorted(p.name for p in out.iterdir()))}")
    if (out / PAGE).exists():
        lines.append(f"look at {(out / PAGE).resolve()}")
    if results["interrupted"]:
        lines.append("interrupted by Ctrl-C: the files hold what was played until then")
    lines += [f"FAILED: {problem}" for problem in demo["problems"]]
    return "\n".join(lines)


def _hz(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.2f} Hz"
