"""The files that runs leave: result bag, preview video and sample pictures, in a folder.

The folder is theirs alone: a run replaces the files of an earlier run of the same command, known
by its `results.json`, and refuses any other folder that is not empty.
"""

from __future__ import annotations

from contextlib import ExitStack
import json
import shutil
from typing import TYPE_CHECKING

import cv2
import numpy as np

from seg_node.core.closing import Closing
from seg_node.core.drawing import (
    BACKGROUND,
    color_table,
    legend,
    overlay,
    side_by_side,
    to_width,
)
from seg_node.core.plan_drawing import draw_plan, picture_width, plan_legend_height
from seg_node.core.types import DataError
from seg_node.data.compressed_images import encode_png
from seg_node.data.video import VideoWriter
from seg_node.eval.files import write_whole
from seg_node.eval.result_bag import ResultBag
from seg_node.eval.results import DENSE, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from seg_node.core.config import Config
    from seg_node.core.types import ClassInfo, Plan
    from seg_node.data.datasets import Sample
    from seg_node.eval.result_bag import Made

RESULTS = "results.json"
BAG = "result_bag"
PREVIEW = "preview.mp4"
SAMPLES = "samples"
WORST = "worst.png"
MODES = "modes"
PRODUCTS = (
    BAG,
    PREVIEW,
    SAMPLES,
    WORST,
    MODES,
    "contact_sheet.png",
    "costs.json",
    "earlier",
    "frames.csv",
    "index.html",
    "node.log",
    "report.html",
    "resume.json",
)
"""What an earlier run may have left beside its `results.json`."""

PREVIEW_WIDTH = 1280
"""Widest preview in pixels; larger pictures are scaled down."""
PANEL_WIDTH = 640
"""Widest of the two pictures beside each other in a preview with plans, in pixels."""
SAMPLE_WIDTH = 960
"""Widest picture of a sample in pixels; there are two or three beside each other."""
GUESSED_LENGTH = 300
"""Frames that a source is taken to have when it does not say."""


def prepare_out(out: Path, command: str, source: Path | None) -> None:
    """Make the output folder ready, removing what an earlier run of `command` left there.

    Args:
        out: the folder.
        command: `replay`, `demo` or `evaluate`.
        source: where the data lie, None if nowhere; never removed.

    Raises:
        DataError: the folder holds something else, or the data themselves.

    """
    if source is not None and source.resolve().is_relative_to(out.resolve()):
        msg = f"the data {source} lie in the output folder {out}: choose another --out"
        raise DataError(msg)
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file: choose another --out"
        raise DataError(msg)
    if out.exists() and any(out.iterdir()):
        if _command_of(out / RESULTS) != command:
            msg = f"{out} is not empty and holds no earlier {command}: choose another --out"
            raise DataError(msg)
        clear_folder(out)
    write_json({"command": command, "interrupted": True}, out / RESULTS)


def clear_folder(out: Path, keep: Sequence[str] = ()) -> None:
    """Remove all `PRODUCTS` of a run from its folder but those to keep.

    Raises:
        DataError: one of them cannot be removed.

    """
    try:
        for name in PRODUCTS:
            if name not in keep:
                _remove(out / name)
    except OSError as error:
        msg = f"cannot remove {error.filename} of an earlier run: {error.strerror}"
        raise DataError(msg) from error


def mode_folders(out: Path, modes: Iterable[str]) -> dict[str, Path]:
    """Return where each mode's files go: `out` itself for a single mode, else a folder of its own.

    The folders are created.

    Raises:
        DataError: one cannot be.

    """
    names = list(modes)
    folders = {mode: out / MODES / mode if len(names) > 1 else out for mode in names}
    try:
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot create {error.filename}: {error.strerror}"
        raise DataError(msg) from error
    return folders


