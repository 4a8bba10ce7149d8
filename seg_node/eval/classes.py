"""Whether data have the classes of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.core.types import DataError

if TYPE_CHECKING:
    from seg_node.core.types import ClassInfo
    from seg_node.data.sources import Source


def check_classes(source: Source, classes: tuple[ClassInfo, ...]) -> None:
    """Refuse data whose classes are not those of the model.

    Data that do not say what their labels mean pass; their labels are only checked to be in
    range.

    Raises:
        DataError: number or names of the classes differ; letter case does not count.

    """
    theirs = source.classes
    if not theirs:
        return
    if len(theirs) != len(classes):
        msg = (
            f"{source.spec} has {len(theirs)} classes, the model has {len(classes)}: choose a "
            "--model that was trained on these classes"
        )
        raise DataError(msg)
    for index, (theirs_, ours) in enumerate(zip(theirs, classes, strict=True)):
        if theirs_.name.casefold() != ours.name.casefold():
            msg = (
                f"class {index} is {theirs_.name!r} in {source.spec} and {ours.name!r} in the "
                "model: choose a --model that was trained on these classes"
            )
            raise DataError(msg)
