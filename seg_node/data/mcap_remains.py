"""Says what is whole in an mcap file whose end is missing, as a recorder leaves it that died.

Only the outer records are looked at, so nothing is unpacked: beside every chunk the file lists
its messages (https://mcap.dev/spec, records 0x05 Message, 0x06 Chunk and 0x07 Message Index).
"""

from __future__ import annotations

import struct
from typing import BinaryIO, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC_BYTES = 8
_HEAD = struct.Struct("<BQ")
"""Opcode and length of a record."""
_MESSAGE, _INDEX = 0x05, 0x07
_TIMES = struct.Struct("<Q")
_MESSAGE_TIME_AT = 6
"""Bytes of a message's channel and number, before its time."""
_INDEX_HEAD = struct.Struct("<HI")
_ENTRY = struct.Struct("<QQ")
_NS_PER_S = 1e9


def describe_remains(path: Path) -> str:
    """Return one clause: how many messages are whole, and over what time.

    Args:
        path: an mcap file that may be cut off anywhere behind its magic bytes.

    Raises:
        OSError: the file cannot be read.

    """
    times_ns: list[tuple[int, int, int]] = []  # messages, first and last time of a record
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(_MAGIC_BYTES)
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            opcode, length = _HEAD.unpack(head)
            end = file.tell() + length
            if end > size:
                break
            times_ns += _messages(file, opcode, length)
            file.seek(end)
    count = sum(x[0] for x in times_ns)
    if not count:
        return "no message in it is whole"
    span_s = (max(x[2] for x in times_ns) - min(x[1] for x in times_ns)) / _NS_PER_S
    return f"{count} messages of its first {span_s:.1f} s are whole"


def _messages(file: BinaryIO, opcode: int, length: int) -> list[tuple[int, int, int]]:
    """Return the messages that a record holds or lists: their number, first and last time."""
    if opcode == _MESSAGE and length >= _MESSAGE_TIME_AT + _TIMES.size:
        (time_ns,) = _TIMES.unpack(file.read(_MESSAGE_TIME_AT + _TIMES.size)[_MESSAGE_TIME_AT:])
        return [(1, time_ns, time_ns)]
    if opcode == _INDEX and length >= _INDEX_HEAD.size:
        content = file.read(length)[_INDEX_HEAD.size :]
        whole = len(content) // _ENTRY.size * _ENTRY.size
        entries = [time_ns for time_ns, _ in _ENTRY.iter_unpack(content[:whole])]
        return [(len(entries), min(entries), max(entries))] if entries else []
    return []
