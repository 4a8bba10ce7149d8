"""What the parts of mode adaptive are worth on a labelled clip, each left out.

    python benchmarks/adaptive_parts.py camvid:DIR --json benchmarks/results/adaptive_parts.json

- `adaptive`: as it is;
- `not corrected`: pointers follow the motion from frame to frame alone;
- `not mixed`: computed blocks show their new result alone;
- `not read at pixels`: moved results are read at their own resolution, and enlarged;
- `in grey`: change is seen in a grey picture;
- `none`: all four;
- `product of means`: blocks are ranked by the means of distortion and of doubt, not by the mean of
  their product;
- `blocks of dense`: computed blocks have the result of the whole frame, computed: no halos;
- `fine surroundings of dense`: halos are read from the whole frame, computed, where features have
  a stride below 16; `coarse surroundings of dense`: from 16 on;
- `warp`: keyframes at an interval, all else moved.

mIoU is pooled over clips that start at several frames; the first frames do not count.
`--enlarge 2` doubles images and labels; `--ways adaptive warp dense` runs some only. What the
file has already is not measured again.
"""

from __future__ import annotations

import argparse
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import torch

from seg_node.core import block_history, comparing
from seg_node.core.background import Recorder, Recording
from seg_node.core.block_history import BlockHistory
from seg_node.core.config import Config
from seg_node.core.pipeline import Segmenter
from seg_node.core.tile_pictures import TilePictures
from seg_node.core.tiles import as_rows
from seg_node.core.tracking import OnHost
from seg_node.data.datasets import open_source
from seg_node.data.resizing import resized, size_of
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.progress import progress
from seg_node.eval.results import versions, write_json
from seg_node.nets.build import build_policies, load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.background import Background, Found, Plane
    from seg_node.core.blocks import Window
    from seg_node.core.masks import Planes
    from seg_node.core.origins import Origins
    from seg_node.core.types import Frame
    from seg_node.data.sources import Sample
    from seg_node.nets.build import Model

STARTS = (0, 2, 4, 6, 8, 10)
FROM = 12
"""First frame that counts, so that all starts are scored on the same ones."""


@contextmanager
def not_corrected() -> Iterator[None]:
    """Leave pointers where the motion from frame to frame leads."""

    def nothing(
        _pictures: TilePictures, _image: NDArray[np.uint8], origins: Origins, _correct: object
    ) -> NDArray[np.float32]:
        return np.zeros((*origins.size, 2), np.float32)

    with patch.object(TilePictures, "off", nothing):
        yield


@contextmanager
def not_mixed() -> Iterator[None]:
    """Show the new results of computed blocks alone."""

    def unmixed(_history: BlockHistory, logits: Tensor, *_: object) -> Tensor:
        return logits

    with patch.object(BlockHistory, "mixed", unmixed):
        yield


@contextmanager
def not_read_at_pixels() -> Iterator[None]:
    """Leave masks as enlarged results make them."""

    def as_it_is(_history: BlockHistory, planes: Planes, _kernels: object) -> Planes:
        return planes

    with patch.object(BlockHistory, "sharpened", as_it_is):
        yield


@contextmanager
def in_grey() -> Iterator[None]:
    """Take three times the grey picture for the colours."""

    def greys(method: OnHost, frame: Frame, size: tuple[int, int]) -> Tensor:
        return method.grey(frame, size).expand(3, *size)

    with patch.object(OnHost, "colours", greys):
        yield


@contextmanager
def product_of_means() -> Iterator[None]:
    """Take distortion and doubt of a block for those of all its pixels."""

    def compared(*args: Any) -> comparing.Compared:
        found = comparing.compare(*args)
        return replace(found, risk=found.distortion * found.doubt)

    with patch.object(block_history, "compare", compared):
        yield


@contextmanager
def blocks_of_dense() -> Iterator[None]:
    """Give computed blocks what a dense network makes of the whole frame."""
    mixed, latest = BlockHistory.mixed, BlockHistory.look
    shown: dict[str, Any] = {}

    def look(history: BlockHistory, frame: Any, config: Any) -> Any:
        image = torch.from_numpy(frame.image).permute(2, 0, 1)[None]
        with torch.inference_mode():  # before the step's MACs are counted: they are not of it
            shown["logits"] = NET["net"](image)
        return latest(history, frame, config)

    def pasted(
        history: BlockHistory, logits: Tensor, high: Tensor, grid: NDArray[np.uint8]
    ) -> Tensor:
        inside = torch.zeros(logits.shape[-2:], dtype=torch.bool)
        inside.view(-1)[high] = True
        return mixed(history, torch.where(inside, shown["logits"], logits), high, grid)

    with patch.object(BlockHistory, "look", look), patch.object(BlockHistory, "mixed", pasted):
        yield


class Beside:
    """A plane that shows what the whole frame has now, at some strides.

    Args:
        plane: what is remembered; it goes on being written.
        now: what the operation reads where the whole frame is computed, [1, C, h, w].
        strides: where that is shown.

    """

    def __init__(self, plane: Plane, now: Tensor, strides: range) -> None:
        """Take both."""
        self._plane, self._now, self._strides = plane, now, strides

    def find(self, pixels: Tensor | None, window: Window, *, halve: bool = False) -> Found:
        """Look up where pixels are, and keep their numbers."""
        count = window.size[0] * window.size[1]
        numbers = torch.arange(count) if pixels is None else pixels
        return (*self._plane.find(pixels, window, halve=halve), numbers)

    def rows(self, found: Found, window: Window, *, halve: bool = False) -> Tensor:
        """Return some pixels, [k, C]."""
        if window.stride in self._strides:
            return as_rows(self._now).index_select(0, found[-1])
        return self._plane.rows(found[:-1], window, halve=halve)

    def whole(self, found: Found, window: Window) -> Tensor:
        """Return all pixels."""
        if window.stride in self._strides:
            return self._now
        return self._plane.whole(found[:-1], window)

    def room(self, count: int) -> Found:
        """Return the tiles of the last claim."""
        return self._plane.room(count)

    def keep(self, tiles: Tensor, window: Window, room: Found) -> None:
        """Keep blocks."""
        self._plane.keep(tiles, window, room)


