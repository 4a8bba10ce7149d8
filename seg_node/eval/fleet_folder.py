"""The folder of a fleet: made ready, kept to what was asked for, and cleared of what is nobody's.

`fleet.json` says what every recording was asked, so that `--resume` adds only what is alike.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import Any, TYPE_CHECKING

from seg_node.core.config import options
from seg_node.core.types import DataError
from seg_node.eval.fleet_task import ATTEMPTS, BAGS, IDENTITY
from seg_node.eval.outputs import prepare_out, RESULTS
from seg_node.eval.results import versions, write_json
from seg_node.nets.manifest import find_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from seg_node.eval.recordings import Recording
    from seg_node.eval.replay_command import Request

COMMAND = "fleet"
ASKED = "fleet.json"
_DIGITS = 16


def asked_of(request: Request) -> dict[str, Any]:
    """Return all that the results of a recording depend on but its data, by name.

    Raises:
        DataError: the cost file cannot be read.
        ModelError: there is no such model.

    """
    settings = {option.name: option.value for option in options(request.config)}
    content = {
        "clock": request.clock,
        "model": find_manifest(request.config.model)[0].sha256,
        "costs": None if request.costs is None else _sha256(request.costs),
        "reference": str(request.reference),
        "topic": request.topic,
        "mask_topic": request.mask_topic,
        "samples": request.extent.samples,
        "limit": request.extent.limit,
        **settings,
        "mode": ",".join(request.modes or (request.config.mode,)),
        **{f"version of {name}": value for name, value in versions().items()},
    }
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def key_of(asked: Mapping[str, Any]) -> str:
    """Return a hash of what `asked_of` returns."""
    text = json.dumps(asked, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def prepare_fleet(
    out: Path, recordings: Sequence[Recording], asked: Mapping[str, Any], *, resume: bool
) -> None:
    """Make the folder ready; without `resume`, remove what an earlier fleet has left there.

    Raises:
        DataError: a recording lies in the folder, the folder holds something else, or there is
            nothing to resume, or it was asked something else.

    """
    for path in (recording.path for recording in recordings):
        if path is not None and path.resolve().is_relative_to(out.resolve()):
            msg = f"the data {path} lie in the output folder {out}: choose another --out"
            raise DataError(msg)
    if resume:
        _check_alike(out, asked)
    else:
        prepare_out(out, COMMAND, None)
        for folder in (out / BAGS).glob("*"):
            if (folder / IDENTITY).exists():  # else it is none of ours
                shutil.rmtree(folder)
        write_json(dict(asked), out / ASKED)
    remove_attempts(out)
    write_json({"command": COMMAND, "interrupted": True}, out / RESULTS)


def remove_attempts(out: Path) -> None:
    """Remove what was begun and never ended."""
    shutil.rmtree(out / ATTEMPTS, ignore_errors=True)


def _check_alike(out: Path, asked: Mapping[str, Any]) -> None:
    path = out / ASKED
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        msg = f"{out} holds no replay of several recordings to resume: leave --resume out"
        raise DataError(msg) from error
    except (OSError, ValueError, TypeError) as error:
        msg = f"{path} cannot be read ({error}): leave --resume out to start anew"
        raise DataError(msg) from error
    for name in {**before, **asked}:
        if before.get(name) != asked.get(name):
            msg = (
                f"{out} holds replays with {name} {before.get(name)!r}, not {asked.get(name)!r}: "
                "resume with the options of then, or leave --resume out to start anew"
            )
            raise DataError(msg)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        msg = f"cannot read the costs {path}: {error.strerror}"
        raise DataError(msg) from error
