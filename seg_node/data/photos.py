"""Data sets of road photos that do not follow each other: BDD100K, ACDC, Mapillary Vistas.

Their stamps are ten seconds apart, so that nothing is reused from one photo to the next. The
labels of the test splits are withheld: those photos come without any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.data.picture_set import PHOTO_STEP_NS, Picture

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def photos(
    camera: str, files: Iterable[tuple[str, Path, Path]], *, labelled: bool
) -> list[Picture]:
    """Return photos in the order given.

    Args:
        camera: name that they share.
        files: name, picture and label file of each.
        labelled: whether the data set gives labels for this split.

    """
    return [
        Picture(name, image, labels if labelled else None, index * PHOTO_STEP_NS, camera)
        for index, (name, image, labels) in enumerate(files)
    ]
