"""What a playback heard from the node; imports no ROS, so that it can be judged anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
import zlib

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RecordedMask:
    """A mask as it arrived.

    Attributes:
        received_ns: wall clock at arrival.
        height: as the message states it.
        width: as the message states it.
        encoding: as the message states it.
        packed: its bytes without row padding, compressed with zlib.

    """

    received_ns: int
    height: int
    width: int
    encoding: str
    packed: bytes

    def labels(self) -> NDArray[np.uint8]:
        """Return the class ids, uint8 [H, W]; [0, 0] where the bytes are not H * W."""
        data = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        if data.size != self.height * self.width:
            return np.zeros((0, 0), np.uint8)
        return data.reshape(self.height, self.width)


@dataclass(frozen=True)
class RecordedStatus:
    """One status of a DiagnosticArray as it arrived.

    Attributes:
        name: who says it.
        level: 0 OK, 1 WARN, 2 ERROR, 3 STALE.
        text: summary.
        values: details.

    """

    name: str
    level: int
    text: str
    values: dict[str, str]
