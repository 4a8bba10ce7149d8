"""BDD100K's 10K subset with semantic masks (Yu et al., CVPR 2020), the 19 Cityscapes classes.

Layout of the packages `bdd100k_images_10k` and `bdd100k_sem_seg_labels` (2020 and later):

    images/10k/<split>/<name>.jpg
    labels/sem_seg/masks/<split>/<name>.png    train ids, 255 = void
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.data.cityscapes import CITYSCAPES_CLASSES, TRAIN_IDS
from seg_node.data.photos import photos
from seg_node.data.picture_set import PictureSet
from seg_node.data.pictures import list_pictures

if TYPE_CHECKING:
    from pathlib import Path


class Bdd100k(PictureSet):
    """One split of BDD100K."""

    def __init__(self, root: Path, split: str) -> None:
        """List the photos; they are read later.

        Args:
            root: the folder that holds `images/` and `labels/`.
            split: `train`, `val` or `test`.

        Raises:
            DataError: the split is missing or empty.

        """
        masks = root / "labels" / "sem_seg" / "masks" / split
        images = list_pictures(root / "images" / "10k" / split, ".jpg")
        files = ((x.stem, x, masks / f"{x.stem}.png") for x in images)
        listed = photos("bdd100k", files, labelled=split != "test")
        super().__init__(f"bdd100k:{root}", listed, CITYSCAPES_CLASSES, TRAIN_IDS)
