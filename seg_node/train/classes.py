"""Whether data, teachers and starts speak of the same classes: names and order, not colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seg_node.core.types import ClassInfo


def same_classes(one: Sequence[ClassInfo], other: Sequence[ClassInfo]) -> bool:
    """Return whether two lists name the same classes in the same order."""
    return [c.name for c in one] == [c.name for c in other]


def describe(classes: Sequence[ClassInfo]) -> str:
    """Return how many classes there are and what they are called."""
    return f"{len(classes)} ({', '.join(c.name for c in classes)})"
