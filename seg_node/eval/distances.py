"""Accuracy by the distance from the keyframe: AR-Seg's protocol (papers.md section 2).

A clip is played L times, each time from one frame later on, so that the keyframes, every L-th
frame, fall elsewhere and each labelled frame is scored at every distance 0 .. L - 1. The first
L - 1 frames of a clip are not scored: they cannot be at every distance.

With an encoding, each pass encodes its part of the clip anew, with a key picture every L frames,
and the pipeline sees what the decoder makes of it, vectors included: so the quality of a picture
belongs to its distance, as in a real stream. Modes without a memory are scored under it as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
import re
import tempfile
from typing import Any, TYPE_CHECKING

from seg_node.core.types import Action, ConfigError, DataError
from seg_node.data.encode import encode_clip, Encoding
from seg_node.data.video import VideoReader
from seg_node.eval.classes import check_classes
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.progress import EXIT_INTERRUPTED, noted_interrupt, progress
from seg_node.eval.results import versions, write_json
from seg_node.eval.session import common, open_model, open_network, sessions_of
from seg_node.eval.tables import show, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seg_node.core.config import Config
    from seg_node.core.types import Frame
    from seg_node.data.sources import Clip, Source
    from seg_node.eval.session import Session
    from seg_node.nets.low import AnyBranch
    from seg_node.nets.manifest import Manifest

    Picture = tuple[Frame, NDArray[np.uint8] | None]

COMMAND = "evaluate"
LOW = "low"
"""Name of the baseline that computes every frame at half resolution, without a memory."""
MOST = 1000


@dataclass(frozen=True)
class Protocol:
    """How distances are made.

    Attributes:
        interval: L, frames from one keyframe to the next, 1 to 1000.
        encoding: encoder in front of the pipeline; None for the frames as they are.

    """

    interval: int = 12
    encoding: Encoding | None = None

    def __post_init__(self) -> None:
        """Refuse an interval that no mode can have.

        Raises:
            ConfigError: it is out of range.

        """
        if not 1 <= self.interval <= MOST:
            msg = f"distances is {self.interval}; use 1 to {MOST}"
            raise ConfigError(msg)


def parse_encoding(text: str, interval: int) -> Encoding:
    """Read an encoding such as `h264:3000@30`: codec, kbit/s, and frames per second.

    One reference frame and no B frames, so that every vector says what it refers to; a key
    picture every `interval` frames.

    Raises:
        ConfigError: it is none.
        DataError: there is no such codec, or a number is out of range.

    """
    match = re.fullmatch(r"(\w+):(\d{1,7})@(\d{1,4}(?:\.\d{1,3})?)", text, re.ASCII)
    if match is None:
        msg = f"encode is {text!r}; expected CODEC:KBPS@HZ, such as h264:3000@30"
        raise ConfigError(msg)
    codec, bitrate, rate = match.groups()
    return Encoding(codec, float(rate), int(bitrate), keyint=interval, options={"scenecut": "0"})


class DistanceRecord:
    """What one mode reached at each distance.

    Attributes:
        confusions: pixels by true and predicted class, for each distance.
        scored: labelled frames behind them, for each distance.
        forced: keyframes that came before their time, such as at scene cuts.

    """

    def __init__(self, classes: int, interval: int) -> None:
        """Start without frames."""
        self.confusions = [ConfusionMatrix(classes) for _ in range(interval)]
        self.scored = [0] * interval
        self.forced = 0
        self._macs: list[int] = []
        self._dense_macs: list[int] = []

    def score(self, distance: int, labels: NDArray[np.uint8], found: NDArray[np.uint8]) -> None:
        """Compare a mask with the labels of its frame, both uint8 [H, W]."""
        self.confusions[distance].update(labels, found)
        self.scored[distance] += 1

    def add_cost(self, macs: int, dense_macs: int) -> None:
        """Count what one frame cost, and what it costs in full."""
        self._macs.append(macs)
        self._dense_macs.append(dense_macs)

    @property
    def dense_macs(self) -> float:
        """MACs of a frame in full, on average."""
        return sum(self._dense_macs) / max(1, len(self._dense_macs))

    def summary(self, dense_macs: float) -> dict[str, Any]:
        """Return the mode's entry of the results; mIoU 0..1 by distance, its mean and minimum.

        Args:
            dense_macs: MACs of a frame in full, which the saving refers to.

        """
        scores = [confusion.dataset_miou() for confusion in self.confusions]
        known = [score for score in scores if score is not None]
        return {
            "miou_by_distance": scores,
            "class_iou_by_distance": [confusion.class_iou() for confusion in self.confusions],
            "miou": sum(known) / len(known) if known else None,
            "miou_min": min(known, default=None),
            "gmac_saving": self._saving(dense_macs),
            "forced_keyframes": self.forced,
        }

    def _saving(self, dense_macs: float) -> float | None:
        if not self._macs or not dense_macs:
            return None
        return 1.0 - sum(self._macs) / len(self._macs) / dense_macs


def run_distances(
    source: Source,
    config: Config,
    modes: Sequence[str],
    protocol: Protocol,
    json_path: Path | None = None,
) -> int:
    """Do `seg_node evaluate DATA --distances L`: score, write, and show the table.

    Beside the modes, the LOW branch of a model that has one runs alone on every frame.

    Args:
        source: data with consecutive frames, of which some are labelled.
        config: settings; their keyframe_interval is replaced by the protocol's.
        modes: modes to compare; none for the config's own alone.
        protocol: how distances are made.
        json_path: file that gets the results; None for none.

    Returns:
        Exit status: 0, or 130 after Ctrl-C.

    Raises:
        DataError: the data have no clip that is long enough, or none with labels.
        ModelError: the model cannot be loaded.
        ConfigError: there is no such mode, or the device or precision is not to be had here.

    """
    config = config.updated({"keyframe_interval": protocol.interval})
    model = open_model(config)
    sessions = sessions_of(model, config, modes)
    check_classes(source, model.manifest.classes)
    if model.low is not None:
        sessions[LOW] = open_low(model.low, model.manifest, config)
    results = score_distances(source, sessions, protocol)
    if json_path:
        write_json(results, json_path)
    show(results, [distance_table(results)])
    return EXIT_INTERRUPTED if results["interrupted"] else 0


def open_low(low: AnyBranch, manifest: Manifest, config: Config) -> Session:
    """Build the baseline that computes every frame at half resolution, without a memory.

    Args:
        low: half-resolution branch of a model; what sharpens its features is left out.
        manifest: what is known of the model.
        config: settings; mode and input.scale are replaced.

    Raises:
        ConfigError: the device or precision is not to be had here.

    """
    half = config.updated({"mode": "dense", "input.scale": 0.5})
    return open_network(low.net, manifest, half)


def score_distances(
    source: Source, sessions: Mapping[str, Session], protocol: Protocol
) -> dict[str, Any]:
    """Score every mode at every distance from the keyframe.

    Args:
        source: data with consecutive frames, of which some are labelled.
        sessions: model and settings by mode; `keyframe_interval` must be the protocol's.
        protocol: how distances are made.

    Returns:
        Results: what was run, and the `summary` of each mode.

    Raises:
        DataError: there is no clip that is long enough, or none with labels.

    """
    interval = protocol.interval
    clips = [clip for clip in source.clips() if _scored(clip, interval)]
    if not clips:
        msg = (
            f"{source.spec} has no clip with a labelled frame after its first {interval - 1}: "
            "distances need consecutive frames; use fewer, or other data"
        )
        raise DataError(msg)
    classes = len(common(sessions).manifest.classes)
    records = {mode: DistanceRecord(classes, interval) for mode in sessions}
    passes = [(clip, offset) for clip in clips for offset in range(interval)]
    with noted_interrupt() as interrupt, progress(COMMAND, len(passes)) as bar:
        for done, (clip, offset) in enumerate(passes, start=1):
            for mode, session in sessions.items():
                _play(session, clip, offset, protocol, records[mode])
            bar(done)
            if interrupt:
                break
    full = next(iter(records.values())).dense_macs
    return {
        "command": COMMAND,
        "interrupted": bool(interrupt),
        "data": source.spec,
        "model": {
            "name": common(sessions).manifest.name,
            "sha256": common(sessions).manifest.sha256,
        },
        "device": common(sessions).device,
        "versions": versions(),
        "interval": interval,
        "encoding": asdict(protocol.encoding) if protocol.encoding else None,
        "motion": common(sessions).config.motion.source,
        "clips": [{"name": c.name, "rate_hz": c.rate_hz, "frames": len(c.frames)} for c in clips],
        "labelled_frames": sum(len(_scored(clip, interval)) for clip in clips),
        "modes": {mode: record.summary(full) for mode, record in records.items()},
    }


def _scored(clip: Clip, interval: int) -> tuple[int, ...]:
    """Return the labelled frames of a clip that can be at every distance."""
    frames = range(interval - 1, len(clip.frames))
    return tuple(index for index in frames if clip.frames[index].labelled)


def _play(
    session: Session, clip: Clip, offset: int, protocol: Protocol, record: DistanceRecord
) -> None:
    """Play a clip from one frame on, and score what is far enough from its start.

    Modes without a memory make the same of the same picture at every distance: one pass will do.
    """
    same = not session.remembers and protocol.encoding is None
    if same and offset:
        return
    play(session, pictures(clip, offset, protocol), offset, record, same=same)


def play(
    session: Session,
    shown: Iterable[Picture],
    offset: int,
    record: DistanceRecord,
    *,
    same: bool = False,
) -> None:
    """Play pictures from a keyframe on, and score those from frame L - 1 of the clip on.

    Args:
        session: model and settings; its keyframe_interval must be that of the record.
        shown: frames with their labels, as `pictures` yields them.
        offset: index of the first of them in its clip.
        record: gets what is found.
        same: take what is found for every distance.

    """
    session.segmenter.reset()
    interval, remembers, distance = len(record.confusions), session.remembers, -1
    for index, (frame, labels) in enumerate(shown, start=offset):
        result = session.segmenter.step(frame)
        due = (index - offset) % interval == 0
        full = bool((result.plan.grid == Action.HIGH).all())
        record.forced += remembers and full and not due
        distance = 0 if due or (remembers and full) else distance + 1
        record.add_cost(result.report.macs, result.report.dense_macs)
        if labels is not None and index >= interval - 1:
            for each in range(interval) if same else (distance,):
                record.score(each, labels, result.labels)


def pictures(clip: Clip, offset: int, protocol: Protocol) -> Iterator[Picture]:
    """Yield the frames of a clip from one on, coded if so asked, with their labels.

    Args:
        clip: the frames.
        offset: index of the first of them.
        protocol: its encoding; encoded frames carry the motion that the codec states.

    Raises:
        DataError: a picture cannot be read or encoded.

    """
    samples = (ref.load() for ref in clip.frames[offset:])
    if protocol.encoding is None:
        yield from ((sample.frame, sample.labels) for sample in samples)
        return
    labels: list[NDArray[np.uint8] | None] = []

    def images() -> Iterator[NDArray[np.uint8]]:
        for sample in samples:
            labels.append(sample.labels)
            yield sample.frame.image

    with tempfile.TemporaryDirectory() as folder:
        path = encode_clip(images(), Path(folder) / "clip.mp4", protocol.encoding)
        with VideoReader(path) as reader:
            yield from zip(reader.frames(motion=True), labels, strict=True)


def distance_table(results: dict[str, Any]) -> Table:
    """Return mIoU by distance, its mean and minimum, and what was saved, one line per mode."""
    header = ("mode", *map(str, range(results["interval"])), "mean", "min", "MACs saved")
    rows = []
    for mode, entry in results["modes"].items():
        scores = (*entry["miou_by_distance"], entry["miou"], entry["miou_min"])
        saved = entry["gmac_saving"]
        texts = ["-" if score is None else f"{score:.4f}" for score in scores]
        rows.append((mode, *texts, "-" if saved is None else f"{saved:.1%}"))
    return Table("mIoU by frames since the keyframe", header, tuple(rows))
