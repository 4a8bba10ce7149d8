"""The verb `seg_node replay` over several recordings: Dask's workers replay, this one counts.

docs/fleets.md says what it promises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import logging
from pathlib import Path
from typing import Any, TYPE_CHECKING
from uuid import uuid4

import torch

from seg_node.core.types import ConfigError, DataError
from seg_node.eval.arguments import RETRIES
from seg_node.eval.clocks import LIVE
from seg_node.eval.cost_file import read_costs
from seg_node.eval.fleet_folder import asked_of, COMMAND, key_of, prepare_fleet, remove_attempts
from seg_node.eval.fleet_merge import BagResult, merge, read_bag
from seg_node.eval.fleet_report import write_fleet_report
from seg_node.eval.fleet_run import check_packages, follow_fleet, open_client
from seg_node.eval.fleet_task import attempts_begun, BagTask
from seg_node.eval.outputs import RESULTS
from seg_node.eval.progress import EXIT_INTERRUPTED
from seg_node.eval.recordings import name_recordings
from seg_node.eval.replay import mode_line, source_notes
from seg_node.eval.replay_command import EXIT_FAILED, tell
from seg_node.eval.report import REPORT
from seg_node.eval.results import write_json
from seg_node.nets.manifest import find_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seg_node.eval.replay_command import Request

CORES_PER_WORKER = 4
"""Cores of a worker where nobody says how many workers: more hardly speed up one network."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fleet:
    """What the user asks of several recordings.

    Attributes:
        recordings: named data or paths, all different.
        request: the replay that every one of them gets; its `data` does not count.
        workers: worker processes on this machine; None for one for every four cores, or for the
            graphics card.
        scheduler: address of a Dask scheduler in place of workers on this machine.
        retries: how often a recording is begun again whose worker has died or failed.
        resume: whether to keep what an earlier run has finished.

    """

    recordings: tuple[str, ...]
    request: Request
    workers: int | None = None
    scheduler: str | None = None
    retries: int = RETRIES
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not go together.

        Raises:
            ConfigError: a number is out of range, or an option is for one recording alone.

        """
        if self.workers is not None and (self.workers < 1 or self.scheduler is not None):
            msg = f"--workers {self.workers}: give 1 or more, and not beside --scheduler"
            raise ConfigError(msg)
        if self.retries < 0:
            msg = f"--retries {self.retries}: give 0 or more"
            raise ConfigError(msg)
        if self.request.clock == LIVE:
            msg = "--clock live takes one recording: it plays in real time, on this machine alone"
            raise ConfigError(msg)
        if self.request.compare_with is not None:
            msg = "--compare takes one recording: compare each with its own earlier results.json"
            raise ConfigError(msg)


def run_fleet(fleet: Fleet) -> int:
    """Do `seg_node replay DATA DATA ...`.

    Returns:
        Exit status: 0; 1 if a recording failed or a rule was broken; 130 after Ctrl-C.

    Raises:
        DataError: the folder is not ours to write, or what is in it is not what was asked for.
        ModelError: there is no such model.
        ConfigError: Dask is not installed or its scheduler not reached, or there is no such mode.

    """
    check_packages()
    for mode in fleet.request.modes:
        fleet.request.config.updated({"mode": mode})
    workers = fleet.workers or default_workers(fleet.request.config.device)
    request = _shared(fleet.request, workers, local=fleet.scheduler is None)
    if request.costs is not None:
        read_costs(request.costs, request.modes or (request.config.mode,))
    manifest = find_manifest(request.config.model)[0]
    asked = asked_of(request)
    recordings = name_recordings(fleet.recordings)
    prepare_fleet(request.out, recordings, asked, resume=fleet.resume)
    token = uuid4().hex
    tasks = [
        BagTask(r.name, _own(request, r.name, r.data), request.out, key_of(asked), token)
        for r in recordings
    ]
    with open_client(fleet.scheduler, min(workers, len(tasks))) as client:
        ends = follow_fleet(client, tasks, fleet.retries)
    bags = [read_bag(t, ends[t.name], attempts_begun(t), len(manifest.classes)) for t in tasks]
    remove_attempts(request.out)
    if not any(bag.results for bag in bags):
        return _nothing_done(bags, request.out)
    results = merge(bags, manifest, request.rules)
    write_json(results, request.out / RESULTS)
    write_fleet_report(results, bags, manifest.classes, request.out)
    logger.info("%s", summary(results, request.out))
    status = tell(results)
    failed = any(bag.end.state == "failed" for bag in bags)
    return EXIT_FAILED if failed and not status else status


def default_workers(device: str) -> int:
    """Return how many recordings are replayed side by side where nobody says it."""
    from dask.system import CPU_COUNT  # noqa: PLC0415 - it may be missing

    on_gpu = device != "cpu" and torch.cuda.is_available()
    return 1 if on_gpu else max(1, int(CPU_COUNT) // CORES_PER_WORKER)


def _shared(request: Request, workers: int, *, local: bool) -> Request:
    """Return the request with paths and threads that mean the same in every worker.

    The cores of this machine are shared out; on others a worker has one thread, as Dask itself
    has it, unless the settings say otherwise.
    """
    from dask.system import CPU_COUNT  # noqa: PLC0415 - it may be missing

    own = max(1, int(CPU_COUNT) // workers) if local else 1
    config = request.config
    model = str(Path(config.model).absolute()) if config.model.endswith(".json") else config.model
    config = config.updated({"threads": config.threads or own, "model": model})
    costs = None if request.costs is None else request.costs.absolute()
    return replace(request, config=config, out=request.out.absolute(), costs=costs)


def _own(request: Request, name: str, data: str) -> Request:
    """Return the replay of one recording; labels in a folder lie in one of its name there."""
    reference = request.reference
    if reference.labels is not None:
        reference = replace(reference, labels=reference.labels.absolute() / name)
    return replace(request, data=data, reference=reference)


def summary(results: dict[str, Any], out: Path) -> str:
    """Return what a person wants to know of a fleet, in a few lines."""
    recordings = results["recordings"]
    states = [recording["state"] for recording in recordings]
    lines = [f"{results['data']}  {results['model']['name']}  {results['device']}"]
    lines.append(", ".join(f"{states.count(x)} {x}" for x in dict.fromkeys(states)))
    lines += [mode_line(mode, entry) for mode, entry in results["modes"].items()]
    lines += [f"mind: {note}" for note in results["notes"]]
    lines += source_notes(results["source"])
    lines += _failures(recordings)
    if results["interrupted"]:
        lines.append("interrupted by Ctrl-C: the figures are of what is done; --resume goes on")
    lines.append(f"look at {(out / REPORT).resolve()}")
    return "\n".join(lines)


def _failures(recordings: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"FAILED {x['name']}: {x['error']}" for x in recordings if x["state"] == "failed"]


def _nothing_done(bags: Sequence[BagResult], out: Path) -> int:
    """Say why there are no figures; returns the exit status."""
    interrupted = any(bag.end.state == "interrupted" for bag in bags)
    recordings = [
        {
            "name": b.end.name,
            "data": b.task.request.data,
            "state": b.end.state,
            "error": b.end.error,
        }
        for b in bags
    ]
    content = {"command": COMMAND, "interrupted": interrupted, "recordings": recordings}
    write_json(content, out / RESULTS)
    for line in _failures(recordings):
        logger.info("%s", line)
    if interrupted:
        logger.info("interrupted by Ctrl-C before a recording was done: --resume goes on")
        return EXIT_INTERRUPTED
    msg = f"none of the {len(bags)} recordings could be replayed"
    raise DataError(msg)
