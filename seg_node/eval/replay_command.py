"""The verb `seg_node replay`: opens what was asked for, and tells what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
import logging
from typing import Any, TYPE_CHECKING

from seg_node.core.types import ConfigError
from seg_node.data.datasets import guess_spec, open_source
from seg_node.eval.clocks import EVERY_FRAME, EveryFrame, Simulated, VIRTUAL
from seg_node.eval.compare import read_old_run
from seg_node.eval.cost_file import read_costs
from seg_node.eval.progress import EXIT_INTERRUPTED
from seg_node.eval.reference import FolderLabels, Reference
from seg_node.eval.refusals import check_recording
from seg_node.eval.replay import Extent, follow, summary, WHOLE
from seg_node.eval.require import VERDICTS
from seg_node.eval.results import DENSE
from seg_node.eval.session import open_model, sessions_of
from seg_node.eval.virtual import simulated_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from seg_node.core.config import Config
    from seg_node.data.sources import Source
    from seg_node.eval.clocks import Course
    from seg_node.eval.require import Rule
    from seg_node.nets.build import Model

EXIT_FAILED = 1
"""Exit status where a rule was broken."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What the user asks of a replay.

    Attributes:
        data: named data, or a path whose kind is guessed.
        config: settings.
        out: folder to write into.
        modes: modes to compare; none for the config's own alone.
        topic: image topic of a bag; None where it has only one.
        mask_topic: topic of a bag with the masks of these images; None for no such labels.
        clock: one of `CLOCKS`.
        costs: cost file for the clock `virtual`; None to measure.
        reference: what to compare with.
        extent: how much of the data.
        resume: whether to go on with an interrupted run.
        rules: what the run must keep.
        compare_with: `results.json` of an earlier run to compare with; None for none.

    """

    data: str
    config: Config
    out: Path
    modes: tuple[str, ...] = ()
    topic: str | None = None
    mask_topic: str | None = None
    clock: str = EVERY_FRAME
    costs: Path | None = None
    reference: Reference = field(default_factory=Reference)
    extent: Extent = WHOLE
    resume: bool = False
    rules: tuple[Rule, ...] = ()
    compare_with: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what does not go together.

        Raises:
            ConfigError: a number is out of range, or an option belongs to another clock.

        """
        if self.extent.samples < 0:
            msg = f"samples is {self.extent.samples}; use 0 or more"
            raise ConfigError(msg)
        if self.extent.limit is not None and self.extent.limit < 1:
            msg = f"limit is {self.extent.limit}; use 1 or more"
            raise ConfigError(msg)
        if self.costs is not None and self.clock != VIRTUAL:
            msg = f"--costs says what steps cost in --clock virtual, not in {self.clock}"
            raise ConfigError(msg)
        if self.resume and self.clock != EVERY_FRAME:
            msg = f"--resume goes with --clock every-frame: time runs on in {self.clock}"
            raise ConfigError(msg)


def run_replay(request: Request) -> int:
    """Do `seg_node replay DATA` with the clock `every-frame` or `virtual`.

    Returns:
        Exit status: 0, 1 if a rule was broken, or 130 after Ctrl-C.

    Raises:
        DataError: the data cannot be used, or the folder is not ours to write.
        ModelError: the model cannot be loaded.
        ConfigError: there is no such mode, or the device or precision is not to be had here.

    """
    modes = tuple(request.modes or (request.config.mode,))
    for mode in modes:
        request.config.updated({"mode": mode})  # refuses one that is none before all work
    old = read_old_run(request.compare_with) if request.compare_with else None
    source = open_recording(request)
    course = open_course(request, open_model(request.config), request.config, modes)
    results = follow(
        source,
        course,
        request.out,
        request.extent,
        resume=request.resume,
        old=old,
        rules=request.rules,
    )
    logger.info("%s", summary(results, request.out))
    return tell(results)


def open_recording(request: Request) -> Source:
    """Open the data with their labels, and refuse a recording that settles nothing.

    Raises:
        DataError: the data or labels cannot be used.

    """
    spec = guess_spec(request.data)
    source = open_source(spec, topic=request.topic, mask_topic=request.mask_topic)
    check_recording(source)
    labels = request.reference.labels
    if labels is not None:
        return FolderLabels(source, labels, request.reference.tolerance_ms)
    return source


def open_course(request: Request, model: Model, config: Config, modes: Sequence[str]) -> Course:
    """Build the pipelines of all modes, and what leads the frames through them.

    Args:
        request: says the clock, its costs and the reference.
        model: a loaded model.
        config: settings, which may differ from those of the request.
        modes: at least one.

    Raises:
        DataError: the cost file cannot be used.
        ConfigError: there is no such mode, or the device or precision is not to be had here.

    """
    dense = request.reference.dense
    if request.clock == EVERY_FRAME:
        beside = (DENSE,) if dense and DENSE not in modes else ()
        return EveryFrame(sessions_of(model, config, (*modes, *beside)))
    costs = None if request.costs is None else read_costs(request.costs, modes)
    nodes = simulated_nodes(model, config, modes, costs)
    compared = dense or (DENSE in modes and len(modes) > 1)
    return Simulated(nodes, sessions_of(model, config, (DENSE,))[DENSE] if compared else None)


def tell(results: dict[str, Any]) -> int:
    """Say what every rule says of the results; returns the exit status."""
    if results["interrupted"]:
        return EXIT_INTERRUPTED
    verdicts = results[VERDICTS]
    for verdict in verdicts:
        logger.info("%s", verdict["text"])
    return 0 if all(verdict["passed"] for verdict in verdicts) else EXIT_FAILED
