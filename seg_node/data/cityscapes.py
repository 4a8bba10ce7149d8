"""Cityscapes (Cordts et al., CVPR 2016): fine labels, 19 classes, and 30-frame snippets.

Layout of the official packages `leftImg8bit_trainvaltest`, `gtFine_trainvaltest` and, for clips,
`leftImg8bit_sequence_trainvaltest`:

    leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelTrainIds.png (or _labelIds.png)
    leftImg8bit_sequence/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png

`_labelTrainIds.png` are made by the authors' `csCreateTrainIdLabelImgs`; where a city has none,
`_labelIds.png` are mapped the same way. Each labelled frame is the 20th (index 19) of a snippet
of 30 frames at 17 Hz. The labels of `test` are withheld: its frames come without any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.core.types import ClassInfo, DataError, IGNORE_LABEL
from seg_node.data.label_files import ids, LabelFormat
from seg_node.data.picture_set import Picture, PictureSet
from seg_node.data.pictures import list_folders, list_pictures
from seg_node.data.sources import Clip, cut_clips

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CITYSCAPES_CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("sidewalk", (244, 35, 232)),
    ClassInfo("building", (70, 70, 70)),
    ClassInfo("wall", (102, 102, 156)),
    ClassInfo("fence", (190, 153, 153)),
    ClassInfo("pole", (153, 153, 153)),
    ClassInfo("traffic light", (250, 170, 30)),
    ClassInfo("traffic sign", (220, 220, 0)),
    ClassInfo("vegetation", (107, 142, 35)),
    ClassInfo("terrain", (152, 251, 152)),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("person", (220, 20, 60)),
    ClassInfo("rider", (255, 0, 0)),
    ClassInfo("car", (0, 0, 142)),
    ClassInfo("truck", (0, 0, 70)),
    ClassInfo("bus", (0, 60, 100)),
    ClassInfo("train", (0, 80, 100)),
    ClassInfo("motorcycle", (0, 0, 230)),
    ClassInfo("bicycle", (119, 11, 32)),
)
"""The 19 classes that are scored, in the order of their train ids; BDD100K and ACDC share them."""
TRAIN_IDS = ids(len(CITYSCAPES_CLASSES))
CITYSCAPES_RATE_HZ = 17
SNIPPET_FRAMES = 30
LABELLED_INDEX = 19
"""Place of the labelled frame in its snippet, from 0."""

_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of each train id."""
_LABEL_ID_COUNT = 34
_ENDING = "_leftImg8bit.png"


class Cityscapes(PictureSet):
    """The labelled frames of one split of Cityscapes."""

    def __init__(self, root: Path, split: str) -> None:
        """List the frames; pictures are read later.

        Args:
            root: the folder that holds `leftImg8bit/` and `gtFine/`.
            split: `train`, `val` or `test`.

        Raises:
            DataError: the split is missing or empty, or a file has an unexpected name.

        """
        self.root, self.split = root, split
        pictures = [
            self._picture(image)
            for city in list_folders(root / "leftImg8bit" / split)
            for image in list_pictures(city, _ENDING)
        ]
        super().__init__(f"cityscapes:{root}", pictures, CITYSCAPES_CLASSES, TRAIN_IDS)

    def label_format(self, picture: Picture) -> LabelFormat:
        """Return what the label file of this picture holds."""
        if picture.labels is not None and picture.labels.name.endswith("_labelIds.png"):
            return _FROM_LABEL_IDS
        return self.labels

    def clips(self) -> tuple[Clip, ...]:
        """Return the snippet around each frame; none without `leftImg8bit_sequence/`.

        A snippet that lacks files is cut there.
        """
        if not self._sequences().is_dir():
            return ()
        return tuple(clip for x in self.pictures for clip in self._snippet(x))

    def problems(self, *, full: bool = False) -> Iterator[str]:
        """Yield what is wrong with the files; also snippets that lack frames."""
        yield from super().problems(full=full)
        if self._sequences().is_dir():
            for picture in self.pictures:
                found = sum(len(clip.frames) for clip in self._snippet(picture))
                if found < SNIPPET_FRAMES:
                    count = f"{found} of the {SNIPPET_FRAMES} frames around {picture.name}"
                    yield f"{self._sequences()} holds {count}: unpack the sequences again"

    def _sequences(self) -> Path:
        return self.root / "leftImg8bit_sequence" / self.split

    def _snippet(self, picture: Picture) -> tuple[Clip, ...]:
        city, sequence, number = _parse(picture.image)
        folder = self._sequences() / city
        frames = []
        for index in range(SNIPPET_FRAMES):
            frame = number - LABELLED_INDEX + index
            if frame == number:
                frames.append(self.refer(picture))
                continue
            path = folder / f"{city}_{sequence}_{frame:06d}{_ENDING}"
            if path.is_file():
                frames.append(self.refer(self._frame(path, None)))
        return cut_clips(frames, CITYSCAPES_RATE_HZ)

    def _picture(self, image: Path) -> Picture:
        if self.split == "test":
            return self._frame(image, None)
        folder = self.root / "gtFine" / self.split / image.parent.name
        base = image.name.removesuffix(_ENDING)
        labels = folder / f"{base}_gtFine_labelTrainIds.png"
        if not labels.exists():
            labels = folder / f"{base}_gtFine_labelIds.png"
        return self._frame(image, labels)

    def _frame(self, image: Path, labels: Path | None) -> Picture:
        city, sequence, number = _parse(image)
        stamp_ns = round(number * 1e9 / CITYSCAPES_RATE_HZ)
        name = image.name.removesuffix(_ENDING)
        return Picture(name, image, labels, stamp_ns, f"{city}_{sequence}")


_FROM_LABEL_IDS = LabelFormat(
    values={
        **dict.fromkeys(range(_LABEL_ID_COUNT), IGNORE_LABEL),
        **{label: train for train, label in enumerate(_LABEL_IDS)},
    }
)


def _parse(image: Path) -> tuple[str, str, int]:
    """Return city, sequence and frame number of a file's name."""
    parts = image.name.removesuffix(_ENDING).rsplit("_", 2)
    if len(parts) != 3 or not parts[2].isdecimal():  # noqa: PLR2004 - city, sequence, frame
        msg = f"{image} is not named <city>_<sequence>_<frame>{_ENDING}"
        raise DataError(msg)
    return parts[0], parts[1], int(parts[2])
