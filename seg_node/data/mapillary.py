"""Mapillary Vistas, research edition (Neuhold et al., ICCV 2017), in its two releases.

    v1.x: {training,validation,testing}/images/*.jpg
          {training,validation}/labels/*.png                   config.json
    v2.0: {training,validation,testing}/images/*.jpg
          {training,validation}/{v1.2,v2.0}/labels/*.png       config_v1.2.json, config_v2.0.json

Labels are PNG files with a palette whose numbers are ids: places in the config's list `labels`.
Release v2.0 carries both label sets; v1.2 has 66 labels, v2.0 has 124. Labels that the config
marks `"evaluate": false` are void here, and the classes are the others, in the config's order.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from seg_node.core.types import ClassInfo, DataError, IGNORE_LABEL
from seg_node.data.label_files import LabelFormat
from seg_node.data.photos import photos
from seg_node.data.picture_set import PictureSet
from seg_node.data.pictures import list_pictures, read_file

if TYPE_CHECKING:
    from pathlib import Path

_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


class Mapillary(PictureSet):
    """One split of Mapillary Vistas."""

    def __init__(self, root: Path, split: str, version: str = "v1.2") -> None:
        """List the photos; they are read later.

        Args:
            root: the folder that holds `training/` and the config.
            split: `train`, `val` or `test`, or the folder's own name, such as `training`.
            version: which labels, `v1.2` or `v2.0`; the first release has v1.2 alone.

        Raises:
            DataError: the split is missing or empty, or the config is missing or damaged.

        """
        folder = root / _FOLDERS.get(split, split)
        versioned = root / f"config_{version}.json"
        first_release = version == "v1.2" and not versioned.exists()
        config = root / "config.json" if first_release else versioned
        labels = folder / "labels" if first_release else folder / version / "labels"
        images = list_pictures(folder / "images", ".jpg")
        files = ((x.stem, x, labels / f"{x.stem}.png") for x in images)
        listed = photos("mapillary", files, labelled=folder.name != "testing")
        kind = "mapillary" if version == "v1.2" else "mapillary2"
        super().__init__(f"{kind}:{root}", listed, *_read_config(config))


def _read_config(path: Path) -> tuple[tuple[ClassInfo, ...], LabelFormat]:
    """Return the classes and what the label files hold.

    Raises:
        DataError: the file is missing or is not a config of this data set.

    """
    data = read_file(path)
    values: dict[int, int] = {}
    classes: list[ClassInfo] = []
    try:
        for number, label in enumerate(json.loads(data)["labels"]):
            values[number] = len(classes) if label["evaluate"] else IGNORE_LABEL
            if label["evaluate"]:
                r, g, b = (int(x) for x in label["color"])
                classes.append(ClassInfo(str(label["readable"]), (r, g, b)))
    except (ValueError, LookupError, TypeError) as error:
        kind = type(error).__name__
        msg = f"{path} is not a config of Mapillary Vistas ({kind}: {error}): unpack it again"
        raise DataError(msg) from error
    return tuple(classes), LabelFormat(values=values)
