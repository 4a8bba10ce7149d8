"""Whether data, teachers and starts speak of the same classes: names and order, not colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.core.types import CAMVID_CLASSES, ConfigError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seg_node.core.types import ClassInfo
    from seg_node.nets.manifest import Manifest


def same_classes(one: Sequence[ClassInfo], other: Sequence[ClassInfo]) -> bool:
    """Return whether two lists name the same classes in the same order."""
    return [c.name for c in one] == [c.name for c in other]


def describe(classes: Sequence[ClassInfo]) -> str:
    """Return how many classes there are and what they are called."""
    return f"{len(classes)} ({', '.join(c.name for c in classes)})"


def refuse_other_classes(manifest: Manifest, classes: Sequence[ClassInfo]) -> None:
    """Raise ModelError if a model knows other classes than the data."""
    if not same_classes(manifest.classes, classes):
        told = f"{describe(manifest.classes)}, the data have {describe(classes)}"
        msg = f"model {manifest.name} has {told}; train the model for them first"
        raise ModelError(msg)


def refuse_street(classes: Sequence[ClassInfo]) -> None:
    """Raise ConfigError if the data have other classes than the street's, which are CamVid's."""
    if not same_classes(classes, CAMVID_CLASSES):
        told = describe(classes)
        msg = f"the street has CamVid's classes, the data {told}: use --street-share 0"
        raise ConfigError(msg)
