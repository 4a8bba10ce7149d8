"""Pictures of a frame for the page and the contact sheet: the mask, and what it was made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seg_node.core.drawing import (
    color_table,
    contact_sheet,
    legend,
    overlay,
    side_by_side,
    to_width,
)
from seg_node.core.plan_drawing import draw_age, draw_plan, picture_width
from seg_node.core.types import Plan, Reason
from seg_node.eval.outputs import letterbox
from seg_node.eval.results import DENSE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from seg_node.core.config import Config
    from seg_node.core.types import ClassInfo
    from seg_node.ros.recorded import RecordedStatus

Views = dict[str, "NDArray[np.uint8]"]
"""RGB pictures of one frame by what they show, in order."""

VIEW_WIDTH = 640
"""Widest picture of a frame, in pixels."""
SHEET_CELL = 640
"""Width of a contact sheet's pictures where a frame has two of them, in pixels."""


def made_plan(grid: NDArray[np.uint8] | None, status: RecordedStatus | None) -> Plan | None:
    """Return the plan of a frame from what the node said of it; None where a part was lost."""
    if grid is None or status is None:
        return None
    return Plan(grid, Reason(status.values["reason"]))


def make_views(  # noqa: PLR0913, PLR0917 - all that is known of a frame
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    plan: Plan | None,
    age_ms: NDArray[np.uint16] | None,
    classes: Sequence[ClassInfo],
    config: Config,
) -> Views:
    """Return the pictures of a frame, all of one width.

    In mode dense these are image and mask, in all others mask, plan and age, each with its legend.

    Args:
        image: RGB, uint8 [H, W, 3].
        labels: class ids, uint8 [H, W].
        plan: what was computed, None if not known.
        age_ms: age of each block, uint16 [gh, gw], None if not known.
        classes: classes of the labels.
        config: settings of the node.

    Raises:
        DataError: plan or ages do not cover the image.

    """
    width = picture_width(image.shape[1], VIEW_WIDTH)
    mask = overlay(image, labels, color_table(classes), config.publish.overlay_opacity)
    if config.mode == DENSE:
        return {"image": to_width(image, width), "mask": to_width(mask, width)}
    side = config.shown_side(image)
    views = {"mask": np.vstack([to_width(mask, width), legend(classes, width)])}
    if plan is not None:
        views["plan"] = draw_plan(image, plan, side, width=width)
    if age_ms is not None:
        views["age"] = draw_age(image, age_ms, config.max_age_ms, side, width=width)
    return views


def make_sheet(
    frames: Sequence[Mapping[str, NDArray[np.uint8]]], classes: Sequence[ClassInfo]
) -> NDArray[np.uint8]:
    """Return the pictures of some frames: those of a frame in a row, each row as the first."""
    rows = [side_by_side(list(views.values())) for views in frames]
    first = rows[0].shape
    rows = [letterbox(row, (first[0], first[1])) for row in rows]
    if any("plan" in views or "age" in views for views in frames):
        return contact_sheet(rows, 1, 2 * SHEET_CELL)
    sheet = contact_sheet(rows, 2, SHEET_CELL)
    return np.asarray(np.vstack([sheet, legend(classes, sheet.shape[1])]), np.uint8)
