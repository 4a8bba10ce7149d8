"""`seg_node label`: pseudo-labels for frames without labels, as a folder ready to train on.

Several models, scales and mirror images vote; pixels where they are unsure stay void. Look at
the pictures and mend the worst before training on them.
"""

from __future__ import annotations

from collections import Counter
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.compute import choose_compute
from seg_node.core.config import Config
from seg_node.core.types import DataError, IGNORE_LABEL, ModelError
from seg_node.data.compressed_images import encode_jpeg, encode_png
from seg_node.data.datasets import BagClip, Indexed, open_source
from seg_node.data.sources import count_skip
from seg_node.nets.build import load_model
from seg_node.train.classes import same_classes
from seg_node.train.losses import resize_logits
from seg_node.train.teacher import SCALES, soft_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from seg_node.core.types import ClassInfo
    from seg_node.data.datasets import Sample, Source
    from seg_node.nets.build import Model

JPEG_QUALITY = 95


@dataclass(frozen=True)
class LabelRequest:
    """What to label, and how.

    Attributes:
        data: named data; what labels they have are not used.
        models: models that vote.
        out: folder to write; frames that are there already are kept.
        scales: resize factors of the images that vote.
        confidence: pixels of less mean probability than this (0..1) stay void.
        stride: only every `stride`-th frame.
        split: split of data that have splits.
        topic: image topic of a bag; None where it has only one.
        device: auto, cpu, cuda or cuda:N.

    """

    data: str
    models: tuple[str, ...]
    out: Path
    scales: tuple[float, ...] = SCALES
    confidence: float = 0.7
    stride: int = 1
    split: str = "train"
    topic: str | None = None
    device: str = "auto"


@dataclass(frozen=True)
class LabelReport:
    """What was labelled.

    Attributes:
        frames: frames written by this call.
        kept: frames that were there already.
        skipped: reason -> images that could not be read.
        shares: class name -> share of all pixels written (0..1), `void` included.

    """

    frames: int
    kept: int
    skipped: dict[str, int]
    shares: dict[str, float]


def label_data(
    request: LabelRequest, on_frame: Callable[[int], None] | None = None
) -> LabelReport:
    """Write `images/`, `labels/` and `classes.csv`, the layout that `folder:DIR` reads.

    One frame is in memory at a time. `source.txt` keeps whose frames they are and who labelled
    them; only the stride may differ between two calls. A damaged image is skipped and counted.

    Args:
        request: what to label.
        on_frame: called with the number of frames done, after each.

    Raises:
        ConfigError: the device is not to be had here.
        DataError: the data cannot be read or none of its frames can, or the folder holds frames
            of other data, labels made in another way, or other classes.
        ModelError: a model cannot be loaded, or the models know different classes.

    """
    device = choose_compute(Config(device=request.device, precision="fp32")).device
    voters = _load_voters(request.models)
    classes = voters[0].manifest.classes
    source = open_source(request.data, split=request.split, topic=request.topic)
    _claim(request.out, source, _origin(request, source, voters))
    _write_classes(request.out / "classes.csv", classes)
    nets = [voter.net.to(device) for voter in voters]
    counts: Counter[int] = Counter()
    skipped: Counter[str] = Counter()
    kept = written = 0
    for done, sample in enumerate(_frames(source, request, skipped), 1):
        if sample is None:
            kept += 1
        else:
            soft = soft_labels(nets, sample.frame.image, request.scales)
            labels = confident_labels(soft, sample.frame.image.shape[:2], request.confidence)
            _write_frame(request.out, sample, labels)
            counts.update(dict(zip(*np.unique(labels, return_counts=True), strict=True)))
            written += 1
        if on_frame:
            on_frame(done)
    if not kept + written:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in skipped.items())
        msg = f"{request.data} has no frame to label: {reasons or 'it is empty'}"
        raise DataError(msg)
    return LabelReport(written, kept, dict(skipped), _shares(counts, classes))


def confident_labels(
    soft: NDArray[np.uint8], size: tuple[int, ...], confidence: float
) -> NDArray[np.uint8]:
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


