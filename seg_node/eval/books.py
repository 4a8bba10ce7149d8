"""Takes down what becomes of every frame of a replay: counts, tables, pictures.

Memory stays flat: beside the counts, some numbers are kept of every frame, and nothing else.
"""

from __future__ import annotations

from contextlib import contextmanager, ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seg_node.core.closing import Closing
from seg_node.core.stats import frame_values
from seg_node.core.types import DataError
from seg_node.eval.cost_file import cost_of, COSTS, ModeCosts, read_costs, write_costs
from seg_node.eval.frames import FrameRow, FRAMES, FrameWriter, row_of, seen_overlaps
from seg_node.eval.outputs import mode_folders, Outputs
from seg_node.eval.result_bag import Made, Stats
from seg_node.eval.results import FrameScore, ModeRecord, NS_PER_MS
from seg_node.eval.worst import worst_frames

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from pathlib import Path

    from seg_node.core.types import StepResult
    from seg_node.data.sources import Sample
    from seg_node.eval.resume import Earlier
    from seg_node.eval.session import Session
    from seg_node.eval.virtual import Outcome


@dataclass(frozen=True)
class Pictures:
    """What is to be seen of the frames.

    Attributes:
        rate_hz: frame rate of the preview.
        chosen: indices of the frames to write as sample pictures, see `spread_indices`.

    """

    rate_hz: float
    chosen: frozenset[int]


