"""Soft labels of a bigger network, computed once per frame and moved along with every crop.

Averaging over scales and mirror images makes one teacher better than itself; computing it once
makes it free in every step.
"""

from __future__ import annotations

import hashlib
import logging
import os
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.types import DataError, ModelError
from seg_node.nets.build import load_model
from seg_node.train.augment import SOFT_STRIDE
from seg_node.train.classes import describe, same_classes
from seg_node.train.losses import resize_logits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn, Tensor

    from seg_node.core.types import ClassInfo
    from seg_node.data.sources import FrameRef
    from seg_node.train.distributed import Share

LOG = logging.getLogger(__name__)
SCALES = (0.75, 1.25)
SAID_EVERY = 100
"""Frames between two lines about soft labels."""


def soft_labels(
    nets: Sequence[nn.Module], image: NDArray[np.uint8], scales: Sequence[float] = SCALES
) -> NDArray[np.uint8]:
    """Return mean class probabilities over networks, scales and both mirror images.

    Args:
        nets: networks in eval mode, of one list of classes.
        image: RGB, uint8 [H, W, 3].
        scales: resize factors of the image.

    Returns:
        probabilities times 255, uint8 [ceil(H/4), ceil(W/4), classes].

    """
    height, width = image.shape[:2]
    cells = (-(-height // SOFT_STRIDE), -(-width // SOFT_STRIDE))
    # Cells at the end may stick out of the image; logits are resized to whole cells.
    covered = (cells[0] * SOFT_STRIDE, cells[1] * SOFT_STRIDE)
    padding = ((0, covered[0] - height), (0, covered[1] - width), (0, 0))
    whole = np.pad(image, padding, mode="edge")
    looks = []
    with torch.inference_mode():
        for scale in scales:
            size = (round(covered[1] * scale), round(covered[0] * scale))
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            resized = np.asarray(cv2.resize(whole, size, interpolation=how), np.uint8)
            pixels = torch.from_numpy(resized).permute(2, 0, 1)[None]
            for net in nets:
                looks += [_look(net, pixels, cells), _look(net, pixels.flip(-1), cells).flip(-1)]
    mean = torch.stack(looks).mean(0)[0]
    soft = (mean * 255.0).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(soft)


def _look(net: nn.Module, pixels: Tensor, cells: tuple[int, int]) -> Tensor:
    device = next(net.parameters()).device
    return resize_logits(net(pixels.to(device)).float(), cells).softmax(1)


class SoftLabelCache:
    """Soft labels of one teacher in a folder, one file an image, named by its content.

    Args:
        folder: where they lie; made for one teacher, whose name is kept there.
        teacher: what identifies the teacher, such as hashes and scales.

    Raises:
        DataError: the folder belongs to another teacher.

    """

    def __init__(self, folder: Path, teacher: str) -> None:
        """Open or make the folder."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        owner = folder / "teacher.txt"
        if owner.exists() and owner.read_text() != teacher:
            msg = (
                f"{folder} holds soft labels of {owner.read_text()!r}, not {teacher!r}; delete it"
            )
            raise DataError(msg)
        owner.write_text(teacher)

    def get(self, nets: Sequence[nn.Module], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the soft labels of an image, from the folder or computed now."""
        path = self.folder / f"{image_key(image)}.npy"
        if path.exists():
            return np.asarray(np.load(path), np.uint8)
        soft = soft_labels(nets, image)
        # Several processes may compute the same frame: each writes a file of its own.
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.save(file, soft)
        partial.replace(path)
        return soft


class Teacher:
    """Models whose soft labels are learned beside the true ones, computed once per frame.

    Args:
        models: names of models, or paths of their manifests.
        folder: where the soft labels are kept; see `SoftLabelCache`.
        classes: the classes of the data.
        device: where the models run.
        share: which of the processes this is.

    Raises:
        ModelError: a model cannot be loaded, or has other classes than the data.
        DataError: the folder belongs to another teacher.

    """

    def __init__(
        self,
        models: Sequence[str],
        folder: Path,
        classes: tuple[ClassInfo, ...],
        device: torch.device,
        share: Share,
    ) -> None:
        """Load the models."""
        loaded = [load_model(name, fold=False) for name in models]
        for model in loaded:
            if not same_classes(model.manifest.classes, classes):
                told = f"teacher {model.manifest.name} has {describe(model.manifest.classes)}"
                msg = f"{told}, the data have {describe(classes)}; they must be the same"
                raise ModelError(msg)
        self._nets = [model.net.to(device) for model in loaded]
        self._share = share
        hashes = ",".join(model.manifest.sha256[:12] for model in loaded)
        self._cache = SoftLabelCache(folder, f"{hashes} at {SCALES}")

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the soft labels of an image; see `soft_labels`."""
        return self._cache.get(self._nets, image)

    def prepare(self, frames: Sequence[FrameRef]) -> None:
        """Compute what is missing, so that no step waits for it."""
        for done, frame in enumerate(frames, 1):
            self(frame.load().frame.image)
            if done % SAID_EVERY == 0 or done == len(frames):
                LOG.info("soft labels: %d of %d frames", done, len(frames))


def image_key(image: NDArray[np.uint8]) -> str:
    """Return a name for an image that no other image has: names of frames repeat in two videos."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=12)
    digest.update(repr(image.shape).encode())
    return digest.hexdigest()
