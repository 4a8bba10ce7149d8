"""Named data, the one place that knows all kinds: `camvid:DIR`, `bag:DIR`, `street:SEED` ...

Every source is a sequence of samples in time order, with labels where the data has them. What a
source cannot deliver is not silent: `skipped` counts it by reason, `shortfall` says what was
promised and did not come, `check` looks before a long run. docs/datasets.md has the layouts.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.data.acdc import Acdc
from seg_node.data.bag_clip import BagClip
from seg_node.data.bdd100k import Bdd100k
from seg_node.data.camvid import CamVid
from seg_node.data.cityscapes import Cityscapes
from seg_node.data.clips import StreetClip, VideoFile
from seg_node.data.folder import Folder
from seg_node.data.mapillary import Mapillary
from seg_node.data.sources import (
    check,
    Clip,
    estimate_rate,
    FrameRef,
    Indexed,
    Sample,
    Source,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "SOURCE_KINDS",
    "BagClip",
    "CamVid",
    "Clip",
    "Folder",
    "FrameRef",
    "Indexed",
    "Sample",
    "Source",
    "StreetClip",
    "check",
    "estimate_rate",
    "guess_spec",
    "open_source",
]

SOURCE_KINDS = (
    "camvid:DIR",
    "camvid12:DIR",
    "cityscapes:DIR",
    "mapillary:DIR",
    "mapillary2:DIR",
    "bdd100k:DIR",
    "acdc:DIR",
    "folder:DIR",
    "video:FILE",
    "bag:DIR",
    "street:SEED",
)
BAG_SUFFIXES = frozenset({".mcap", ".db3", ".zstd"})
_SPLIT_SETS: dict[str, Callable[[Path, str], Source]] = {
    "camvid": CamVid,
    "camvid12": partial(CamVid, score_void=True),
    "cityscapes": Cityscapes,
    "mapillary": Mapillary,
    "mapillary2": partial(Mapillary, version="v2.0"),
    "bdd100k": Bdd100k,
    "acdc": Acdc,
    "folder": Folder,
}


def open_source(
    spec: str, *, split: str = "val", topic: str | None = None, mask_topic: str | None = None
) -> Source:
    """Open named data.

    Args:
        spec: one of `SOURCE_KINDS`.
        split: split of a data set that has splits.
        topic: image topic of a bag; None where the bag has only one.
        mask_topic: topic of a bag with the masks of these images; None for no labels.

    Raises:
        DataError: unknown kind, the data cannot be opened, or a topic of what has no topics.

    """
    kind, colon, rest = spec.partition(":")
    for name in (topic, mask_topic):
        if name is not None and kind != "bag":
            msg = f"{spec} has no topics: leave topic {name!r} out, or name a bag as bag:DIR"
            raise DataError(msg)
    try:
        if colon and rest and kind == "bag":
            return BagClip(Path(rest), topic, mask_topic)
        if colon and rest and kind == "video":
            return VideoFile(Path(rest))
        if colon and rest and kind in _SPLIT_SETS:
            return _SPLIT_SETS[kind](Path(rest), split)
    except OSError as error:
        # `is_dir` and its like raise where a folder may not be looked into.
        msg = f"cannot open {spec}: {error.strerror} ({error.filename})"
        raise DataError(msg) from error
    if colon and kind == "street" and rest.isdigit():
        return StreetClip(int(rest))
    msg = f"cannot open data {spec!r}; name it as one of {', '.join(SOURCE_KINDS)}"
    raise DataError(msg)


def guess_spec(source: str) -> str:
    """Return the named form of what a user typed: a bag, a folder, a video, or already named.

    Raises:
        DataError: the path does not exist.

    """
    if source.partition(":")[0] in {kind.partition(":")[0] for kind in SOURCE_KINDS}:
        return source
    path = Path(source)
    if not path.exists():
        msg = f"{source!r} does not exist; name a file, a folder, or {', '.join(SOURCE_KINDS)}"
        raise DataError(msg)
    if (path / "metadata.yaml").exists() or path.suffix in BAG_SUFFIXES:
        return f"bag:{source}"
    if path.is_dir():
        stored = any(x.suffix in BAG_SUFFIXES for x in path.iterdir())
        return f"bag:{source}" if stored else f"folder:{source}"
    return f"video:{source}"
