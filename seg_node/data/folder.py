"""A user's own pictures: `folder:DIR`, with labels where the folder has them.

Layouts, told apart by their folders:

    DIR/*.jpg                                     pictures alone
    DIR/images/*.jpg   DIR/labels/<stem>.png      one set; `train.txt`, `val.txt` may split it
    DIR/images/<split>/   DIR/labels/<split>/     sets by split
    DIR/<split>/images/   DIR/<split>/labels/     the same, the other way round

A list has one picture a line, with or without its suffix. A class file in DIR (`class_files`)
names the classes; without one they are the 11 CamVid classes, as greyscale ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_node.core.types import CAMVID_CLASSES, DataError
from seg_node.data.class_files import ClassFile, find_class_file
from seg_node.data.label_files import ids
from seg_node.data.picture_set import Picture, PictureSet
from seg_node.data.pictures import list_pictures, read_file, read_image
from seg_node.data.sources import ASSUMED_RATE_HZ, Clip, count_skip, cut_clips

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from seg_node.data.sources import Sample

SPLITS = ("train", "val", "test")
"""Names of lists and sub-folders that split a folder."""


class Folder(PictureSet):
    """Pictures of one folder in name order, at an assumed 10 Hz.

    Iterating skips and counts a picture that cannot be read; a label file that cannot be used is
    an error. A picture without a label file is an unlabelled sample, but a problem for `check`.
    """

    def __init__(self, root: Path, split: str = "val") -> None:
        """List the pictures; they are read later.

        Args:
            root: the folder.
            split: which split of a folder that has splits; of no matter to others.

        Raises:
            DataError: the folder is missing or holds no picture, the split is missing, a label
                belongs to no picture, or the class file cannot be used.

        """
        images, self._label_folder = _folders(root, split)
        stamps_ns = {
            path: round(index * 1e9 / ASSUMED_RATE_HZ)
            for index, path in enumerate(list_pictures(images))
        }
        labels = _labels_of(self._label_folder, _by_stem(tuple(stamps_ns)))
        pictures = [
            Picture(path.stem, path, labels.get(path.stem), stamps_ns[path], images.name)
            for path in _listed(root, split, tuple(stamps_ns))
        ]
        known = find_class_file(root) or ClassFile(CAMVID_CLASSES, ids(len(CAMVID_CLASSES)))
        classes = known.classes if self._label_folder else ()
        super().__init__(f"folder:{root}", pictures, classes, known.labels)

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield every `stride`-th picture in name order.

        Raises:
            DataError: a label file cannot be used; the text names it.

        """
        self.skipped.clear()
        for picture in self.pictures[::stride]:
            try:
                image = read_image(picture.image)
            except DataError as error:
                count_skip(self.skipped, str(error))
                continue
            yield self.with_labels(picture, image)

    def clips(self) -> tuple[Clip, ...]:
        """Return the pictures as clips of 10 Hz, cut where a list leaves some out."""
        return cut_clips(self.frames(), ASSUMED_RATE_HZ)

    def problems(self, *, full: bool = False) -> Iterator[str]:
        """Yield what is wrong with the files; also pictures without labels among labelled ones."""
        for picture in self.pictures:
            if self._label_folder and picture.labels is None:
                yield (
                    f"{picture.image} has no label file {self._label_folder / picture.name}.png: "
                    "add it (all 255 where nothing is to be learnt), or take the picture out"
                )
        yield from super().problems(full=full)


def _folders(root: Path, split: str) -> tuple[Path, Path | None]:
    """Return the folder of the pictures and, where there is one, that of the labels."""
    inner = root / "images"
    outside = [x for x in SPLITS if (root / x / "images").is_dir()]
    inside = [x for x in SPLITS if (inner / x).is_dir()]
    have = outside or inside
    if have and split not in have:
        msg = f"{root} has no split {split!r}; splits there: {have}"
        raise DataError(msg)
    if outside:
        images, labels = root / split / "images", root / split / "labels"
    elif inside:
        images, labels = inner / split, root / "labels" / split
    elif inner.is_dir():
        images, labels = inner, root / "labels"
    else:
        return root, None
    return images, labels if labels.is_dir() else None


def _by_stem(paths: tuple[Path, ...]) -> dict[str, Path]:
    """Return stem -> file.

    Raises:
        DataError: two files share a stem.

    """
    found: dict[str, Path] = {}
    for path in paths:
        if found.setdefault(path.stem, path) != path:
            msg = f"{found[path.stem]} and {path.name} share a name: rename one"
            raise DataError(msg)
    return found


def _labels_of(folder: Path | None, pictures: dict[str, Path]) -> dict[str, Path]:
    """Return stem -> label file.

    Raises:
        DataError: the folder of the labels holds none, or one without a picture.

    """
    found = {path.stem: path for path in list_pictures(folder, ".png")} if folder else {}
    lonely = sorted(found.keys() - pictures.keys())
    if lonely:
        msg = f"{found[lonely[0]]} belongs to no picture: add its picture, rename or remove it"
        raise DataError(msg)
    return found


def _listed(root: Path, split: str, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the pictures of the split's list; all of them where nothing is listed.

    Raises:
        DataError: there are lists but not of this split, or a line names no picture.

    """
    have = [x for x in SPLITS if (root / f"{x}.txt").is_file()]
    if not have:
        return paths
    if split not in have:
        msg = f"{root} has no split {split!r}; lists there: {[f'{x}.txt' for x in have]}"
        raise DataError(msg)
    listing = root / f"{split}.txt"
    by_name = {path.stem: path for path in paths} | {path.name: path for path in paths}
    names = [x.strip() for x in read_file(listing).decode().splitlines() if x.strip()]
    missing = [name for name in names if name not in by_name]
    if missing or not names:
        what = f"lists {missing[0]!r}, which is no picture there" if missing else "is empty"
        msg = f"{listing} {what}: name one picture a line"
        raise DataError(msg)
    return tuple(by_name[name] for name in names)
