"""One recording of a fleet, replayed in a worker process; `fleet.py` says what, this does it.

A worker may be killed at any moment, and one that only seems dead may go on while another does
its work again. So an attempt writes into a folder of its own, and what it has come to is moved to
its place in one step: the first attempt that ends stands, no other can add to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import errno
import json
import os
import shutil
import signal
import socket
from typing import Any, Literal, TYPE_CHECKING
from uuid import uuid4

import cv2

from seg_node.core.types import DataError, SegNodeError
from seg_node.eval.counts import COUNTS
from seg_node.eval.progress import Interrupt
from seg_node.eval.replay import follow
from seg_node.eval.replay_command import open_course, open_recording
from seg_node.eval.results import write_json
from seg_node.eval.resume import RESUME
from seg_node.eval.session import open_model

if TYPE_CHECKING:
    from pathlib import Path

    from seg_node.eval.replay_command import Request

BAGS = "bags"
"""Folder of the recordings, each in a folder of its name."""
ATTEMPTS = ".attempts"
"""Folder of what is not known to have ended; nothing in it counts."""
BEGUN = ".begun"
"""End of the names of the files that say who began an attempt."""
IDENTITY = "recording.json"
"""What the results of a recording depend on, beside them."""
State = Literal["done", "interrupted", "failed"]


@dataclass(frozen=True)
class BagTask:
    """What a worker is asked to do.

    Attributes:
        name: name of the recording.
        request: its replay; all paths are absolute, and where it writes is not for it to say.
        out: folder of the fleet, on a disk that all workers share.
        key: hash of all that the results depend on but the data.
        token: names this run of the fleet, by which it can be stopped.

    """

    name: str
    request: Request
    out: Path
    key: str
    token: str

    @property
    def folder(self) -> Path:
        """Where the results lie once they count."""
        return self.out / BAGS / self.name

    @property
    def attempts(self) -> Path:
        """Where its attempts write."""
        return self.out / ATTEMPTS / self.name


@dataclass(frozen=True)
class BagEnd:
    """What became of a recording.

    Attributes:
        name: its name.
        state: `done` and `interrupted` (by Ctrl-C) leave files, `failed` does not.
        error: why it failed, in one sentence.

    """

    name: str
    state: State
    error: str | None = None


def dask_setup(worker: object) -> None:  # noqa: ARG001 - Dask's signature of a preload
    """Leave Ctrl-C to whoever started the worker: a terminal sends it to all processes alike."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_stops: dict[str, Interrupt] = {}


def stop(token: str) -> None:
    """End the replays of a fleet in this process, each after the frame in work."""
    _stop_of(token).pressed = True


def _stop_of(token: str) -> Interrupt:
    return _stops.setdefault(token, Interrupt())


def replay_bag(task: BagTask) -> BagEnd:
    """Replay a recording, go on with it, or see that it is done; runs in a worker.

    What is wrong with the data or the settings is the same anywhere, so it is told as the end of
    the recording. Whatever else goes wrong is raised.
    """
    told = _stop_of(task.token)
    if told:
        return BagEnd(task.name, "interrupted")
    attempt = _begin(task)
    try:
        return BagEnd(task.name, _replay(task, attempt, told))
    except SegNodeError as error:
        if (attempt / RESUME).exists():  # of an earlier run, which somebody may still go on with
            _commit(attempt, task.folder)
        return BagEnd(task.name, "failed", str(error))
    finally:
        shutil.rmtree(attempt, ignore_errors=True)  # what counts was moved


def attempts_begun(task: BagTask) -> int:
    """Return how many attempts at a recording were begun in this run of the fleet."""
    return len([*task.attempts.glob(f"*{BEGUN}")])


def _begin(task: BagTask) -> Path:
    """Say that an attempt is begun, and return where it may write."""
    attempt = task.attempts / uuid4().hex
    write_json({"host": socket.gethostname(), "pid": os.getpid()}, attempt.with_suffix(BEGUN))
    return attempt


def _replay(task: BagTask, attempt: Path, told: Interrupt) -> State:
    request = task.request
    source = open_recording(request)
    before = _known(task, source.fingerprint) if task.folder.exists() else None
    if before == "done":
        return before
    resume = _take(task.folder, attempt, keep=before is not None)
    if request.config.threads:
        cv2.setNumThreads(request.config.threads)  # motion, beside the network
    modes = tuple(request.modes or (request.config.mode,))
    results = follow(
        source,
        open_course(request, open_model(request.config), request.config, modes),
        attempt,
        replace(request.extent, counts=True),
        resume=resume,
        rules=request.rules,
        told=told,
    )
    write_json({"key": task.key, "sha256": results["source"]["sha256"]}, attempt / IDENTITY)
    if results["interrupted"]:
        if (attempt / RESUME).exists():
            _commit(attempt, task.folder)
        return "interrupted"
    _commit(attempt, task.folder)
    return "done"


def _known(task: BagTask, fingerprint: Any) -> State | None:
    """Return what an earlier run has left of the same replay of the same data; None for nothing.

    Args:
        task: what is asked for.
        fingerprint: returns the hash of the data as they are now; it reads all of them.

    """
    identity = read_identity(task.folder)
    if identity is None or identity["key"] != task.key:
        return None
    whole = (task.folder / COUNTS).exists()
    if not (whole or (task.folder / RESUME).exists()) or identity["sha256"] != fingerprint():
        return None
    return "done" if whole else "interrupted"


def read_identity(folder: Path) -> dict[str, Any] | None:
    """Return `key` and `sha256` of what lies in the folder of a recording; None for nothing."""
    try:
        content: dict[str, Any] = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        msg = f"{folder / IDENTITY} cannot be read ({error}): remove its folder to start anew"
        raise DataError(msg) from error
    return content


def _take(folder: Path, attempt: Path, *, keep: bool) -> bool:
    """Move what an earlier run has left into the attempt to go on with it, or else out of the way.

    Returns:
        Whether there is something to go on with. Of two attempts at a time only one has it.

    """
    try:
        folder.rename(attempt)
    except FileNotFoundError:
        return False
    if not keep:
        shutil.rmtree(attempt)
    return keep


def _commit(attempt: Path, folder: Path) -> None:
    """Move the results to their place, unless those of another attempt are there already.

    Raises:
        DataError: they cannot be moved.

    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        attempt.rename(folder)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            msg = f"cannot move {attempt} to {folder}: {error.strerror}"
            raise DataError(msg) from error
