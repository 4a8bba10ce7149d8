"""Gates: which modules of a network are computed where, by how much the image changed.

Those of one stage, that run one after the other and have the same stride, share a gate.
"""

from __future__ import annotations

from typing import Protocol, TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.blocks import grid_shape
from seg_node.core.costs import MacCounter
from seg_node.core.gated_modules import stages_of
from seg_node.core.policy import grid_of, NOTHING, Remembers
from seg_node.core.types import Action, ConfigError, Plan, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn, Tensor

    from seg_node.core.config import Config
    from seg_node.core.gated_modules import GatedModule
    from seg_node.core.policy import GatePast, Past
    from seg_node.core.types import StepReport

TOLERANCE = 0.8
"""Distortion x doubt at which an untrained gate is undecided, in grey levels; in all stages.

At a threshold of 0.5 they save 50 to 58 % of the MACs on CamVid. More tolerance of late stages
agrees less with dense at equal MACs (benchmarks/results/gates_curve_swiftnet18-half.json).
"""

DOUBT_FLOOR = 0.02
"""Added to doubt, 0..1: what the network was certain of may be wrong, too."""

WHOLE = 0.75
"""Where more of the bins than this are kept, all are: bins, with what lies around them, would
cost as much as the whole."""

_GOLDEN = 0.6180339887498949


class GateScore(Protocol):
    """Says for each stage and bin how much it is worth computing."""

    def __call__(self, past: GatePast, config: Config) -> NDArray[np.floating]:
        """Return scores 0..1, float [G, gh, gw]; more distortion never scores less."""
        ...

    def macs(self, grid: tuple[int, int]) -> int:
        """Return the MACs of scoring a grid (gh, gw)."""
        ...


class DistortionGate:
    """Scores by distortion x doubt: 0.5 at `TOLERANCE`; needs no training.

    Their product ranks bins far more like the harm of reuse than distortion alone does
    (benchmarks/results/gate_distortion.json).

    Args:
        tolerance: see `TOLERANCE`; one for each stage, [G, 1, 1], or one for all.

    """

    def __init__(self, tolerance: float | NDArray[np.floating] = TOLERANCE) -> None:
        """Set what each stage stands."""
        self._tolerance = tolerance

    def __call__(self, past: GatePast, config: Config) -> NDArray[np.floating]:  # noqa: ARG002 - it has no other input
        """Return scores 0..1, float [G, gh, gw]."""
        harm = past.distortion * (past.doubt + DOUBT_FLOOR)
        scores: NDArray[np.floating] = harm / (harm + self._tolerance)
        return scores

    def macs(self, grid: tuple[int, int]) -> int:  # noqa: ARG002 - the same for all
        """Return 0: convolutions and matrix products count, and there are none."""
        return 0


class LearnedGate:
    """Scores by a learned network, trained so that about a share `gate.threshold` is dropped.

    Args:
        net: maps distortion [N, G, gh, gw] and doubt [N, 1, gh, gw] to logits [N, G, gh, gw];
            `seg_node.nets.decision.GateNet`.
        gates: number of stages G.

    """

    def __init__(self, net: nn.Module, gates: int) -> None:
        """Take the network."""
        self._net, self._gates = net, gates
        self._macs: dict[tuple[int, int], int] = {}

    def __call__(self, past: GatePast, config: Config) -> NDArray[np.floating]:  # noqa: ARG002 - the threshold is not its business
        """Return scores 0..1, float [G, gh, gw]."""
        distortion, doubt = (
            torch.from_numpy(x).float()[None] for x in (past.distortion, past.doubt[None])
        )
        with torch.inference_mode():
            logits: Tensor = self._net(distortion, doubt)
        scores: NDArray[np.floating] = torch.sigmoid(logits[0]).double().numpy()
        return scores

    def macs(self, grid: tuple[int, int]) -> int:
        """Return the MACs of scoring a grid (gh, gw)."""
        if grid not in self._macs:
            with torch.inference_mode(), MacCounter() as counter:
                self._net(torch.zeros(1, self._gates, *grid), torch.zeros(1, 1, *grid))
            self._macs[grid] = counter.macs
        return self._macs[grid]


class Gated:
    """Computes modules where their gates score `gate.threshold` or more: mode `stmg`.

    Also where they are due by age: `max_age_ms`, or up to half of that less, another share in
    every bin, so that bins that were computed together do not come due together.

    Args:
        blocks: what may be gated, in the order in which it runs; see
            `seg_node.core.residual.find_gated_modules`.
        score: scores them; by distortion x doubt, untrained, if None.

    Raises:
        ConfigError: there is nothing to gate.

    """

    remembers = Remembers.GATED

    def __init__(self, blocks: Sequence[GatedModule], score: GateScore | None = None) -> None:
        """Take the blocks."""
        if not blocks:
            msg = "the network has no residual block that can be gated; use another mode"
            raise ConfigError(msg)
        self.blocks, self._gates = blocks, len(stages_of(blocks))
        self.score = score or DistortionGate()
        self._scored = False

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return which modules are computed where.

        The grid says HIGH where at least half of them are, elsewhere REUSE.
        """
        grid = grid_of(image, config)
        self._scored = past.gates is not None and config.gate.threshold > 0
        if past.lost is not None or past.gates is None:
            kept = np.ones((self._gates, *grid), np.bool_)
            return Plan(_grid(kept), past.lost or Reason.FIRST, gates=kept)
        kept = np.ones(past.gates.distortion.shape, np.bool_)
        if self._scored:
            kept = self.score(past.gates, config) >= config.gate.threshold
        kept |= past.gates.oldest_ms > config.max_age_ms * _patience(grid)
        kept[kept.mean((1, 2)) > WHOLE] = True
        distortion = float(past.gates.distortion.mean())
        return Plan(_grid(kept), Reason.GATED, distortion=distortion, gates=kept)

    def learn(self, camera: str, plan: Plan, report: StepReport, interval_ns: int) -> None:
        """Forget it: cost does not change the choice."""

    def macs(self, size: tuple[int, int], side: int) -> int:
        """Return the MACs of the scores of the newest plan; 0 if it needed none."""
        return self.score.macs(grid_shape(*size, side)) if self._scored else 0


def _grid(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return `Action` by bin."""
    return np.where(kept.mean(0) >= 0.5, Action.HIGH, Action.REUSE).astype(np.uint8)  # noqa: PLR2004 - half


def _patience(grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return after which part of the allowed age each bin is due, 0.5..1, [gh, gw].

    Due is one by what it would be in the present frame, so none gets older than allowed.
    """
    number = np.arange(1, 1 + grid[0] * grid[1])
    return (1 - number * _GOLDEN % 1 / 2).reshape(grid)
