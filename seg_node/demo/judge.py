"""Decides whether a demo went well: enough masks came back, and none of them is empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seg_node.ros.recorded import RecordedMask

RETURN_SHARE = 0.9
"""Smallest share of the played frames that must come back as masks."""
TEXTURE = 8.0
"""Standard deviation of grey above which an image shows something, in 0..255."""


def mask_fault(image: NDArray[np.uint8], mask: RecordedMask, classes: int) -> str | None:
    """Return why a mask counts as empty, None if it does not.

    Empty is a mask without pixels, of another size or encoding than promised, with ids that are
    no class, or of a single class although the image has texture.

    Args:
        image: what was segmented, uint8 [H, W, 3].
        mask: what came back.
        classes: number of classes of the model.

    """
    height, width = image.shape[:2]
    if mask.encoding != "mono8":
        return f"encoding {mask.encoding!r} instead of mono8"
    labels = mask.labels()
    if labels.size == 0:
        return f"no pixels ({mask.width}x{mask.height})"
    if labels.shape != (height, width):
        return f"{mask.width}x{mask.height} for an image of {width}x{height}"
    found = np.unique(labels)
    if found[-1] >= classes:
        return f"id {found[-1]}, but the classes are 0..{classes - 1}"
    if found.size == 1 and float(image.mean(2).std()) > TEXTURE:
        return f"only class {found[0]}, although the image has texture"
    return None


def problems(played: int, returned: int, faults: Sequence[str], node_status: int) -> list[str]:
    """Return one sentence for everything that makes a demo fail; empty if it went well.

    Args:
        played: frames published.
        returned: frames that came back as masks.
        faults: one entry for every empty mask.
        node_status: exit status of the node.

    """
    found = []
    if played == 0:
        found.append("no frame was played")
    elif returned < RETURN_SHARE * played:
        found.append(
            f"only {returned} of {played} frames came back ({returned / played:.1%}, needed "
            f"{RETURN_SHARE:.0%}); play slower with --rate, or see what else the machine does"
        )
    if faults:
        found.append(f"{len(faults)} empty masks, first: {faults[0]}")
    if node_status:
        found.append(f"the node ended with exit status {node_status} after SIGINT, expected 0")
    return found
