"""Scores a model on labelled frames: `seg_node evaluate DATA`."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.eval.results import make_results, ModeRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seg_node.data.datasets import Sample
    from seg_node.eval.session import Session


def evaluate(data: str, samples: Iterable[Sample], session: Session) -> dict[str, Any]:
    """Run every sample in order and score those with labels.

    Args:
        data: name of the data, for the record.
        samples: frames in time order.
        session: model and settings.

    Returns:
        The content of `results.json`.

    Raises:
        DataError: no sample has labels, so that there is nothing to score.

    """
    record = ModeRecord(len(session.manifest.classes))
    size = None
    for sample in samples:
        if size != sample.frame.image.shape:
            size = sample.frame.image.shape
            session.segmenter.warm_up(size[0], size[1])
        record.add(session.segmenter.step(sample.frame), sample.labels)
    if not record.labelled:
        msg = f"{data} has no labels to score; use 'seg_node replay' to look at the masks"
        raise DataError(msg)
    modes = {session.config.mode: record}
    return make_results(data, session.manifest, session.device, session.config, modes)


def table(results: dict[str, Any]) -> str:
    """Return the scores as text: one line per mode, then IoU per class."""
    lines = [f"{results['data']}  {results['model']['name']}  {results['device']}"]
    for mode, entry in results["modes"].items():
        lines.append(
            f"{mode}: mIoU {entry['miou']:.4f}, pixel accuracy {entry['pixel_accuracy']:.4f}, "
            f"{entry['gmac_per_frame']:.2f} GMAC/frame, p50 {entry['ms']['p50']:.1f} ms, "
            f"p95 {entry['ms']['p95']:.1f} ms, {entry['frames']} frames"
        )
        for name, iou in zip(results["classes"], entry["class_iou"], strict=True):
            lines.append(f"  {name:<12} {'absent' if iou is None else f'{iou:.3f}'}")
    return "\n".join(lines)
