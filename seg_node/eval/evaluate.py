"""Scores a model on labelled frames: `seg_node evaluate DATA`.

What each score means: docs/metrics.md. Only `Segmenter.step` is timed; scoring happens between
two steps.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, TYPE_CHECKING

from seg_node.core.types import ConfigError, DataError, Motion
from seg_node.data.compressed_images import encode_png
from seg_node.data.datasets import estimate_rate, open_source, StreetClip
from seg_node.data.resizing import check_size, in_size
from seg_node.eval.boundary import BoundaryScore
from seg_node.eval.classes import check_classes
from seg_node.eval.compare import change_table, COMPARE, read_old_run
from seg_node.eval.files import write_whole
from seg_node.eval.frames import FRAMES, FrameWriter, row_of
from seg_node.eval.outputs import mode_folders, prepare_out, WORST
from seg_node.eval.progress import EXIT_INTERRUPTED, noted_interrupt, progress
from seg_node.eval.replay import describe_source, source_notes, source_path
from seg_node.eval.report import conclude
from seg_node.eval.results import count_frame, make_results, ModeRecord, write_json
from seg_node.eval.session import common, open_sessions, steps
from seg_node.eval.tables import score_tables, show
from seg_node.eval.temporal import MotionEstimator, TemporalConsistency
from seg_node.eval.worst import worst_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from seg_node.core.config import Config
    from seg_node.core.types import StepResult
    from seg_node.data.datasets import Sample, Source
    from seg_node.eval.compare import OldRun
    from seg_node.eval.session import Session
    from seg_node.eval.worst import WorstFrames

COMMAND = "evaluate"


@dataclass(frozen=True)
class Selection:
    """Which frames of the data to look at.

    Attributes:
        stride: take every so many-th frame, 1 or more.
        limit: stop after so many labelled frames, 1 or more; None for all.
        size: (width, height) in pixels to bring images and labels to; None for their own.

    """

    stride: int = 1
    limit: int | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse a selection of nothing.

        Raises:
            ConfigError: a number is below 1, or a side out of range.

        """
        for name, value in (("stride", self.stride), ("limit", self.limit)):
            if value is not None and value < 1:
                msg = f"{name} is {value}; use 1 or more"
                raise ConfigError(msg)
        if self.size:
            check_size(self.size)


EVERYTHING = Selection()


def run_evaluate(  # noqa: PLR0913 - the options of the command
    data: str,
    config: Config,
    *,
    modes: Sequence[str] = (),
    split: str = "val",
    topic: str | None = None,
    mask_topic: str | None = None,
    selection: Selection = EVERYTHING,
    out: Path | None = None,
    json_path: Path | None = None,
    compare_with: Path | None = None,
) -> int:
    """Do `seg_node evaluate DATA`: score, write, and show the tables.

    Args:
        data: named data with labels.
        config: settings.
        modes: modes to compare, in the order of the tables; none for the config's own alone.
        split: split of a data set that has splits.
        topic: image topic of a bag; None where it has only one.
        mask_topic: topic of a bag with the masks of these images.
        selection: which frames.
        out: folder for `results.json`, the table of frames, the page and the sheets of the worst
            frames; None for none of them.
        json_path: file that also gets the content of `results.json`; None for none.
        compare_with: `results.json` of an earlier run to compare with; needs `out`.

    Returns:
        Exit status: 0, or 130 after Ctrl-C.

    Raises:
        DataError: the data cannot be used, have no labels or other classes than the model, or
            the folder is not ours to write.
        ModelError: the model cannot be loaded.
        ConfigError: there is no such mode, the device or precision is not to be had here, or
            there is an earlier run to compare with and no `out`.

    """
    if compare_with and not out:
        msg = "--compare needs the frames of this run as well: add --out DIR"
        raise ConfigError(msg)
    old = read_old_run(compare_with) if compare_with else None
    source = open_source(data, split=split, topic=topic, mask_topic=mask_topic)
    sessions = open_sessions(config, modes)
    if out:
        # Checked again by evaluate, but here before anything of an earlier run is removed.
        check_classes(source, common(sessions).manifest.classes)
        prepare_out(out, COMMAND, source_path(source))
    worst = worst_frames(sessions)
    with ExitStack() as files:
        table = files.enter_context(FrameWriter(out / FRAMES)) if out else None
        results = evaluate(source, sessions, selection, worst, table)
    results["split"] = split
    notes = source_notes(results["source"])
    if results["interrupted"]:
        notes.append("interrupted by Ctrl-C: these are the frames until then")
    if out:
        _write(results, worst, common(sessions), out, old)
        notes.append(f"written to {out}: {', '.join(sorted(p.name for p in out.iterdir()))}")
    if json_path:
        write_json(results, json_path)
    tables = score_tables(results)
    if COMPARE in results:
        tables.append(change_table(results[COMPARE]))
    show(results, tables, notes)
    return EXIT_INTERRUPTED if results["interrupted"] else 0


