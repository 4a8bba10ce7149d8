"""Pictures and motions that tests of motion share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.motion import still

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seg_node.core.types import Motion

SIZE = (120, 160)


def moved(x: float, y: float, since_ns: int = 0, size: tuple[int, int] = SIZE) -> Motion:
    motion = still(size, since_ns)
    return replace(motion, flow=motion.flow + np.array([x, y], np.float32))


def picture(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Return a picture with detail of several sizes."""
    rng = np.random.default_rng(seed)
    planes = [
        cv2.resize(
            rng.integers(0, 256, (size[0] // n + 1, size[1] // n + 1, 3)).astype(np.uint8),
            size[::-1],
            interpolation=cv2.INTER_CUBIC,
        )
        for n in (4, 8, 32)
    ]
    return np.asarray(np.mean(planes, axis=0), np.uint8)
