"""`seg_node label`: pseudo-labels for frames without labels, as a folder ready to train on.

Several models, scales and mirror images vote; pixels where they are unsure stay void. Look at
the pictures and mend the worst before training on them.
"""

from __future__ import annotations

from collections import Counter
import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.types import DataError, IGNORE_LABEL, ModelError
from seg_node.data.datasets import open_source
from seg_node.data.image_conversion import encode_jpeg, encode_png
from seg_node.nets.build import load_model
from seg_node.train.losses import resize_logits
from seg_node.train.pictures import frame_refs
from seg_node.train.teacher import SCALES, soft_labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from seg_node.core.types import ClassInfo
    from seg_node.data.sources import Sample

JPEG_QUALITY = 95


@dataclass(frozen=True)
class LabelRequest:
    """What to label, and how.

    Attributes:
        data: named data; their labels, if any, are not looked at.
        models: models that vote.
        out: folder to write; frames that are there already are kept.
        scales: resize factors of the images that vote.
        confidence: pixels of less mean probability than this (0..1) stay void.
        stride: only every `stride`-th frame.
        split: split of data that have splits.
        topic: image topic of a bag; None where it has only one.

    """

    data: str
    models: tuple[str, ...]
    out: Path
    scales: tuple[float, ...] = SCALES
    confidence: float = 0.7
    stride: int = 1
    split: str = "train"
    topic: str | None = None


@dataclass(frozen=True)
class LabelReport:
    """What was labelled.

    Attributes:
        frames: frames written by this call.
        kept: frames that were there already.
        shares: class name -> share of all pixels (0..1), `void` included.

    """

    frames: int
    kept: int
    shares: dict[str, float]


def label_data(
    request: LabelRequest, on_frame: Callable[[int], None] | None = None
) -> LabelReport:
    """Write `images/`, `labels/` and `classes.csv`, the layout that `folder:DIR` reads.

    Args:
        request: what to label.
        on_frame: called with the number of frames done, after each.

    Raises:
        DataError: the data cannot be read, or the folder holds other classes.
        ModelError: a model cannot be loaded, or the models know different classes.

    """
    models = [load_model(name) for name in request.models]
    classes = models[0].manifest.classes
    for model in models:
        if model.manifest.classes != classes:
            names = f"{models[0].manifest.name} and {model.manifest.name}"
            msg = f"{names} know different classes; label with models of one list"
            raise ModelError(msg)
    _write_classes(request.out, classes)
    topics = {"topic": request.topic} if request.data.startswith("bag:") else {}
    source = open_source(request.data, split=request.split, **topics)
    nets = [model.net for model in models]
    counts: Counter[int] = Counter()
    kept = written = 0
    for done, frame in enumerate(frame_refs(source, request.stride), 1):
        path = request.out / "labels" / f"{_stem(frame.name)}.png"
        if path.exists():
            kept += 1
        else:
            sample = frame.load()
            soft = soft_labels(nets, sample.frame.image, request.scales)
            labels = decide(soft, sample.frame.image.shape[:2], request.confidence)
            _write_frame(request.out, path.stem, sample, labels)
            counts.update(dict(zip(*np.unique(labels, return_counts=True), strict=True)))
            written += 1
        if on_frame:
            on_frame(done)
    if not kept + written:
        msg = f"{request.data} has no frame to label"
        raise DataError(msg)
    return LabelReport(written, kept, _shares(counts, classes))


def decide(soft: NDArray[np.uint8], size: tuple[int, ...], confidence: float) -> NDArray[np.uint8]:
    """Return the likeliest class per pixel, 255 where its probability is below `confidence`.

    Args:
        soft: probabilities times 255, uint8 [ceil(H/4), ceil(W/4), classes].
        size: (H, W) of the image.
        confidence: 0..1.

    """
    cells = torch.from_numpy(soft).permute(2, 0, 1)[None].float() / 255.0
    covered = (4 * soft.shape[0], 4 * soft.shape[1])
    full = resize_logits(cells, covered)[0, :, : size[0], : size[1]]
    best, labels = full.max(0)
    labels[best < confidence] = IGNORE_LABEL
    return np.asarray(labels.to(torch.uint8).numpy(), np.uint8)


def _stem(name: str) -> str:
    return name.replace("/", "_")


def _write_frame(out: Path, stem: str, sample: Sample, labels: NDArray[np.uint8]) -> None:
    """Write image and labels; the labels last, since their file says that a frame is done."""
    (out / "images").mkdir(exist_ok=True)
    (out / "labels").mkdir(exist_ok=True)
    picture = encode_jpeg(sample.frame.image, JPEG_QUALITY)
    (out / "images" / f"{stem}.jpg").write_bytes(picture)
    path = out / "labels" / f"{stem}.png"
    partial = path.with_suffix(".partial")
    partial.write_bytes(encode_png(labels))
    partial.replace(path)


def _write_classes(out: Path, classes: tuple[ClassInfo, ...]) -> None:
    rows = [["id", "name", "r", "g", "b"]]
    rows += [[str(i), c.name, *map(str, c.color)] for i, c in enumerate(classes)]
    path = out / "classes.csv"
    if path.exists():
        with path.open(newline="") as file:
            if list(csv.reader(file)) != rows:
                msg = f"{path} names other classes than the model; choose another --out"
                raise DataError(msg)
        return
    out.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _shares(counts: Counter[int], classes: tuple[ClassInfo, ...]) -> dict[str, float]:
    pixels = max(1, sum(counts.values()))
    shares = {c.name: counts[i] / pixels for i, c in enumerate(classes)}
    return {**shares, "void": counts[IGNORE_LABEL] / pixels}
