"""ACDC, roads in fog, night, rain and snow (Sakaridis et al., ICCV 2021), 19 classes.

Layout of the packages `rgb_anon_trainvaltest` and `gt_trainval`:

    rgb_anon/<condition>/<split>/<recording>/<name>_rgb_anon.png
    gt/<condition>/<split>/<recording>/<name>_gt_labelTrainIds.png

The folders `<split>_ref` show the same places in good weather, on another day: they are neither
labelled samples nor neighbouring frames, and are left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.data.cityscapes import CITYSCAPES_CLASSES, TRAIN_IDS
from seg_node.data.photos import photos
from seg_node.data.picture_set import PictureSet
from seg_node.data.pictures import list_folders, list_pictures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ENDING = "_rgb_anon.png"


class Acdc(PictureSet):
    """One split of ACDC, all conditions that are there."""

    def __init__(self, root: Path, split: str) -> None:
        """List the photos; they are read later.

        Args:
            root: the folder that holds `rgb_anon/` and `gt/`.
            split: `train`, `val` or `test`.

        Raises:
            DataError: the split is missing or empty.

        """
        listed = photos("acdc", _files(root, split), labelled=split != "test")
        super().__init__(f"acdc:{root}", listed, CITYSCAPES_CLASSES, TRAIN_IDS)


def _files(root: Path, split: str) -> Iterator[tuple[str, Path, Path]]:
    conditions = [x / split for x in list_folders(root / "rgb_anon") if (x / split).is_dir()]
    if not conditions:
        msg = f"{root / 'rgb_anon'} has no condition with the split {split!r}"
        raise DataError(msg)
    for folder in conditions:
        for recording in list_folders(folder):
            gt = root / "gt" / recording.relative_to(root / "rgb_anon")
            for image in list_pictures(recording, _ENDING):
                name = image.name.removesuffix(_ENDING)
                yield name, image, gt / f"{name}_gt_labelTrainIds.png"