def evaluate(
    source: Source,
    sessions: Mapping[str, Session],
    selection: Selection = EVERYTHING,
    worst: Mapping[str, WorstFrames] | None = None,
    table: FrameWriter | None = None,
) -> dict[str, Any]:
    """Run the selected frames in order through every mode and score those with labels.

    The first Ctrl-C ends it after the frame in work.

    Args:
        source: frames in time order.
        sessions: model and settings by mode; one model for all.
        selection: which frames.
        worst: is shown every labelled frame, by mode; None to keep no pictures.
        table: gets a row for every frame and mode; None to keep none.

    Returns:
        The content of `results.json`.

    Raises:
        DataError: no frame has labels, so that there is nothing to score, or the labels do not
            fit the model.

    """
    shared = common(sessions)
    check_classes(source, shared.manifest.classes)
    source = in_size(source, selection.size)
    scores = _Scores(sessions, worst or worst_frames(sessions), table)
    exact = _exact_motion(source, selection.stride)
    rate_hz = estimate_rate(source)
    frames = -(-len(source) // selection.stride)
    total = min(frames, selection.limit) if selection.limit else frames
    samples = source.every(selection.stride)
    with noted_interrupt() as interrupt, progress(COMMAND, total) as bar:
        for index, (sample, results) in enumerate(steps(samples, sessions)):
            number = index * selection.stride
            scores.add(source.spec, number, sample, results, exact(index) if exact else None)
            bar(scores.labelled if selection.limit else index + 1)
            if interrupt or scores.labelled == selection.limit:
                break
    if not scores.labelled and not interrupt:
        msg = f"{source.spec} has no labels to score; use 'seg_node replay' to look at the masks"
        raise DataError(msg)
    return {
        "command": COMMAND,
        "interrupted": bool(interrupt),
        **make_results(source.spec, shared.manifest, shared.device, shared.config, scores.records),
        "selection": asdict(selection),
        "source": describe_source(source, Counter(), rate_hz),
        "worst": {mode: kept.entries() for mode, kept in scores.worst.items()},
    }


class _Scores:
    """What is counted of each mode.

    Attributes:
        records: the scores, by mode.
        worst: the frames of lowest score, by mode.
        labelled: frames with labels so far.

    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        worst: Mapping[str, WorstFrames],
        table: FrameWriter | None,
    ) -> None:
        classes = len(common(sessions).manifest.classes)
        estimator = MotionEstimator()
        self.worst = worst
        self._table = table
        self.temporal = {mode: TemporalConsistency(classes, estimator) for mode in sessions}
        self.records = {
            mode: ModeRecord(classes, BoundaryScore(classes), temporal)
            for mode, temporal in self.temporal.items()
        }
        self.labelled = 0

    def add(
        self,
        data: str,
        number: int,
        sample: Sample,
        results: Mapping[str, StepResult],
        motion: Motion | None,
    ) -> None:
        """Count frame `number` of `data`, with its motion where that is known exactly."""
        scores = count_frame(self.records, data, sample, results)
        self.labelled += sample.labels is not None
        for mode, result in results.items():
            self.temporal[mode].update(sample.frame, result.labels, motion)
            score = scores[mode]
            if self._table:
                stamp_ns = sample.frame.stamp_ns
                self._table.write(row_of(number, stamp_ns, mode, result, score))
            if score.miou is not None and sample.labels is not None:
                self.worst[mode].add(score.miou, sample, sample.labels, result.labels, result.plan)


def _exact_motion(source: Source, stride: int) -> Callable[[int], Motion] | None:
    """Return what tells the motion of the n-th frame since the one before; None if nobody can."""
    if not isinstance(source, StreetClip) or stride != 1:
        return None
    street = source.street

    def motion(index: int) -> Motion:
        frame = street.render(index)
        return Motion(frame.flow, ~frame.occluded)

    return motion


def _write(
    results: dict[str, Any],
    worst: Mapping[str, WorstFrames],
    shared: Session,
    out: Path,
    old: OldRun | None,
) -> None:
    """Write `results.json`, the page, and each mode's sheet of its worst frames."""
    for mode, folder in mode_folders(out, worst).items():
        sheet = worst[mode].sheet()
        if sheet is not None:
            write_whole(folder / WORST, encode_png(sheet))
    conclude(results, worst, shared.manifest.classes, out, old)