@dataclass(frozen=True)
class AllBeside:
    """The planes of a background, each as `Beside`."""

    background: Background
    now: Recording
    strides: range

    def planes(self) -> Iterator[Plane]:
        """Return them from the first on."""
        for plane, now in zip(self.background.planes(), self.now.tensors, strict=True):
            yield Beside(plane, now, self.strides)


@contextmanager
def surroundings_of_dense(strides: range) -> Iterator[None]:
    """Put what the whole frame has around computed blocks, where features have such strides."""
    background, latest = BlockHistory.background, BlockHistory.look
    seen: dict[str, Recording] = {}

    def look(history: BlockHistory, frame: Any, config: Any) -> Any:
        image = torch.from_numpy(frame.image).permute(2, 0, 1)[None]
        seen["now"] = Recording()
        with torch.inference_mode(), Recorder(seen["now"]):  # before MACs are counted
            NET["net"](image)
        return latest(history, frame, config)

    def around(history: BlockHistory, grid: NDArray[np.uint8]) -> Background:
        return AllBeside(background(history, grid), seen["now"], strides)

    with (
        patch.object(BlockHistory, "look", look),
        patch.object(BlockHistory, "background", around),
    ):
        yield


NET: dict[str, Any] = {}
"""The network under test, for what shows its dense results or features."""

WAYS: dict[str, tuple[Callable[[], Any], ...]] = {
    "adaptive": (),
    "not corrected": (not_corrected,),
    "not mixed": (not_mixed,),
    "not read at pixels": (not_read_at_pixels,),
    "in grey": (in_grey,),
    "none": (not_corrected, not_mixed, not_read_at_pixels, in_grey),
    "product of means": (product_of_means,),
    "blocks of dense": (blocks_of_dense,),
    "fine surroundings of dense": (partial(surroundings_of_dense, range(1, 16)),),
    "coarse surroundings of dense": (partial(surroundings_of_dense, range(16, 1024)),),
}


def enlarged(sample: Sample, times: int) -> Sample:
    """Return a frame and its labels of so many times the width and height."""
    width, height = size_of(sample)
    return resized(sample, (times * width, times * height))


def score(
    model: Model, samples: list[Sample], config: Config, starts: Sequence[int]
) -> dict[str, Any]:
    """Return mIoU, pooled and by start, and the share of the MACs that is saved."""
    pooled, each, macs, dense = ConfusionMatrix(len(model.manifest.classes)), [], 0, 0
    for start in starts:
        segmenter = Segmenter(model.net, build_policies(model, config), config, model.low)
        NET["net"] = segmenter._executor.net  # noqa: SLF001 - the network as it runs
        own = ConfusionMatrix(len(model.manifest.classes))
        for index, sample in enumerate(samples[start:], start):
            result = segmenter.step(sample.frame)
            if index < FROM or sample.labels is None:
                continue
            pooled.update(sample.labels, result.labels)
            own.update(sample.labels, result.labels)
            macs, dense = macs + result.report.macs, dense + result.report.dense_macs
        each.append(own.dataset_miou())
    return {"miou": pooled.dataset_miou(), "saved": 1 - macs / dense, "miou_of_starts": each}


def main() -> None:
    """Score, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--model", default=Config().model)
    parser.add_argument("--compute", type=float, default=0.15)
    parser.add_argument("--max-age-ms", type=float, default=Config().max_age_ms)
    parser.add_argument("--interval", type=int, default=6)
    parser.add_argument("--enlarge", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, "warp", "dense"])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    model = load_model(args.model)
    samples = [enlarged(x, args.enlarge) for x in open_source(args.data, split="val")]
    height, width = samples[0].frame.image.shape[:2]
    settings = {"budget.compute": args.compute, "max_age_ms": args.max_age_ms}
    usual = Config(device="cpu").updated(settings)
    warp = usual.updated({"mode": "warp", "keyframe_interval": args.interval})
    content: dict[str, Any] = {
        "command": f"python benchmarks/adaptive_parts.py camvid:DIR --model {args.model} "
        f"--compute {args.compute} --max-age-ms {args.max_age_ms:g} "
        f"--interval {args.interval} --enlarge {args.enlarge}",
        "model": args.model,
        "block_side": usual.block_side((height, width)),
        "versions": versions(),
        "scores": {},
    }
    plans = {name: (usual, parts) for name, parts in WAYS.items()}
    plans |= {"warp": (warp, ()), "dense": (usual.updated({"mode": "dense"}), ())}
    if args.json.exists():
        content["scores"] = json.loads(args.json.read_text())["scores"]
    missing = (name for name in args.ways or plans if name not in content["scores"])
    plans = {name: plans[name] for name in missing}
    with progress("adaptive_parts", len(plans), "variants") as tick:
        for done, (name, (config, parts)) in enumerate(plans.items(), start=1):
            with ExitStack() as stack:
                for part in parts:
                    stack.enter_context(part())
                starts = STARTS[:1] if name == "dense" else STARTS  # which has no memory
                content["scores"][name] = score(model, samples, config, starts)
            print(name, content["scores"][name], flush=True)
            write_json(content, args.json)
            tick(done)


if __name__ == "__main__":
    main()
