"""One budget for all cameras: those that change more get more of it."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import TYPE_CHECKING

from seg_node.core.budget import ComputeBudget, CostModel, LatencyBudget, Work
from seg_node.core.types import DataError, WARM_UP_CAMERA

if TYPE_CHECKING:
    from seg_node.core.budget import Budget, Spent
    from seg_node.core.config import BudgetConfig

MEMORY_FRAMES = 30
"""Frames, of all cameras, over which earlier need and a camera that is gone are forgotten.

Not a time: then equal frames would get unequal plans in two runs (law 6)."""

FLOOR = 0.3
"""Part of the budget that every camera's frames get alike, so that none starves."""

GONE = 1e-3
"""A camera of which no more than this many frames are remembered takes part no longer."""

_MS_PER_S = 1e3
_NS_PER_S = 1e9


@dataclass
class _Camera:
    """What is remembered of one camera.

    Attributes:
        frames: number of its frames, forgotten exponentially.
        need: sum of their need, likewise.

    """

    frames: float = 0.0
    need: float = 0.0


class Sharing:
    """Says how much more or less than the mean a frame of each camera may cost.

    The factors of all frames average to 1, whatever the rates of the cameras: what one camera
    gets more, the others get less.
    """

    def __init__(self) -> None:
        """Know no cameras."""
        self._cameras: dict[str, _Camera] = {}

    def note(self, camera: str, need: float) -> None:
        """Take note of a frame.

        Args:
            camera: its camera.
            need: how much there is to compute in it, at least 0, in any one unit.

        Raises:
            DataError: the need is out of range.

        """
        if not 0 <= need < math.inf:
            msg = f"a frame of camera {camera!r} needs {need}; give a finite number of at least 0"
            raise DataError(msg)
        left = 1 - 1 / MEMORY_FRAMES
        for known in self._cameras.values():
            known.frames *= left
            known.need *= left
        own = self._cameras.setdefault(camera, _Camera())
        own.frames += 1
        own.need += need
        self._cameras = {k: v for k, v in self._cameras.items() if v.frames > GONE}

    def factor(self, camera: str) -> float:
        """Return the share of a camera's frames, relative to the mean; `FLOOR` or more."""
        own = self._cameras.get(camera, _Camera())
        frames = sum(each.frames for each in self._cameras.values())
        need = sum(each.need for each in self._cameras.values())
        if not own.frames or not need:
            return 1.0
        return FLOOR + (1 - FLOOR) * (own.need / need) / (own.frames / frames)


class _Account:
    """What the frames of one camera may cost and did cost.

    Both kinds of budget learn from every frame, whichever is in force.

    Args:
        total: blocks of its frames.
        model: what steps on such frames cost.

    """

    def __init__(self, total: int, model: CostModel) -> None:
        """Start with nothing spent."""
        self.total, self.model = total, model
        self._compute = ComputeBudget(1.0)
        self._latency: LatencyBudget | None = None
        self._latency_ms = 0.0

    def follow(self, settings: BudgetConfig, factor: float) -> None:
        """Take the budget of the settings, times a factor, for the next frame."""
        if not settings.latency_ms:
            self._compute.fraction = min(1.0, settings.compute * factor)
            self._latency = None
            return
        target_s = settings.latency_ms * factor / _MS_PER_S
        if self._latency is None or settings.latency_ms != self._latency_ms:
            self._latency = LatencyBudget(target_s, self.model)
            self._latency_ms = settings.latency_ms
        self._latency.target_s = target_s

    @property
    def in_force(self) -> Budget:
        """The budget that says how many blocks there may be."""
        return self._latency or self._compute

    def spent(self, step: Spent) -> None:
        """Tell both kinds of budget what a frame cost."""
        if self._latency is None:
            self.model.update(step.work, step.seconds, step.interval_s)
        else:
            self._compute.allowed(self.total)
            self._latency.spent(step)
        self._compute.spent(step)


class SharedBudget:
    """The budget of the settings, kept on the mean over the frames of all cameras.

    For every frame of a camera: `allowed` first, and `spent` after it; what other cameras do in
    between does not matter.
    """

    def __init__(self) -> None:
        """Know no cameras and no costs."""
        self._sharing = Sharing()
        self._models: dict[int, CostModel] = {}  # by number of blocks
        self._accounts: dict[str, _Account] = {}

    def allowed(self, camera: str, total: int, settings: BudgetConfig) -> int:
        """Return how many of `total` HIGH blocks the next frame of a camera may have."""
        account = self._accounts.get(camera)
        if account is None or account.total != total:
            model = self._models.setdefault(total, CostModel())
            account = self._accounts[camera] = _Account(total, model)
        account.follow(settings, self._sharing.factor(camera))
        return account.in_force.allowed(total)

    def keeps(self, camera: str, high: int) -> bool:
        """Return whether that frame of a camera keeps the budget with so many blocks."""
        return self._accounts[camera].in_force.keeps(high)

    def predicted_ns(self, camera: str, work: Work) -> int | None:
        """Return how long a step of that frame is expected to take; None if not known yet."""
        model = self._accounts[camera].model
        return round(model.predict(work) * _NS_PER_S) if model.known else None

    def spent(self, camera: str, need: float, step: Spent) -> None:
        """Learn what that frame cost.

        Nothing is learnt of frames that warm up: the first take many times as long as others.

        Args:
            camera: whose frame it was.
            need: how much there was to compute in it, see `Sharing.note`.
            step: what it cost.

        """
        if camera != WARM_UP_CAMERA:
            self._accounts[camera].spent(step)
            self._sharing.note(camera, need)
