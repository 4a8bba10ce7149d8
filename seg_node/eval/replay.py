"""Runs every frame of a source through the pipeline, in order and without DDS: `seg_node replay`.

Each frame goes through the same `Segmenter.step` as in the node, so masks depend on the data and
the settings alone, never on how fast the machine is.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import islice
import logging
from pathlib import Path
from typing import Any, TYPE_CHECKING

from seg_node.core.stamps import StampCheck
from seg_node.core.stats import frame_values
from seg_node.core.types import ConfigError, DataError
from seg_node.data.datasets import estimate_rate, guess_spec, open_source
from seg_node.eval.outputs import (
    mode_folders,
    Outputs,
    prepare_out,
    RESULTS,
    spread_indices,
    Stats,
)
from seg_node.eval.progress import EXIT_INTERRUPTED, noted_interrupt, progress
from seg_node.eval.results import count_frame, make_results, ModeRecord, NS_PER_MS, write_json
from seg_node.eval.session import common, open_sessions, steps

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence

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
    modes: Sequence[str] = (),
    topic: str | None = None,
    samples: int = 8,
    limit: int | None = None,
) -> int:
    """Do `seg_node replay DATA`: replay, write, and tell.

    Args:
        data: named data, or a path whose kind is guessed.
        config: settings.
        out: folder to write into.
        modes: modes to compare; none for the config's own alone.
        topic: image topic of a bag; None where it has only one.
        samples: number of sample pictures.
        limit: most frames to replay; None for all.

    Returns:
        Exit status: 0, or 130 after Ctrl-C.

    Raises:
        DataError: the data cannot be used, or the folder is not ours to write.
        ModelError: the model cannot be loaded.
        ConfigError: there is no such mode, the device or precision is not to be had here, or
            samples is negative.

    """
    if samples < 0:
        msg = f"samples is {samples}; use 0 or more"
        raise ConfigError(msg)
    source = open_source(guess_spec(data), topic=topic)
    sessions = open_sessions(config, modes)
    results = replay(source, sessions, out, samples=samples, limit=limit)
    logger.info("%s", summary(results, out))
    return EXIT_INTERRUPTED if results["interrupted"] else 0


def replay(
    source: Source,
    sessions: Mapping[str, Session],
    out: Path,
    *,
    samples: int = 8,
    limit: int | None = None,
) -> dict[str, Any]:
    """Segment every frame in order and write result bag, samples, preview and `results.json`.

    Ctrl-C ends it after the frame in work; what was written by then is complete and readable.

    Args:
        source: the frames; those with labels are scored.
        sessions: model and settings by mode; one model for all.
        out: folder to write into, see `outputs.prepare_out`; with several modes the files of
            each are in a folder of its own, see `outputs.mode_folders`.
        samples: number of sample pictures of each mode, spread evenly.
        limit: most frames to replay; None for all.

    Returns:
        The content of `results.json`.

    Raises:
        DataError: no image of the source can be used, or the folder is not ours to write.

    """
    prepare_out(out, COMMAND, source_path(source))
    shared = common(sessions)
    rate_hz = estimate_rate(source)
    total = min(len(source), limit) if limit is not None else len(source)
    records = {mode: ModeRecord(len(shared.manifest.classes)) for mode in sessions}
    stamps = StampCheck()
    done = 0
    with ExitStack() as files, noted_interrupt() as interrupt, progress(COMMAND, total) as show:
        outputs = _open_outputs(out, sessions, rate_hz, spread_indices(total, samples), files)
        for sample, results in steps(islice(source, limit), sessions):
            if sample.receive_ns is not None:  # else the stamps are made up, not recorded
                stamps.update(sample.frame.stamp_ns)
            count_frame(records, source.spec, sample, results)
            for mode, result in results.items():
                outputs[mode].write(sample, result.labels, frame_stats(result), result.plan)
            done += 1
            show(done)
            if interrupt:
                break
    if not done and not interrupt:
        problem = _nothing_usable(source)
        write_json({"command": COMMAND, "interrupted": False, "error": problem}, out / RESULTS)
        raise DataError(problem)
    content = {
        "command": COMMAND,
        "interrupted": bool(interrupt),
        **make_results(source.spec, shared.manifest, shared.device, shared.config, records),
        "source": describe_source(source, stamps.counts, rate_hz),
        "samples": [str(path.relative_to(out)) for o in outputs.values() for path in o.samples],
    }
    write_json(content, out / RESULTS)
    return content


def _open_outputs(
    out: Path,
    sessions: Mapping[str, Session],
    rate_hz: float,
    chosen: frozenset[int],
    files: ExitStack,
) -> dict[str, Outputs]:
    """Open the files of every mode; `files` closes them."""
    opened = {}
    for mode, folder in mode_folders(out, sessions).items():
        classes = sessions[mode].manifest.classes
        outputs = Outputs(folder, classes, sessions[mode].config, rate_hz, chosen)
        opened[mode] = files.enter_context(outputs)
    return opened


def frame_stats(result: StepResult) -> Stats:
    """Return what one frame cost, with the keys of the node's ~/stats."""
    total_ms = result.report.total_ns / NS_PER_MS
    reason = result.plan.reason.value
    values = frame_values(result)
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
    lines = [f"{results['data']}  {results['model']['name']}  {results['device']}"]
    lines += [_summary_of(mode, entry) for mode, entry in results["modes"].items()]
    lines += source_notes(results["source"])
    if results["interrupted"]:
        lines.append("interrupted by Ctrl-C: the files hold what was done until then")
    lines.append(f"written to {out}: {', '.join(sorted(p.name for p in out.iterdir()))}")
    return "\n".join(lines)


def _summary_of(mode: str, entry: dict[str, Any]) -> str:
    """Return one mode's frames, times, score and, where dense ran as well, the comparison."""
    parts = [f"{entry['frames']} frames"]
    if entry["ms"]:
        parts.append(f"p50 {entry['ms']['p50']:.1f} ms, p95 {entry['ms']['p95']:.1f} ms")
    if entry["agreement"]:
        parts.append(f"{entry['speedup_vs_dense']:.2f} x as fast as dense")
        parts.append(f"{entry['agreement']['pixel']:.2%} of the pixels as dense")
    if entry["gmac_saving"]:
        parts.append(f"{entry['gmac_saving']:.1%} of the MACs saved")
    if entry["miou"] is not None:
        parts.append(f"mIoU {entry['miou']:.4f} on {entry['labelled_frames']} labelled frames")
    return f"{mode}: {', '.join(parts)}"


def source_notes(source: dict[str, Any]) -> list[str]:
    """Return one line for everything that is wrong with the data (see `describe_source`)."""
    lines = [f"skipped {n} x: {text}" for text, n in source["skipped_reasons"].items()]
    lines += [f"header stamps: {n} x {text}" for text, n in source["stamp_problems"].items()]
    if source["shortfall"]:
        lines.append(source["shortfall"])
    return lines
