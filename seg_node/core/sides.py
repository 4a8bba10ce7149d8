"""How large the blocks of a plan are where `block_size` does not say it."""

from __future__ import annotations

LARGEST = 512
"""Largest side of a block, in pixels."""
USUAL = 128
"""Side of a block in pixels: the larger blocks are, the less of them is next to what is old
(docs/adaptive.md)."""

SIDES = {"segblocks": 64}
"""Modes of another side, on which their policies were trained."""

IN_PROPORTION = {"stmg": 3}
"""Modes whose blocks grow with the image: about so many fit into its shorter side. `stmg` computes
them as rectangles, which must be large to run fast (docs/gates.md)."""
STEP = 64
"""Such sides are multiples of it, in pixels."""


def side_for(mode: str, size: tuple[int, int]) -> int:
    """Return the side of a block, in pixels, that suits a mode.

    Args:
        mode: a mode of `Config`.
        size: height and width of the image, in pixels, as the network sees it.

    """
    if mode not in IN_PROPORTION:
        return SIDES.get(mode, USUAL)
    wide = IN_PROPORTION[mode] * STEP
    return min(max(USUAL, (min(size) + wide // 2) // wide * STEP), LARGEST)
