"""The recordings of a fleet: what globs stand for, and a name for each that no other has."""

from __future__ import annotations

import glob
import logging
from pathlib import Path
import re
from typing import NamedTuple, TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.data.datasets import BAG_SUFFIXES, SOURCE_KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

_KINDS = frozenset(kind.partition(":")[0] for kind in SOURCE_KINDS)
_UNFIT = re.compile(r"[^\w.-]+")
"""What no folder should be named with."""
_FILES = BAG_SUFFIXES | {".mp4", ".mkv", ".avi", ".mov"}
"""Ends of file names that say nothing about which recording it is."""

logger = logging.getLogger(__name__)


class Recording(NamedTuple):
    """One recording of a fleet.

    Attributes:
        name: fit for a folder, and unique among the recordings.
        data: named data, or a path whose kind is guessed, independent of the working directory.
        path: where they lie; None for data that are drawn.

    """

    name: str
    data: str
    path: Path | None


def find_recordings(texts: Sequence[str]) -> tuple[str, ...]:
    """Return what the user named, globs replaced by what they match, in order.

    A recording that is named twice, such as by two globs, is taken once, and the log says so.

    Args:
        texts: named data or paths; a glob has `*`, `?` or `[`, and `**` goes into folders.

    Raises:
        DataError: a glob matches nothing.

    """
    found: dict[str, str] = {}
    for text in texts:
        for match in _matches(text):
            place = _anywhere(match)
            if place in found:
                logger.info("%s is named twice: it is taken once", match)
            found.setdefault(place, match)
    return tuple(found.values())


def name_recordings(recordings: Sequence[str]) -> tuple[Recording, ...]:
    """Give each of several different recordings a name.

    It is the last part of the path, without the suffix of a bag's or video's file; where two have
    the same, as many parts before it as tell them apart.
    """
    parts = [_parts(text) for text in recordings]
    depth = [1] * len(parts)
    names = _names(parts, depth)
    while len(set(names)) < len(names):
        same = [i for i, name in enumerate(names) if names.count(name) > 1]
        if all(depth[i] >= len(parts[i]) for i in same):
            for number, i in enumerate(same):  # told apart by nothing but their kinds
                parts[i] = (*parts[i][:-1], f"{parts[i][-1]}-{number}")
        depth = [d + (i in same) for i, d in enumerate(depth)]
        names = _names(parts, depth)
    return tuple(
        Recording(name, _anywhere(text), _path(text))
        for name, text in zip(names, recordings, strict=True)
    )


def _matches(text: str) -> list[str]:
    kind, place = _split(text)
    if not glob.has_magic(place) or Path(place).exists():
        return [text]
    matches = sorted(glob.glob(place, recursive=True))  # noqa: PTH207 - keeps a path as typed
    if not matches:
        msg = f"{text!r} matches nothing: name recordings, or a glob of them such as 'bags/*'"
        raise DataError(msg)
    return [f"{kind}:{match}" if kind else match for match in matches]


def _split(text: str) -> tuple[str, str]:
    """Return kind and place of named data; the kind of a mere path is empty."""
    kind, colon, place = text.partition(":")
    return (kind, place) if colon and kind in _KINDS else ("", text)


def _path(text: str) -> Path | None:
    kind, place = _split(text)
    return None if kind == "street" else Path(place).absolute()


def _anywhere(text: str) -> str:
    """Return what names the data in whatever folder a worker runs."""
    path, kind = _path(text), _split(text)[0]
    if path is None:
        return text
    return f"{kind}:{path}" if kind else str(path)


def _parts(text: str) -> tuple[str, ...]:
    """Return the parts of a path that can name it, the last one the best."""
    path = _path(text)
    if path is None:
        return (text.replace(":", "-"),)
    last = path.stem if path.suffix in _FILES else path.name
    return (*path.parts[1:-1], last)


def _names(parts: Sequence[tuple[str, ...]], depth: Sequence[int]) -> list[str]:
    joined = ["_".join(p[-d:]) for p, d in zip(parts, depth, strict=True)]
    return [_UNFIT.sub("_", name).lstrip(".") or "recording" for name in joined]
