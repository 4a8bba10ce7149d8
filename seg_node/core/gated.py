"""Modules computed in some bins, their remembered results in the others: mode stmg.

After STMG (Rhee et al., arXiv 2206.09604), from its abstract: see docs/gates.md. The output of
every module is complete, so the next one reads true or transformed neighbours, and the rest of the
network runs as it is.

What is dropped, and remembered, is the branch of a residual block. Its skip connection runs in
every bin of every frame, and to what that brings is added what the branch makes now, in the bins
that are kept, and elsewhere what it made of the same content before, moved to where that is now.
A convolution of the decoder has no skip connection: elsewhere there is what it made before, moved.
Where the input is the same the output is the same, too, bit for bit. What lies between these
modules is deferred (`core.deferred`): it is computed where one of them reads it. What follows the
last is, too, if it can be; then the network's results are remembered in place of its features.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.bins import compute_bins, parts_of
from seg_node.core.blocks import grid_shape, plane_means, scaled, to_pixels
from seg_node.core.deferred import complete, Deferred, deferred
from seg_node.core.deferring import Deferring
from seg_node.core.gate_memory import Content, Placed, StageMemory
from seg_node.core.gated_modules import branch, computed, in_place_of, joined, plain, stages_of
from seg_node.core.policy import GatePast, Past, Remembers
from seg_node.core.shown import Shown
from seg_node.core.tracking import OnHost, StepTracker
from seg_node.core.transfers import to_device
from seg_node.core.types import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import nn, Tensor

    from seg_node.core.config import Config
    from seg_node.core.device_motion import AnyMotion
    from seg_node.core.gated_modules import GatedModule
    from seg_node.core.tracking import AnyMethod
    from seg_node.core.types import Frame, Plan

_NS_PER_MS = 1_000_000
_MAX_MS = int(np.iinfo(np.uint16).max)


class GatedHistory:
    """The memory of one camera whose network is gated, and what runs on it.

    For every frame, in the order of their stamps: `look` first, then `logits`.

    Args:
        blocks: the gated modules of the network, in the order in which they run.
        stride: image pixels per pixel of the network's results.
        device: where the network runs.

    """

    remembers = Remembers.GATED

    def __init__(
        self,
        blocks: Sequence[GatedModule],
        stride: int,
        device: torch.device,
        method: AnyMethod | None = None,
    ) -> None:
        """Remember nothing."""
        self._method: AnyMethod = method or OnHost()
        self._blocks, self._stages = blocks, stages_of(blocks)
        self._side, self._device = 0, device  # the side of a bin, in image pixels
        self._stride, self._shown = stride, Shown()
        self._tracker: StepTracker[Any, Any] | None = None
        self._memories: list[StageMemory] = []
        self._contents: list[Content] = []  # of each stage
        self._stamps: list[NDArray[np.int64]] = []  # of what each stage made in this frame
        self._grey = torch.zeros(0)
        self._picture = torch.zeros(0)  # in colour, as large as the results
        self._size = (0, 0)
        self._content_ns = np.zeros((0, 0), np.int64)
        self._placed: dict[tuple[Content, int, bytes], Placed] = {}
        self._asked = False

    def ask(self) -> None:
        """Have the next frame computed in full."""
        self._asked = True

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is held on the device."""
        for memory in self._memories:
            yield from memory.tensors()
        for content in dict.fromkeys(self._contents):
            yield from content.tensors()
        yield from (self._grey, self._picture, *self._shown.tensors())

    # ---- before the plan -------------------------------------------------------------------

    def look(self, frame: Frame, config: Config) -> Past:
        """Follow the content to this frame, and return what of it can be used.

        Args:
            frame: the next frame, as the network will see it.
            config: settings in force.

        """
        if self._tracker is None or self._tracker.source != config.motion.source:
            self._tracker = StepTracker(config.motion.source, self._method)
            self._memories = []
        found = self._tracker.track(frame)
        lost = found if isinstance(found, Reason) else Reason.ASKED if self._asked else None
        if lost is None and not self._memories:
            lost = Reason.FIRST
        if lost is not None:
            size = frame.image.shape[0], frame.image.shape[1]
            self._forget(size, config.block_side(size))
        self._grey = self._method.grey(frame, self._contents[0].size).to(self._device)
        size = scaled(self._size, self._stride)
        self._picture = self._method.colours(frame, size).to(self._device)
        if lost is not None or isinstance(found, Reason):
            self._tracker.start(frame)
            return Past(lost)
        return Past(None, 1, gates=self._follow(found, frame))

    def _forget(self, size: tuple[int, int], side: int) -> None:
        self._size, self._side, self._asked = size, side, False
        self._contents = [Content(size, self._side)] * len(self._stages)
        self._memories = [
            StageMemory(stage, size, self._side, self._device) for stage in self._stages
        ]

    def _follow(self, step: AnyMotion, frame: Frame) -> GatePast:
        assert self._tracker is not None
        flow, valid = self._method.step_at(step, scaled(self._size, self._stride))
        on_device = to_device(flow, self._device), valid.to(self._device)
        doubt = self._shown.follow(*on_device, self._picture)
        own_flow, valid = self._method.step_at(step, self._contents[0].size)
        valid = valid.to(self._device)
        seen: dict[Content, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        for content in dict.fromkeys(self._contents):
            content.follow(own_flow)
            if not self._tracker.stated:
                content.correct(frame.image, self._tracker.correct)
            age_ms = (frame.stamp_ns - content.oldest_ns()) / _NS_PER_MS
            seen[content] = content.distortion(self._grey, valid), age_ms
        distortion, oldest_ms = (
            np.stack(parts)
            for parts in zip(*(seen[content] for content in self._contents), strict=True)
        )
        doubts = plane_means(doubt[None], self._side // self._stride)[0].cpu().numpy()
        return GatePast(distortion, oldest_ms, doubts)

    # ---- the network -----------------------------------------------------------------------

    def logits(self, frame: Frame, image: Tensor, plan: Plan, net: nn.Module) -> Tensor:
        """Run the network with its gates, [1, classes, h, w], and remember what was computed.

        Args:
            frame: the frame that `look` saw last.
            image: the same, RGB 0..255, uint8 [1, 3, H, W].
            plan: its gates.
            net: the network of the gated modules.

        """
        assert plan.gates is not None
        grid = grid_shape(*self._size, self._side)
        self._content_ns = np.full(grid, frame.stamp_ns, np.int64)
        self._placed.clear()
        self._stamps.clear()
        forwards = [
            partial(self._run, stage, number, kept=kept)
            for stage, kept in enumerate(plan.gates)
            for number in range(len(self._stages[stage]))
        ]
        self._share(plan.gates)
        with in_place_of(self._blocks, forwards), Deferring():
            logits = self._ended(net(image), plan.gates[-1])
        # What stages share is as old as in the last of them: age never falls from one to the next.
        renewed = dict(zip(self._contents, range(len(self._stages)), strict=True))
        for content, stage in renewed.items():
            content.renew(plan.gates[stage], frame.image, self._grey, self._stamps[stage])
        if not plan.gates.all():
            size = (logits.shape[-2], logits.shape[-1])
            bins = np.asarray(plan.gates.any(0))
            computed = to_pixels(bins, self._side // self._stride, size)
            logits = self._shown.mixed(logits, to_device(computed, self._device))
        self._shown.keep(logits, self._picture)
        return logits

    def _share(self, gates: NDArray[np.bool_]) -> None:
        """Have stages share a content where they shared one, and keep the same bins."""
        groups: dict[tuple[int, bytes], Content] = {}
        for stage, kept in enumerate(gates):
            own = self._contents[stage]
            key = 0 if kept.all() else id(own), kept.tobytes()
            if key not in groups:
                groups[key] = own.copy() if own in groups.values() else own
            self._contents[stage] = groups[key]

    def _run(self, stage: int, number: int, x: Tensor, *, kept: NDArray[np.bool_]) -> Deferred:
        """Return the output of a module that is computed where it is kept.

        Args:
            stage: number of its stage.
            number: of the module within it.
            x: its input, [1, C, h, w].
            kept: bins in which it is computed, bool [gh, gw].

        """
        block, memory = self._stages[stage][number], self._memories[stage]
        if number == 0:
            self._start(stage, kept)
        if block.ends:  # the network's results are remembered in place of the module's
            return deferred(plain(block)(complete(x) if kept.all() else deferred(x)))
        out: Tensor
        if kept.all():
            out, made = computed(block, complete(x))
            memory.keep_all(number, made)
        else:
            out = memory.mixed(number, compute_bins(branch(block), x, memory.areas))
            if block.join is not None:
                out = joined(block, complete(x), out, overwrite=True)
        return deferred(out)

    def _ended(self, found: Tensor, kept: NDArray[np.bool_]) -> Tensor:
        """Return the network's results: new where the last module is kept.

        Args:
            found: what the network returned, [1, classes, h, w].
            kept: bins in which the last module is computed, bool [gh, gw].

        """
        if not self._blocks[-1].ends:
            return complete(found)
        memory, number = self._memories[-1], len(self._stages[-1]) - 1
        if kept.all():
            memory.keep_all(number, complete(found))
            return complete(found)
        return memory.mixed(number, parts_of(found, memory.areas))

    def _start(self, stage: int, kept: NDArray[np.bool_]) -> None:
        """Begin a stage: what it makes is as old as the oldest that it rests on."""
        content = self._contents[stage]
        if not kept.all():
            oldest = np.minimum(self._content_ns, content.oldest_ns())
            self._content_ns = np.where(kept, self._content_ns, oldest)
            memory = self._memories[stage]
            key = content, memory.stride, kept.tobytes()
            if key not in self._placed:
                self._placed[key] = memory.placed(kept, content)
            memory.start(self._placed[key])
        self._stamps.append(self._content_ns)

    def age_ms(self, frame: Frame) -> NDArray[np.uint16]:
        """Return how old the oldest computation behind each bin is, uint16 [gh, gw]."""
        age = -(-(frame.stamp_ns - self._content_ns) // _NS_PER_MS)
        return np.asarray(np.clip(age, 0, _MAX_MS), np.uint16)
