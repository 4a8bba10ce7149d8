"""Soft labels of a bigger network, computed once per frame and moved along with every crop.

Averaging over scales and mirror images makes one teacher better than itself; computing it once
makes it free in every step.
"""

from __future__ import annotations

from contextlib import suppress
import hashlib
import io
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
from seg_node.train.distributed import worst
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
        DataError: the folder belongs to another teacher, or cannot be written.

    """

    def __init__(self, folder: Path, teacher: str) -> None:
        """Open or make the folder."""
        self.folder = folder
        owner = folder / "teacher.txt"
        # A killed process may have left it empty.
        if not owner.exists() or not owner.stat().st_size:
            self._write(owner, teacher.encode())
        found = owner.read_text(encoding="utf-8")
        if found != teacher:
            msg = f"{folder} holds soft labels of {found!r}, not {teacher!r}; delete it"
            raise DataError(msg)

    def get(self, nets: Sequence[nn.Module], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the soft labels of an image, from the folder or computed now.

        Raises:
            DataError: a file is damaged, or cannot be written.

        """
        path = self._path(image)
        if not path.exists():
            return self._teach(nets, image, path)
        try:
            return np.asarray(np.load(path), np.uint8)
        except (OSError, ValueError, EOFError) as err:
            msg = f"cannot read the soft labels {path}: {err}; delete the file"
            raise DataError(msg) from err

    def fill(self, nets: Sequence[nn.Module], image: NDArray[np.uint8]) -> None:
        """Compute the soft labels of an image unless the folder has them; nothing is read.

        Raises:
            DataError: the file cannot be written.

        """
        path = self._path(image)
        if not path.exists():
            self._teach(nets, image, path)

    def _path(self, image: NDArray[np.uint8]) -> Path:
        return self.folder / f"{image_key(image)}.npy"

    def _teach(
        self, nets: Sequence[nn.Module], image: NDArray[np.uint8], path: Path
    ) -> NDArray[np.uint8]:
        soft = soft_labels(nets, image)
        file = io.BytesIO()
        np.save(file, soft)
        self._write(path, file.getvalue())
        return soft

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file whole or not at all; several processes may write the same one."""
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as err:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            told = f"cannot write soft labels into {self.folder}: {err.strerror}"
            msg = f"{told}; free some space, or choose another folder"
            raise DataError(msg) from err


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
        """Compute what is missing, so that no step waits for it.

        Every process computes a part and waits for the others, `distributed.PATIENCE` at most.
        Then, or when one fails, all end; what was computed is kept and the next start goes on.

        Args:
            frames: all frames, the same in every process.

        Raises:
            DataError: a frame cannot be read, or the folder cannot be written.

        """
        mine = frames[self._share.rank :: self._share.world]
        for done, frame in enumerate(mine, 1):
            self._cache.fill(self._nets, frame.load().frame.image)
            if done % SAID_EVERY == 0 or done == len(mine):
                LOG.info("soft labels: %d of %d frames", done, len(mine))
        worst(0)  # returns when every process has come here


def image_key(image: NDArray[np.uint8]) -> str:
    """Return a name for an image that no other image has: names of frames repeat in two videos."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=12)
    digest.update(repr(image.shape).encode())
    return digest.hexdigest()
