"""Wall clock of modes and models on one input: `seg_node bench`.

Each frame goes through every mode of every model before the next one comes, in one process, so
that clocks, caches and other work on the machine hit all alike; ratios are taken frame by frame
as well. The frames are a clip, never one image again and again: a mode with a memory would have
nothing to do. Nothing is scored but agreement with dense, because a speed-up means little
without it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TYPE_CHECKING

from seg_node.core.types import ConfigError, DataError
from seg_node.data.datasets import estimate_rate, guess_spec, open_source, StreetClip
from seg_node.data.resizing import check_size, resized, size_of
from seg_node.eval.machine import in_words, load
from seg_node.eval.progress import EXIT_INTERRUPTED, noted_interrupt, progress
from seg_node.eval.refusals import check_pictures
from seg_node.eval.replay import describe_source, source_notes
from seg_node.eval.results import count_frame, make_results, ModeRecord, write_json
from seg_node.eval.session import common, open_sessions, steps
from seg_node.eval.tables import cost_tables, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from seg_node.core.config import Config
    from seg_node.data.datasets import Sample, Source
    from seg_node.eval.session import Session

COMMAND = "bench"
WARM_UP = 5
"""Frames that run first and are not counted: threads, caches and memory of the modes settle."""
BUSY = 0.5
"""Load of the machine before the run above which its times are doubted."""
STREET = "street:1"
STREET_SIZE = (960, 720)
"""Data and (width, height) in pixels where none are named."""


@dataclass(frozen=True)
class Workload:
    """What to run.

    Attributes:
        frames: frames to measure, 1 or more; `WARM_UP` others come before them.
        size: (width, height) in pixels of the input; None for the data's own.

    """

    frames: int = 100
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: no frames, or a side out of range.

        """
        if self.frames < 1:
            msg = f"frames is {self.frames}; use 1 or more"
            raise ConfigError(msg)
        if self.size:
            check_size(self.size)


def run_bench(  # noqa: PLR0913 - what the command takes
    config: Config,
    modes: Sequence[str] = (),
    *,
    data: str = STREET,
    workload: Workload,
    json_path: Path | None = None,
    models: Sequence[str] = (),
) -> int:
    """Do `seg_node bench`: measure, write, and show the tables.

    Args:
        config: settings.
        modes: modes to compare; none for the config's own alone.
        data: named data, or a path whose kind is guessed.
        workload: how many frames, and of which size.
        json_path: file that gets the results; None for none. Those of several models stand under
            the names of these.
        models: models to run side by side; none for the config's own alone.

    Returns:
        Exit status: 0, or 130 after Ctrl-C.

    Raises:
        DataError: the data cannot be used, are too short, or are of several sizes.
        ModelError: the model cannot be loaded.
        ConfigError: there is no such mode, a model is named twice, or the device or precision is
            not to be had here.

    """
    names = models or (config.model,)
    if len(set(names)) < len(names):
        msg = f"the models are {', '.join(names)}; name each once"
        raise ConfigError(msg)
    source = open_input(data, workload)
    sessions = [open_sessions(config.updated({"model": name}), modes) for name in names]
    found = bench_models(source, sessions, workload)
    interrupted = found[0]["interrupted"]
    if json_path:
        several = {"command": COMMAND, "interrupted": interrupted, "models": _by_model(found)}
        write_json(several if models[1:] else found[0], json_path)
    for results in found:
        show(results, cost_tables(results), notes_of(results, workload))
    return EXIT_INTERRUPTED if interrupted else 0