def _load_voters(names: Sequence[str]) -> list[Model]:
    models = [load_model(name) for name in names]
    for model in models:
        if not same_classes(model.manifest.classes, models[0].manifest.classes):
            both = f"{models[0].manifest.name} and {model.manifest.name}"
            msg = f"{both} know different classes; label with models of one list"
            raise ModelError(msg)
    return models


def _frames(
    source: Source, request: LabelRequest, skipped: Counter[str]
) -> Iterator[Sample | None]:
    """Yield every `stride`-th frame, None in place of one that is labelled already.

    What is labelled is read again only where the data can merely be played. Counts in `skipped`
    what cannot be read.
    """
    if not isinstance(source, Indexed):
        for sample in source.every(request.stride):
            yield None if _label_path(request.out, sample.name).exists() else sample
        skipped.update(source.skipped)
        return
    frames = source.frames()
    for frame in frames[:: request.stride]:
        if _label_path(request.out, frame.name).exists():
            yield None
            continue
        try:
            sample = frame.load()
        except DataError as error:
            count_skip(skipped, str(error))
        else:
            yield sample
    lost = len(source) - len(frames)
    if lost > 0:  # a damaged bag promises more than it delivers
        skipped[f"image that {source.spec} promises and does not deliver"] = lost


def _origin(request: LabelRequest, source: Source, voters: Sequence[Model]) -> str:
    """Return what tells these labels from all others that could have the same names."""
    kind, _, place = source.spec.partition(":")
    topic = f" {source.topic.name}" if isinstance(source, BagClip) else ""
    # Bags and videos are known by their bytes and may move; pictures by where they lie.
    content = source.fingerprint() or Path(place).resolve()
    models = ", ".join(f"{m.manifest.name} {m.manifest.sha256[:12]}" for m in voters)
    lines = {
        "data": f"{kind}:{Path(place).name}{topic}",
        "split": request.split,
        "content": source.spec if kind == "street" else content,
        "models": models,
        "scales": ", ".join(map(str, request.scales)),
        "confidence": request.confidence,
    }
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


def _claim(out: Path, source: Source, origin: str) -> None:
    """Write `source.txt`.

    Raises:
        DataError: the folder is that of the data, or holds frames of another origin.

    """
    if out.resolve() == Path(source.spec.partition(":")[2]).resolve():
        msg = f"{out} is the folder of the data: choose another --out"
        raise DataError(msg)
    path = out / "source.txt"
    known = path.read_text() if path.exists() else ""
    if known != origin and (out / "images").exists():
        news = [line for line in origin.splitlines() if line not in known.splitlines()]
        held = [line for line in known.splitlines() if line not in origin.splitlines()]
        what = f"frames of {'; '.join(held)!r}" if known else "pictures of unknown origin"
        msg = f"{out} holds {what}, not of {'; '.join(news)!r}: choose another --out"
        raise DataError(msg)
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(origin)


def _label_path(out: Path, name: str) -> Path:
    return out / "labels" / f"{name.replace('/', '_')}.png"


def _write_frame(out: Path, sample: Sample, labels: NDArray[np.uint8]) -> None:
    """Write image and labels; the labels last, since their file says that a frame is done."""
    (out / "images").mkdir(exist_ok=True)
    (out / "labels").mkdir(exist_ok=True)
    path = _label_path(out, sample.name)
    picture = encode_jpeg(sample.frame.image, JPEG_QUALITY)
    (out / "images" / f"{path.stem}.jpg").write_bytes(picture)
    partial = path.with_suffix(".partial")
    partial.write_bytes(encode_png(labels))
    partial.replace(path)


def _write_classes(path: Path, classes: tuple[ClassInfo, ...]) -> None:
    rows = [["id", "name", "r", "g", "b"]]
    rows += [[str(i), c.name, *map(str, c.color)] for i, c in enumerate(classes)]
    if path.exists():
        with path.open(newline="") as file:
            if list(csv.reader(file)) != rows:
                msg = f"{path} names other classes than the model; choose another --out"
                raise DataError(msg)
        return
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _shares(counts: Counter[int], classes: tuple[ClassInfo, ...]) -> dict[str, float]:
    pixels = max(1, sum(counts.values()))
    shares = {c.name: counts[i] / pixels for i, c in enumerate(classes)}
    return {**shares, "void": counts[IGNORE_LABEL] / pixels}
