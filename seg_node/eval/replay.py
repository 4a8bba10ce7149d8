"""Leads a recording through the pipeline, in order and without DDS: `seg_node replay`.

Each frame goes through the same `Segmenter.step` as in the node. Which frames, and when, is for
the clock to say (`clocks.py`): by default every frame, so that masks depend on the data and the
settings alone, never on how fast the machine is. docs/replay.md explains all of it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TYPE_CHECKING

from seg_node.core.config import options
from seg_node.core.stamps import StampCheck
from seg_node.core.types import DataError
from seg_node.data.datasets import estimate_rate
from seg_node.eval.books import Books, Pictures
from seg_node.eval.classes import check_classes
from seg_node.eval.clocks import EVERY_FRAME, EveryFrame
from seg_node.eval.compare import change_table, COMPARE
from seg_node.eval.counts import COUNTS, Counts
from seg_node.eval.outputs import prepare_out, RESULTS, spread_indices
from seg_node.eval.progress import noted_interrupt, progress
from seg_node.eval.refusals import nothing_usable
from seg_node.eval.report import conclude, REPORT
from seg_node.eval.require import judge, VERDICTS
from seg_node.eval.results import make_results, write_json
from seg_node.eval.resume import Earlier, RESUME, save
from seg_node.eval.session import common
from seg_node.eval.tables import plain

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping

    from seg_node.data.datasets import Sample, Source
    from seg_node.eval.clocks import Course
    from seg_node.eval.compare import OldRun
    from seg_node.eval.progress import Interrupt
    from seg_node.eval.require import Rule
    from seg_node.eval.session import Session

COMMAND = "replay"


@dataclass(frozen=True)
class Extent:
    """How much of a recording is replayed, and shown.

    Attributes:
        samples: number of sample pictures of each mode, spread evenly; 0 or more.
        limit: most frames to replay; None for all.
        pictures: whether to write result bag, preview and samples.
        counts: whether a whole replay leaves what it has counted, see `Counts`.

    """

    samples: int = 8
    limit: int | None = None
    pictures: bool = True
    counts: bool = False


WHOLE = Extent()


def replay(
    source: Source,
    sessions: Mapping[str, Session],
    out: Path,
    *,
    samples: int = 8,
    limit: int | None = None,
) -> dict[str, Any]:
    """Lead every frame through every mode; see `follow` and `Extent`."""
    return follow(source, EveryFrame(sessions), out, Extent(samples, limit))


def follow(  # noqa: PLR0913 - the options of a replay
    source: Source,
    course: Course,
    out: Path,
    extent: Extent = WHOLE,
    *,
    resume: bool = False,
    old: OldRun | None = None,
    rules: tuple[Rule, ...] = (),
    told: Interrupt | None = None,
) -> dict[str, Any]:
    """Follow the frames along a course and write all files of a replay.

    Ctrl-C ends it after the frame in work; what was written by then is complete and readable.

    Args:
        source: the frames; those with labels are scored.
        course: leads the frames through the modes.
        out: folder to write into, see `outputs.prepare_out`; with several modes the pictures of
            each are in a folder of its own, see `outputs.mode_folders`.
        extent: how much of the recording.
        resume: whether to go on with what an interrupted run has left in `out`.
        old: an earlier run to compare with; None for none.
        rules: what the run must keep; judged where it was not ended.
        told: what ends it in place of Ctrl-C where nobody sits before it; then no progress is
            shown either. None where somebody does.

    Returns:
        The content of `results.json`; `verdicts` has what every rule says, see `Verdict.entry`.

    Raises:
        DataError: no image of the source can be used, its labels do not fit the model, the
            folder is not ours to write, there is nothing to resume, or the runs cannot be
            compared.

    """
    shared = common(course.sessions)
    check_classes(source, shared.manifest.classes)
    request = _request(source, course, extent)
    earlier = Earlier.load(out, request) if resume else None
    if earlier is None:
        prepare_out(out, COMMAND, source_path(source))
    rate_hz = estimate_rate(source)
    total = min(len(source), extent.limit) if extent.limit is not None else len(source)
    pictures = Pictures(rate_hz, spread_indices(total, extent.samples))
    stamps = StampCheck()
    books = Books(
        source.spec, course.sessions, out, pictures if extent.pictures else None, earlier
    )
    done = 0
    noted = noted_interrupt() if told is None else nullcontext(told)
    shown = progress(COMMAND, total, quiet=told is not None)
    with noted as interrupt, books, shown as show:
        for sample in _turns(source, course, books, extent.limit, earlier):
            if sample.receive_ns is not None:  # else the stamps are made up, not recorded
                stamps.update(sample.frame.stamp_ns)
            done += 1
            show(done)
            if interrupt:
                break
    ended = bool(interrupt) or course.interrupted
    _check_done(source, out, done, ended=ended)
    books.write_costs(shared.device, course.clock)
    _keep_or_forget(out, request, books, done, earlier, ended=ended)
    if extent.counts and not ended:
        Counts(books.records, books.reference).write(out / COUNTS)
    content = {
        "command": COMMAND,
        "clock": course.clock,
        "interrupted": ended,
        **make_results(source.spec, shared.manifest, shared.device, shared.config, books.records),
        "reference": books.reference.untimed_summary() if books.reference else None,
        "source": describe_source(source, stamps.counts, rate_hz),
        "pictures": extent.pictures,
        "samples": [str(path.relative_to(out)) for path in books.samples],
    }
    verdicts = [] if ended else judge(rules, content)
    content[VERDICTS] = [verdict.entry() for verdict in verdicts]
    conclude(content, books.worst, shared.manifest.classes, out, old)
    return content


def _turns(
    source: Source, course: Course, books: Books, limit: int | None, earlier: Earlier | None
) -> Iterator[Sample]:
    """Take down what becomes of the frames, and yield each when its turn is over."""
    known = earlier.frames if earlier else 0
    for index, turn in enumerate(course.turns(islice(source, limit), known)):
        if turn.sample is not None and index < known:
            books.repeat(turn.sample)
        else:
            for mode, outcome in turn.outcomes:
                books.enter(mode, outcome)
        if turn.sample is not None:
            if turn.reference is not None:
                books.enter_reference(turn.sample, turn.reference)
            yield turn.sample


def _request(source: Source, course: Course, extent: Extent) -> dict[str, Any]:
    """Return what a run that goes on must have in common with its beginning."""
    shared = common(course.sessions)
    settings = {option.name: option.value for option in options(shared.config)}
    return {
        "data": source.spec,
        "clock": course.clock,
        "model": shared.manifest.sha256,
        "device": shared.device,
        "samples": extent.samples,
        "limit": extent.limit,
        **settings,
        "mode": ",".join(course.sessions),
    }


def _check_done(source: Source, out: Path, done: int, *, ended: bool) -> None:
    """Refuse a source of which nothing came, also in `results.json`.

    Raises:
        DataError: no image can be used.

    """
    if done or ended:
        return
    problem = nothing_usable(source)
    write_json({"command": COMMAND, "interrupted": False, "error": problem}, out / RESULTS)
    raise DataError(problem)


def _keep_or_forget(  # noqa: PLR0913 - all that the run has come to
    out: Path,
    request: Mapping[str, Any],
    books: Books,
    done: int,
    earlier: Earlier | None,
    *,
    ended: bool,
) -> None:
    """Leave what `--resume` needs after Ctrl-C, and nothing of it after a whole run."""
    if ended and earlier is not None and done <= earlier.frames:
        earlier.put_back()
        return
    if earlier is not None:
        earlier.forget()
    if ended and done and request["clock"] == EVERY_FRAME:
        save(out, request, done, books.records, books.worst)


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


def summary(results: dict[str, Any], out: Path) -> str:
    """Return what a person wants to know of a replay, in a few lines."""
    lines = [f"{results['data']}  {results['model']['name']}  {results['device']}"]
    lines += [mode_line(mode, entry) for mode, entry in results["modes"].items()]
    lines += source_notes(results["source"])
    if results["interrupted"]:
        lines.append(
            "interrupted by Ctrl-C: the files hold what was done until then"
            + ("; --resume goes on" if (out / RESUME).exists() else "")
        )
    if COMPARE in results:
        lines += [f"mind: {note}" for note in results[COMPARE]["notes"]]
        lines.append(plain(change_table(results[COMPARE])))
    lines.append(f"written to {out}: {', '.join(sorted(p.name for p in out.iterdir()))}")
    if (out / REPORT).exists():
        lines.append(f"look at {(out / REPORT).resolve()}")
    return "\n".join(lines)


def mode_line(mode: str, entry: dict[str, Any]) -> str:
    """Return one mode's frames, times, score and, where dense ran as well, the comparison."""
    parts = [f"{entry['frames']} frames"]
    if entry["dropped"]:
        parts.append(f"{entry['dropped']} dropped")
    if entry["ms"]:
        parts.append(f"p50 {entry['ms']['p50']:.1f} ms, p95 {entry['ms']['p95']:.1f} ms")
    if entry["lateness_ms"]:
        parts.append(f"results p95 {entry['lateness_ms']['p95']:.1f} ms after their frames")
    if entry["speedup_vs_dense"] and entry["agreement"]:
        parts.append(f"{entry['speedup_vs_dense']:.2f} x as fast as dense")
    if entry["agreement"]:
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