def _by_model(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {results["model"]["name"]: results for results in found}


def open_input(data: str, workload: Workload) -> Source:
    """Open named data; a street is drawn at the wanted size and is as long as needed.

    Raises:
        DataError: the data cannot be opened, or all their pictures are alike.

    """
    source = open_source(guess_spec(data))
    if not isinstance(source, StreetClip):
        check_pictures(source)
        return source
    return StreetClip(source.seed, WARM_UP + workload.frames, workload.size or STREET_SIZE)


def bench(source: Source, sessions: Mapping[str, Session], workload: Workload) -> dict[str, Any]:
    """Measure every mode of one model on the first frames of a source; see `bench_models`."""
    return bench_models(source, [sessions], workload)[0]


def bench_models(
    source: Source, models: Sequence[Mapping[str, Session]], workload: Workload
) -> list[dict[str, Any]]:
    """Measure every mode of every model on the first frames of a source, interleaved.

    The first Ctrl-C ends it after the frame in work.

    Args:
        source: frames in time order; labels do not matter.
        models: of each, model and settings by mode.
        workload: how many frames, and of which size.

    Returns:
        The results of each model, in the form of `results.json`.

    Raises:
        DataError: the data end before the first frame that counts, or are of several sizes.

    """
    load_before = load()
    rate_hz = estimate_rate(source)
    every = {_key(i, mode): one for i, own in enumerate(models) for mode, one in own.items()}
    records = [
        {mode: ModeRecord(len(common(own).manifest.classes)) for mode in own} for own in models
    ]
    size = (0, 0)
    done = 0
    with noted_interrupt() as interrupt, progress(COMMAND, WARM_UP + workload.frames) as bar:
        for sample, results in steps(_inputs(source, workload), every):
            if done >= WARM_UP:
                for i, own in enumerate(records):
                    results_of_one = {mode: results[_key(i, mode)] for mode in own}
                    count_frame(own, source.spec, sample, results_of_one)
            done += 1
            size = size_of(sample)
            bar(done)
            if interrupt:
                break
    if done <= WARM_UP and not interrupt:
        msg = f"{source.spec} has {done} frames; bench needs more than {WARM_UP}, which warm up"
        raise DataError(msg)
    return [
        {
            "command": COMMAND,
            "interrupted": bool(interrupt),
            **_results(source, own, sessions),
            "input": {"width": size[0], "height": size[1], "warm_up": WARM_UP},
            "load_before": load_before,
            "source": describe_source(source, Counter(), rate_hz),
        }
        for own, sessions in zip(records, models, strict=True)
    ]


def _key(model: int, mode: str) -> str:
    """Return what stands for a mode of one of several models."""
    return f"{model} {mode}"


def _results(
    source: Source, records: dict[str, ModeRecord], sessions: Mapping[str, Session]
) -> dict[str, Any]:
    shared = common(sessions)
    return make_results(source.spec, shared.manifest, shared.device, shared.config, records)


def _inputs(source: Source, workload: Workload) -> Iterator[Sample]:
    """Yield the frames to run, without labels, all of one size.

    Raises:
        DataError: they are of several sizes and none was asked for.

    """
    size = workload.size
    for sample in islice(source, WARM_UP + workload.frames):
        if workload.size is None and size not in {None, size_of(sample)}:
            width, height = size_of(sample)
            msg = (
                f"{source.spec}, frame {sample.name}: {width}x{height} pixels, the frames before "
                f"have {'x'.join(map(str, size or ()))}; give a --size to bring all to it"
            )
            raise DataError(msg)
        size = size or size_of(sample)
        yield replace(resized(sample, size), labels=None)


def notes_of(results: dict[str, Any], workload: Workload) -> list[str]:
    """Return what was measured and what is to be known of it, one line each."""
    frames = next(iter(results["modes"].values()))["frames"]
    width, height = results["input"]["width"], results["input"]["height"]
    how = f"{frames} frames of {width}x{height} after {WARM_UP} to warm up, modes interleaved"
    notes = [f"{how}, on {in_words(results['machine'])}"]
    busy = results["load_before"]
    if busy is not None and busy > BUSY:
        notes.append(
            f"mind: the machine was busy before (load {busy:g}): times are not to be quoted"
        )
    if results["interrupted"]:
        notes.append("interrupted by Ctrl-C: these are the frames until then")
    elif frames < workload.frames:
        notes.append(f"the data ended before the {workload.frames} frames that were asked for")
    return notes + source_notes(results["source"])
