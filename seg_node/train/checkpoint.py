"""One checkpoint per run, always replaced whole: a run killed at any moment continues."""

from __future__ import annotations

from contextlib import suppress
import os
import shutil
from typing import Any, TYPE_CHECKING

import torch

from seg_node.core.types import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FREE_FACTOR = 3
"""Free space asked for at the start, in checkpoints: the old one, the new one, the weights."""


def check_space(folder: Path, checkpoint_bytes: int) -> None:
    """Refuse to start a run that the disk cannot hold.

    Raises:
        DataError: names the folder, what is free and what is needed.

    """
    need, free = FREE_FACTOR * checkpoint_bytes, shutil.disk_usage(folder).free
    if free < need:
        msg = f"{folder} has {free >> 20} MiB free, training needs {need >> 20}; free some space"
        raise DataError(msg)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all, and through to the disk.

    Raises:
        DataError: it cannot be written, such as on a full disk; the old one is kept.

    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    # torch reports a failed write as a RuntimeError of its archive writer.
    except (OSError, RuntimeError) as err:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        msg = f"cannot write the checkpoint {path}: {err}; free some space and run again"
        raise DataError(msg) from err


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read a checkpoint of a run with exactly these settings; None if there is none yet.

    Raises:
        ConfigError: the file belongs to a run with other settings.
        DataError: the file is damaged.

    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        theirs = state["settings"]
    except (OSError, RuntimeError, KeyError, EOFError) as err:
        msg = f"{path} is not a readable checkpoint ({err}); delete it to start anew"
        raise DataError(msg) from err
    names = sorted(settings.keys() | theirs.keys())
    changed = [
        f"{n} was {theirs.get(n)!r}, is {settings.get(n)!r}"
        for n in names
        if settings.get(n) != theirs.get(n)
    ]
    if changed:
        what = "; ".join(changed)
        msg = f"{path.parent} holds a run with other settings ({what}); use another folder"
        raise ConfigError(msg)
    return state
