"""What a camera's newest full computation left behind, and how it finds to the present frame."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import numpy as np

from seg_node.core.memory import Memory, moved
from seg_node.core.policy import Past, Remembers
from seg_node.core.tracking import MotionTracker, OnHost
from seg_node.core.types import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.config import Config
    from seg_node.core.device_motion import AnyMotion
    from seg_node.core.tracking import AnyMethod
    from seg_node.core.types import Frame

_NS_PER_MS = 1e6


class History:
    """The memory of one camera, and the motion back to it.

    For every frame, in the order of their stamps: `look` first; then `keep` if it was computed in
    full, or `features` or `logits` if it was not.

    Args:
        method: how motion is measured; None for the CPU's.

    """

    remembers = Remembers.FRAME

    def __init__(self, method: AnyMethod | None = None) -> None:
        """Remember nothing."""
        self._method: AnyMethod = method or OnHost()
        self._memory = Memory()
        self._tracker: MotionTracker[Any, Any] | None = None
        self._logits: Tensor | None = None
        self._motion: AnyMotion | None = None
        self._frames = 0
        self._asked = False

    def ask(self) -> None:
        """Have the next frame computed in full."""
        self._asked = True

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is held on the device."""
        if self._memory.kept is not None:
            yield self._memory.kept.features
        if self._logits is not None:
            yield self._logits

    def look(self, frame: Frame, config: Config) -> Past:
        """Follow the motion to this frame, and return what of the memory can be used for it.

        Args:
            frame: the next frame, as the network will see it.
            config: settings in force.

        """
        if self._tracker is None or self._tracker.source != config.motion.source:
            self._tracker = MotionTracker(config.motion.source, self._method)
        self._frames += 1
        found = self._tracker.track(frame)
        self._motion = None if isinstance(found, Reason) else found
        return Past(self._lost(frame, found, config), self._frames)

    def _lost(self, frame: Frame, found: AnyMotion | Reason, config: Config) -> Reason | None:
        if isinstance(found, Reason):
            return found
        if self._asked:
            return Reason.ASKED
        assert self._memory.kept is not None
        age_ns = frame.stamp_ns - int(self._memory.kept.stamps_ns.min())
        return Reason.AGE if age_ns > config.max_age_ms * _NS_PER_MS else None

    def keep(self, frame: Frame, features: Tensor, logits: Tensor, side: int) -> None:
        """Remember a frame that was computed in full, in place of all before.

        Args:
            frame: the frame that `look` saw last.
            features: what frames between keyframes are to find, [1, C, h, w]: the network's
                features, or what else its half-resolution branch asks for.
            logits: of the network, [1, classes, h, w].
            side: side of a block in pixels.

        """
        assert self._tracker is not None
        self._memory.store(frame, features, side)
        self._logits = logits
        self._tracker.start(frame)
        self._motion, self._frames, self._asked = None, 0, False

    def features(self) -> tuple[Tensor, Tensor]:
        """Return the remembered features where things are now, and where that is known.

        Returns:
            float [1, C, h, w], and bool [1, 1, h, w].

        """
        assert self._motion is not None
        return self._memory.warped(self._motion)

    def logits(self) -> Tensor:
        """Return the remembered logits where things are now, [1, classes, h, w].

        The head looks at single pixels, so this is what it would make of moved features.
        """
        assert self._motion is not None
        assert self._logits is not None
        return moved(self._logits, self._motion)[0]

    def age_ms(self, frame: Frame) -> NDArray[np.uint16]:
        """Return how old the full computation behind each block of the frame is, [gh, gw]."""
        assert self._memory.kept is not None
        if self._motion is None:
            return np.zeros(self._memory.kept.stamps_ns.shape, np.uint16)
        return self._memory.age_ms(frame.stamp_ns, self._motion)
