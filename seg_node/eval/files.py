"""Writes files of results whole or not at all, with one sentence where the disk refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.core.types import DataError

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, creating its folder if needed; what was there stays until all is written.

    Args:
        path: the file.
        content: text, which is written as UTF-8, or bytes.

    Raises:
        DataError: the disk is full, or refuses otherwise.

    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}"
        raise DataError(msg) from error
