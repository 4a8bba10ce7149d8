"""Runs every frame of a source through the pipeline, in order and without DDS: `seg_node replay`.

Each frame goes through the same `Segmenter.step` as in the node, so masks depend on the data and
the settings alone, never on how fast the machine is.
"""

from __future__ import annotations

from itertools import islice
import logging
from pathlib import Path
from typing import Any, TYPE_CHECKING

from seg_node.core.stamps import StampCheck
from seg_node.core.types import Action, ConfigError, DataError
from seg_node.data.datasets import estimate_rate, guess_spec, open_source
from seg_node.eval.outputs import Outputs, prepare_out, RESULTS, spread_indices, Stats
from seg_node.eval.progress import EXIT_INTERRUPTED, noted_interrupt, progress
from seg_node.eval.results import make_results, ModeRecord, NS_PER_MS, write_json
from seg_node.eval.session import open_session, steps

if TYPE_CHECKING:
    from collections import Counter

    from seg_node.core.config import Config
    from seg_node.core.types import StepResult
    from seg_node.data.datasets import Source
    from seg_node.eval.session import Session

COMMAND = "replay"

logger = logging.getLogger(__name__)


def run_replay(  # noqa: PLR0913 - the options of the command
    data: str,
    config: Config,
    out: Path,
    *,
    topic: str | None = None,
    samples: int = 8,
    limit: int | None = None,
) -> int:
    """Do `seg_node replay DATA`: replay, write, and tell.

    Args:
        data: named data, or a path whose kind is guessed.
        config: settings.
        out: folder to write into.
        topic: image topic of a bag; None where it has only one.
        samples: number of sample pictures.
        limit: most frames to replay; None for all.

    Returns:
        Exit status: 0, or 130 after Ctrl-C.

    Raises:
        DataError: the data cannot be used, or the folder is not ours to write.
        ModelError: the model cannot be loaded.
        ConfigError: the device or precision is not to be had here, or samples is negative.

    """
    if samples < 0:
        msg = f"samples is {samples}; use 0 or more"
        raise ConfigError(msg)
    source = open_source(guess_spec(data), topic=topic)
    results = replay(source, open_session(config), out, samples=samples, limit=limit)
    logger.info("%s", summary(results, out))
    return EXIT_INTERRUPTED if results["interrupted"] else 0


def replay(
    source: Source, session: Session, out: Path, *, samples: int = 8, limit: int | None = None
) -> dict[str, Any]:
    """Segment every frame in order and write result bag, samples, preview and `results.json`.

    Ctrl-C ends it after the frame in work; what was written by then is complete and readable.

    Args:
        source: the frames; those with labels are scored.
        session: model and settings.
        out: folder to write into, see `outputs.prepare_out`.
        samples: number of sample pictures, spread evenly.
        limit: most frames to replay; None for all.

    Returns:
        The content of `results.json`.

    Raises:
        DataError: no image of the source can be used, or the folder is not ours to write.

    """
    prepare_out(out, COMMAND, source_path(source))
    rate_hz = estimate_rate(source)
    total = min(len(source), limit) if limit is not None else len(source)
    record = ModeRecord(len(session.manifest.classes))
    stamps = StampCheck()
    opacity = session.config.publish.overlay_opacity
    chosen = spread_indices(total, samples)
    outputs = Outputs(out, session.manifest.classes, opacity, rate_hz, chosen)
    frames = islice(source, limit)
    with noted_interrupt() as interrupt, outputs, progress("replay", total) as show:
        for sample, result in steps(frames, session):
            if sample.receive_ns is not None:  # else the stamps are made up, not recorded
                stamps.update(sample.frame.stamp_ns)
            record.add(result, sample.labels)
            outputs.write(sample, result.labels, frame_stats(result))
            show(outputs.frames)
            if interrupt:
                break
    if not outputs.frames and not interrupt:
        problem = _nothing_usable(source)
        write_json({"command": COMMAND, "interrupted": False, "error": problem}, out / RESULTS)
        raise DataError(problem)
    modes = {session.config.mode: record}
    results = {
        "command": COMMAND,
        "interrupted": bool(interrupt),
        **make_results(source.spec, session.manifest, session.device, session.config, modes),
        "source": describe_source(source, stamps.counts, rate_hz),
        "samples": [str(path.relative_to(out)) for path in outputs.samples],
    }
    write_json(results, out / RESULTS)
    return results


def frame_stats(result: StepResult) -> Stats:
    """Return what one frame cost, with the keys of the node's ~/stats."""
    report = result.report
    total_ms = report.total_ns / NS_PER_MS
    reason = result.plan.reason.value
    values: dict[str, object] = {
        "reason": reason,
        **{f"fraction_{a.name.lower()}": result.plan.fraction(a) for a in Action},
        "gmac": report.macs / 1e9,
        "gmac_saving": 1.0 - report.macs / report.dense_macs,
        "age_max_ms": int(result.age_ms.max()),
        "step_ms": total_ms,
        **{f"{stage}_ms": ns / NS_PER_MS for stage, ns in report.stage_ns.items()},
    }
    texts = {k: f"{v:.3f}" if isinstance(v, float) else str(v) for k, v in values.items()}
    return Stats("/segmentation: frame", f"{reason}: {total_ms:.1f} ms", texts)


def source_path(source: Source) -> Path | None:
    """Return where the data of a source lie, None if they are made up."""
    kind, _, rest = source.spec.partition(":")
    return None if kind == "street" else Path(rest)


def describe_source(source: Source, stamps: Counter[str], rate_hz: float) -> dict[str, Any]:
    """Return what is to be known of the data after a pass: losses, stamps, fingerprint.

    Args:
        source: the data.
        stamps: problems of the header stamps, see `StampCheck.counts`.
        rate_hz: frame rate by the stamps.

    """
    return {
        "topic": getattr(getattr(source, "topic", None), "name", None),
        "promised": len(source),
        "rate_hz": rate_hz,
        "skipped": source.skipped.total(),
        "skipped_reasons": dict(source.skipped),
        "stamp_problems": dict(stamps),
        "shortfall": source.shortfall(),
        "sha256": source.fingerprint(),
    }


def _nothing_usable(source: Source) -> str:
    reasons = "; ".join(f"{count} x {text}" for text, count in source.skipped.items())
    return f"no image of {source.spec} can be used: {reasons or source.shortfall() or 'none came'}"


def summary(results: dict[str, Any], out: Path) -> str:
    """Return what a person wants to know of a replay, in a few lines."""
    ((mode, entry),) = results["modes"].items()
    lines = [f"{results['data']}  {results['model']['name']}  {results['device']}"]
    text = f"{mode}: {entry['frames']} frames"
    if entry["ms"]:
        text += f", p50 {entry['ms']['p50']:.1f} ms, p95 {entry['ms']['p95']:.1f} ms"
    if entry["miou"] is not None:
        text += f", mIoU {entry['miou']:.4f} on {entry['labelled_frames']} labelled frames"
    lines += [text, *source_notes(results["source"])]
    if results["interrupted"]:
        lines.append("interrupted by Ctrl-C: the files hold what was done until then")
    lines.append(f"written to {out}: {', '.join(sorted(p.name for p in out.iterdir()))}")
    return "\n".join(lines)


def source_notes(source: dict[str, Any]) -> list[str]:
    """Return one line for everything that is wrong with the data (see `describe_source`)."""
    lines = [f"skipped {n} x: {text}" for text, n in source["skipped_reasons"].items()]
    lines += [f"header stamps: {n} x {text}" for text, n in source["stamp_problems"].items()]
    if source["shortfall"]:
        lines.append(source["shortfall"])
    return lines