def _command_of(path: Path) -> object:
    """Return who wrote a results file, None if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("command") if isinstance(content, dict) else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Outputs(Closing):
    """Writes result bag, preview and samples, frame by frame; use it as a context manager.

    Attributes:
        frames: frames written.
        samples: sample pictures written, in order.

    """

    def __init__(
        self,
        out: Path,
        classes: Sequence[ClassInfo],
        config: Config,
        rate_hz: float,
        chosen: frozenset[int],
    ) -> None:
        """Open the files.

        Args:
            out: folder, see `prepare_out`.
            classes: classes of the masks, in label order.
            config: settings that the frames are segmented with; in every mode but dense the
                preview shows the plan beside the mask.
            rate_hz: frame rate of the preview.
            chosen: indices of the frames to write as sample pictures, see `spread_indices`.

        Raises:
            DataError: a file cannot be written.

        """
        self.frames = 0
        self.samples: list[Path] = []
        self._folder = out / SAMPLES
        self._classes = classes
        self._colors = color_table(classes)
        self._opacity = config.publish.overlay_opacity
        self._side_in = config.shown_side
        self._shows_plan = config.mode != DENSE
        self._chosen = chosen
        self._shape: tuple[int, int] | None = None
        with ExitStack() as stack:
            bag = ResultBag(out / BAG, classes, self._colors, config)
            self._bag = stack.enter_context(bag)
            self._video = stack.enter_context(VideoWriter(out / PREVIEW, rate_hz))
            self._files = stack.pop_all()

    def write(self, sample: Sample, made: Made) -> None:
        """Write one frame and what was made of it.

        Raises:
            DataError: writing fails, or plan or ages do not cover the image.

        """
        blended = overlay(sample.frame.image, made.mask, self._colors, self._opacity)
        self._bag.write(sample, made, blended)
        self._video.write(self._preview(sample.frame.image, blended, made.plan))
        if self.frames in self._chosen:
            self._write_sample(sample, blended)
        self.frames += 1

    def close(self) -> None:
        """Finish all files, so that they can be read."""
        self._files.close()

    def _preview(
        self, image: NDArray[np.uint8], blended: NDArray[np.uint8], plan: Plan | None
    ) -> NDArray[np.uint8]:
        """Return the picture in the size of the first one, with its legends below."""
        if self._shows_plan:
            width = picture_width(blended.shape[1], PANEL_WIDTH)
            mask = to_width(blended, width)
            left = np.vstack([mask, legend(self._classes, width)])
            shape = (mask.shape[0] + plan_legend_height(width), width, 3)
            right = np.full(shape, BACKGROUND, np.uint8)
            if plan is not None:
                right = draw_plan(image, plan, self._side_in(image), width=width)
            return self._of_one_shape(side_by_side([left, right]))
        fitted = self._of_one_shape(_shrunk(blended, PREVIEW_WIDTH))
        return np.vstack([fitted, legend(self._classes, fitted.shape[1])])

    def _of_one_shape(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a picture in the shape of the first one; those of a video have one."""
        if self._shape is None:
            self._shape = (picture.shape[0], picture.shape[1])
        return letterbox(picture, self._shape)

    def _write_sample(self, sample: Sample, blended: NDArray[np.uint8]) -> None:
        """Write image, overlay and, where it is known, the truth, with the legend below."""
        pictures = [sample.frame.image, blended]
        if sample.labels is not None:
            truth = overlay(sample.frame.image, sample.labels, self._colors, self._opacity)
            pictures.append(truth)
        row = np.hstack([_shrunk(p, SAMPLE_WIDTH) for p in pictures])
        picture = np.vstack([row, legend(self._classes, row.shape[1])])
        path = self._folder / f"{self.frames:06d}.png"
        write_whole(path, encode_png(picture))
        self.samples.append(path)


def spread_indices(length: int, count: int) -> frozenset[int]:
    """Return `count` indices spread evenly over 0..length-1, the ends included.

    Args:
        length: number of frames; 0 if unknown, then a length is guessed.
        count: how many; 0 or more.

    """
    last = (length or GUESSED_LENGTH) - 1
    return frozenset(int(i) for i in np.linspace(0, last, count).round())


def letterbox(picture: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Fit an RGB picture into (H, W) without distortion, on black."""
    height, width = shape
    if picture.shape[:2] == shape:
        return picture
    scale = min(height / picture.shape[0], width / picture.shape[1])
    inner = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    fitted = np.asarray(cv2.resize(picture, inner, interpolation=cv2.INTER_AREA), np.uint8)
    box = np.zeros((height, width, 3), np.uint8)
    y, x = (height - fitted.shape[0]) // 2, (width - fitted.shape[1]) // 2
    box[y : y + fitted.shape[0], x : x + fitted.shape[1]] = fitted
    return box


def _shrunk(picture: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    if picture.shape[1] <= width:
        return picture
    size = (width, max(1, round(picture.shape[0] * width / picture.shape[1])))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
