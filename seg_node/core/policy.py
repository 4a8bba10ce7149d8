"""Policies choose the action of every block; execution does not know who chose.

Those that look at one frame rank its blocks by a score (`core/scores.py`); those that remember
earlier frames decide when a frame is computed in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import auto, Enum
from typing import Protocol, TYPE_CHECKING

import numpy as np

from seg_node.core.blocks import grid_shape, quantise
from seg_node.core.types import Action, Plan, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.config import Config
    from seg_node.core.scores import BlockScore
    from seg_node.core.types import StepReport


class Remembers(Enum):
    """What is kept of earlier frames."""

    NOTHING = auto()
    FRAME = auto()
    """The newest frame that was computed in full."""
    BLOCKS = auto()
    """The newest computation of each block, in the frame where it was computed."""
    GATED = auto()
    """The newest computation of each block by each gated module of the network."""


@dataclass(frozen=True)
class BlockPast:
    """What a policy may know of each block, float [gh, gw] each.

    Attributes:
        distortion: how far the present image is off from that in which the content was computed:
            of the colour that changed most, 0..255, the mean over the pixels.
        doubt: how uncertain the remembered result is, 0..1: 1 - the probability of its class.
        risk: mean over the pixels of distortion times doubt: much where the same pixels changed
            that are uncertain.
        age_ms: mean time since the content was computed.
        oldest_ms: the most of any pixel.
        interval_ms: time since the frame before, one number.

    """

    distortion: NDArray[np.floating]
    doubt: NDArray[np.floating]
    risk: NDArray[np.floating]
    age_ms: NDArray[np.floating]
    oldest_ms: NDArray[np.floating]
    interval_ms: float


@dataclass(frozen=True)
class GatePast:
    """What a policy may know of what each gated stage left in each block.

    Attributes:
        distortion: mean absolute difference, in grey levels 0..255, of the present image from
            that in which the content was computed, float [G, gh, gw].
        oldest_ms: the longest time since a pixel was computed, float [G, gh, gw].
        doubt: how uncertain the result of the frame before is, 0..1: 1 - the probability of its
            class, float [gh, gw].

    """

    distortion: NDArray[np.floating]
    oldest_ms: NDArray[np.floating]
    doubt: NDArray[np.floating]


@dataclass(frozen=True)
class Past:
    """What a policy may know of earlier frames.

    Attributes:
        lost: why nothing of them can be used; None if it can.
        frames: frames since the newest full computation, this one included: 1 right after it.
        blocks: what is known of each block, where blocks are remembered.
        camera: name of the camera.
        gates: what is known of each gated stage, where these are remembered.

    """

    lost: Reason | None = Reason.FIRST
    frames: int = 0
    blocks: BlockPast | None = None
    camera: str = ""
    gates: GatePast | None = None


NOTHING = Past()
"""The past of a policy that does not remember."""


class BlockPolicy(Protocol):
    """Chooses a plan for a frame.

    Attributes:
        remembers: what of earlier frames plans reuse.

    """

    remembers: Remembers

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return the plan of one frame.

        Args:
            image: RGB 0..255, uint8 [1, 3, H, W], as the network will see it.
            config: settings in force; the grid covers the image in blocks of `block_size`.
            past: what is remembered; `NOTHING` where the policy does not remember.

        """
        ...

    def learn(self, camera: str, plan: Plan, report: StepReport, interval_ns: int) -> None:
        """Take note of what the newest frame of a camera cost.

        Args:
            camera: its name, as `past` said it.
            plan: of the frame.
            report: its cost.
            interval_ns: time from the end of the step before to the end of this one; of frames
                that were computed together, the same part of it for each.

        """
        ...

    def macs(self, size: tuple[int, int], side: int) -> int:
        """Return the MACs of deciding for an image of a size (H, W) in blocks of a side."""
        ...


class _Unmoved:
    """A choice that cost does not change."""

    def learn(self, camera: str, plan: Plan, report: StepReport, interval_ns: int) -> None:
        """Forget it."""


class _Free(_Unmoved):
    """A choice without convolutions."""

    def macs(self, size: tuple[int, int], side: int) -> int:  # noqa: ARG002 - the same for all
        """Return 0: convolutions and matrix products count, and there are none."""
        return 0


class AllHigh(_Free):
    """Computes every block at full resolution: mode `dense`."""

    remembers = Remembers.NOTHING

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:  # noqa: ARG002 - there is no choice
        """Return a grid of HIGH."""
        return Plan(filled(image, config, Action.HIGH), Reason.DENSE)


class AllLow(_Free):
    """Computes every block at half resolution.

    Args:
        reason: why.

    """

    remembers = Remembers.NOTHING

    def __init__(self, reason: Reason = Reason.BLOCKS) -> None:
        """Take the reason."""
        self.reason = reason

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:  # noqa: ARG002 - there is no choice
        """Return a grid of LOW."""
        return Plan(filled(image, config, Action.LOW), self.reason)


class Interval(_Free):
    """Computes every `keyframe_interval`-th frame in full and the frames between in another way.

    With REUSE it is mode `warp`, with LOW it is mode `arseg` (papers.md section 2).

    Args:
        between: action of all blocks of the frames between.

    """

    remembers = Remembers.FRAME

    def __init__(self, between: Action) -> None:
        """Take the action."""
        self.between = between

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return a grid of HIGH, or of the action between."""
        reason = past.lost
        if reason is None and past.frames >= config.keyframe_interval:
            reason = Reason.INTERVAL
        if reason is not None:
            return Plan(filled(image, config, Action.HIGH), reason)
        moved = self.between is Action.REUSE
        reason = Reason.MOVED if moved else Reason.SHARPENED
        return Plan(filled(image, config, self.between), reason)


UNTRAINED: Mapping[str, BlockPolicy] = {"dense": AllHigh(), "warp": Interval(Action.REUSE)}
"""Policies, by mode, that any network can run."""


class Ranked(_Unmoved):
    """Gives full resolution to the blocks with the highest scores and half to the others.

    The share `policy.high_fraction` is exact in every frame (up to quantising, which adds
    blocks): so the cost of a frame is known before it is computed, and an operator who asks for a
    share gets it from the next frame on.

    Args:
        score: ranks the blocks.

    """

    remembers = Remembers.NOTHING

    def __init__(self, score: BlockScore) -> None:
        """Take the score."""
        self.score = score

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:  # noqa: ARG002 - only this frame counts
        """Return a grid of HIGH and LOW."""
        scores = self.score(image, config.block_side((image.shape[-2], image.shape[-1])))
        count = round(config.policy.high_fraction * scores.size)
        wanted = np.zeros(scores.shape, np.bool_)
        wanted.flat[np.argsort(-scores, axis=None, kind="stable")[:count]] = True
        high = quantise(wanted, scores)
        return Plan(np.where(high, Action.HIGH, Action.LOW).astype(np.uint8), Reason.BLOCKS)

    def macs(self, size: tuple[int, int], side: int) -> int:
        """Return the MACs of the score."""
        return self.score.macs(size, side)


def filled(image: Tensor, config: Config, action: Action) -> NDArray[np.uint8]:
    """Return a grid of one action."""
    return np.full(grid_of(image, config), action, np.uint8)


def grid_of(image: Tensor, config: Config) -> tuple[int, int]:
    """Return how many blocks (gh, gw) cover an image [1, 3, H, W]."""
    height, width = image.shape[-2:]
    return grid_shape(height, width, config.block_side((height, width)))
