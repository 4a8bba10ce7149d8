"""Policies choose the action of every block; execution does not know who chose."""

from __future__ import annotations

from typing import Protocol, TYPE_CHECKING

import numpy as np

from seg_node.core.types import Action, Plan, Reason

if TYPE_CHECKING:
    from seg_node.core.types import Frame


class BlockPolicy(Protocol):
    """Chooses a plan for a frame."""

    def plan(self, frame: Frame, grid_shape: tuple[int, int]) -> Plan:
        """Return the plan of one frame; its grid has the shape (gh, gw)."""
        ...


class AllHigh:
    """Computes every block at full resolution: mode `dense`."""

    def plan(self, frame: Frame, grid_shape: tuple[int, int]) -> Plan:  # noqa: ARG002 - the same for every frame
        """Return a grid of HIGH."""
        return Plan(np.full(grid_shape, Action.HIGH, np.uint8), Reason.DENSE)