class Books(Closing):
    """The files of a replay that grow frame by frame; use it as a context manager.

    Args:
        data: name of the data, for errors.
        sessions: model and settings by mode.
        out: folder to write into, prepared by `prepare_out`.
        pictures: what to show; None for no result bag, preview and samples.
        earlier: what an interrupted run has done; None to begin anew.

    Attributes:
        records: what was counted, by mode.
        reference: what was counted of mode `dense` beside them, where it ran there.
        costs: what the steps have cost, by mode.
        worst: the frames that differ most from their labels, or without labels from what mode
            `dense` makes of them, by mode.

    Raises:
        DataError: a file cannot be written, or what the earlier run left cannot be read.

    """

    def __init__(
        self,
        data: str,
        sessions: Mapping[str, Session],
        out: Path,
        pictures: Pictures | None,
        earlier: Earlier | None = None,
    ) -> None:
        """Open the files."""
        self._data = data
        self._out = out
        self.records = {
            mode: ModeRecord(len(session.manifest.classes)) for mode, session in sessions.items()
        }
        self.reference: ModeRecord | None = None
        self.costs = {mode: ModeCosts() for mode in sessions}
        self.worst = worst_frames(sessions)
        self._earlier = earlier
        self._before: dict[str, Generator[Made]] = {}
        self._worst_before: Mapping[str, Mapping[str, float]] = {}
        with ExitStack() as stack:
            if earlier is not None:
                self._take_over(earlier, stack)
            keep = earlier.frames if earlier else 0
            self._table = stack.enter_context(FrameWriter(out / FRAMES, keep=keep))
            self._outputs: dict[str, Outputs] = {}
            for mode, folder in mode_folders(out, sessions).items() if pictures else ():
                assert pictures is not None
                session = sessions[mode]
                classes, config = session.manifest.classes, session.config
                outputs = Outputs(folder, classes, config, pictures.rate_hz, pictures.chosen)
                self._outputs[mode] = stack.enter_context(outputs)
            self._files = stack.pop_all()

    @property
    def samples(self) -> list[Path]:
        """Sample pictures written so far."""
        return [path for outputs in self._outputs.values() for path in outputs.samples]

    def enter_reference(self, sample: Sample, result: StepResult) -> None:
        """Take down what mode `dense` makes of a frame, beside the modes.

        Raises:
            DataError: the frame's labels do not fit; the text names it.

        """
        if self.reference is None:
            self.reference = ModeRecord(next(iter(self.records.values())).classes)
        with self._named(sample):
            self.reference.add(result, sample.labels)

    def enter(self, mode: str, outcome: Outcome) -> None:
        """Take down what became of a frame in a mode.

        Raises:
            DataError: its labels do not fit; the text names the frame. Or writing fails.

        """
        sample = outcome.arrival.sample
        with self._named(sample):
            score = self._score(mode, outcome)
        if outcome.result is not None:
            index, result = outcome.arrival.index, outcome.result
            total_ns, overhead_ns = result.report.total_ns, outcome.overhead_ns
            self.costs[mode].add(cost_of(index, result.plan, total_ns, overhead_ns))
            self._show(mode, outcome, result)
            self._judge(mode, outcome, result, score)
        self._table.write(_row(mode, outcome, score))

    def repeat(self, sample: Sample) -> None:
        """Show a frame that the earlier run has done, as it did; they come in its order.

        Raises:
            DataError: it is not the frame of then, or writing fails.

        """
        assert self._earlier is not None
        for mode, outputs in self._outputs.items():
            made = next(self._before[mode])
            self._earlier.check(sample, made.mask)
            outputs.write(sample, made)
            score = self._worst_before[mode].get(sample.name)
            if score is not None:
                assert made.reference is not None, "a frame without one has no score"
                assert made.plan is not None, "every frame is written with its plan"
                self.worst[mode].add(score, sample, made.reference, made.mask, made.plan)

    def write_costs(self, device: str, clock: str) -> None:
        """Write `costs.json` of all frames so far.

        Raises:
            DataError: it cannot be written.

        """
        path = self._out / COSTS
        write_costs(path, self.costs, data=self._data, device=device, clock=clock)

    def close(self) -> None:
        """Finish all files, so that they can be read."""
        self._files.close()

    @contextmanager
    def _named(self, sample: Sample) -> Iterator[None]:
        """Name data and frame in what is wrong with its labels."""
        try:
            yield
        except DataError as error:
            msg = f"{self._data}, frame {sample.name}: {error}"
            raise DataError(msg) from error

    def _take_over(self, earlier: Earlier, stack: ExitStack) -> None:
        for mode, record in self.records.items():
            record.restore(earlier.records[mode])
            before = self._before[mode] = earlier.frames_of(mode)
            stack.callback(before.close)
        self.costs = read_costs(self._out / COSTS, tuple(self.records))
        self._worst_before = earlier.worst

    def _score(self, mode: str, outcome: Outcome) -> FrameScore:
        record, dense = self.records[mode], outcome.arrival.dense
        truth = outcome.arrival.sample.labels
        if outcome.result is not None:
            return record.add(outcome.result, truth, dense, outcome.lateness_ns)
        if outcome.standing is None:
            record.dropped += 1
            return FrameScore()
        return record.miss(outcome.standing, truth, dense)

    def _judge(self, mode: str, outcome: Outcome, result: StepResult, score: FrameScore) -> None:
        """Look whether the frame is one of the worst; a frame without a score is not."""
        sample, dense = outcome.arrival.sample, outcome.arrival.dense
        mask, plan = result.labels, result.plan
        if score.miou is not None and sample.labels is not None:
            self.worst[mode].add(score.miou, sample, sample.labels, mask, plan)
        elif score.agreement is not None and dense is not None:
            self.worst[mode].add(score.agreement, sample, dense, mask, plan)

    def _show(self, mode: str, outcome: Outcome, result: StepResult) -> None:
        if mode not in self._outputs:
            return
        labels, dense = outcome.arrival.sample.labels, outcome.arrival.dense
        made = Made(
            mask=result.labels,
            stats=frame_stats(result),
            plan=result.plan,
            confidence=result.confidence if result.confidence.size else None,
            age_ms=result.age_ms,
            reference=dense if labels is None else labels,
        )
        self._outputs[mode].write(_received(outcome), made)


def frame_stats(result: StepResult) -> Stats:
    """Return what one frame cost, with the keys of the node's ~/stats."""
    total_ms = result.report.total_ns / NS_PER_MS
    reason = result.plan.reason.value
    values = frame_values(result)
    texts = {k: f"{v:.3f}" if isinstance(v, float) else str(v) for k, v in values.items()}
    return Stats("/segmentation: frame", f"{reason}: {total_ms:.1f} ms", texts)


def _received(outcome: Outcome) -> Sample:
    """Return the frame with the time at which its result came, where frames arrive."""
    sample = outcome.arrival.sample
    if outcome.lateness_ns is None:
        return sample
    return replace(sample, receive_ns=sample.frame.stamp_ns + outcome.lateness_ns)


def _row(mode: str, outcome: Outcome, score: FrameScore) -> FrameRow:
    index, stamp_ns = outcome.arrival.index, outcome.arrival.stamp_ns
    if outcome.result is not None:
        late_ms = None if outcome.lateness_ns is None else outcome.lateness_ns / NS_PER_MS
        return row_of(index, stamp_ns, mode, outcome.result, score, late_ms=late_ms)
    return FrameRow(
        index,
        stamp_ns,
        mode,
        dropped=True,
        miou=score.miou,
        agreement=score.agreement,
        overlaps=seen_overlaps(score),
    )
