"""Says what is whole in a sqlite3 bag file whose end is missing."""

from __future__ import annotations

from contextlib import closing
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NS_PER_S = 1e9


def describe_remains(path: Path) -> str:
    """Return one clause: how many messages can be read, and over what time.

    They are read one by one in the order in which they were written, up to the first that is not
    there. The one before it does not count: its last page may be missing, which reads as zeros.

    Args:
        path: a rosbag2 sqlite3 file that may be cut off anywhere.

    """
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    times_ns = [0, 0, 0]  # of the first message, the last but one, the last
    count = 0
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            # Without this sqlite reads nothing of a file that is shorter than its header says.
            connection.execute("PRAGMA writable_schema = ON")
            query = "SELECT timestamp, data FROM messages ORDER BY id"
            for time_ns, _ in connection.execute(query):
                count += 1
                first = times_ns[0] if count > 1 else int(time_ns)
                times_ns = [first, times_ns[2], int(time_ns)]
    except sqlite3.Error:  # here is the cut
        count, times_ns = count - 1, times_ns[:2]
    if count < 1:
        return "no message in it is whole"
    span_s = (times_ns[-1] - times_ns[0]) / _NS_PER_S
    return f"{count} messages of its first {span_s:.1f} s are whole"
