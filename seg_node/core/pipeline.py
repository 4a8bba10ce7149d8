"""One frame in, one mask out: the table of contents of the project."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
import logging
import math
import time
from typing import cast, TYPE_CHECKING

import cv2
import numpy as np
import torch

from seg_node.core.block_graphs import every_count, first_blocks
from seg_node.core.block_history import BlockHistory
from seg_node.core.blocks import grid_shape
from seg_node.core.compute import choose_compute
from seg_node.core.config import Config
from seg_node.core.costs import MacCounter
from seg_node.core.device_memory import DeviceMemory, eased, Form
from seg_node.core.execution import Executor, Refresh
from seg_node.core.gate import Gated
from seg_node.core.gated import GatedHistory
from seg_node.core.graphs import choose_graphs
from seg_node.core.history import History
from seg_node.core.masks import decide_planes, resize_result
from seg_node.core.policy import AllLow, NOTHING, Remembers
from seg_node.core.threads import FollowedThreads
from seg_node.core.timing import StageTimer
from seg_node.core.tracking import choose_method
from seg_node.core.transfers import to_host, Uploads
from seg_node.core.types import (
    Action,
    ConfigError,
    Frame,
    Plan,
    Reason,
    StepReport,
    StepResult,
    WARM_UP_CAMERA,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import nn, Tensor

    from seg_node.core.backend import BlockKernels
    from seg_node.core.block_graphs import BlockGraphs
    from seg_node.core.execution import AnyHistory, HalfBranch
    from seg_node.core.policy import BlockPolicy
    from seg_node.core.threads import Cores

LOG = logging.getLogger(__name__)

LACKS = {
    "segblocks": "no learned policy for it; choose a model that has one, or set policy.score to "
    "heuristic (applies on configure)",
    "arseg": "no half-resolution branch for it; choose a model that has one, or mode warp",
    "stmg": "no residual block that can be gated (docs/gates.md); choose another mode",
}
"""What a model lacks that cannot run a mode, and what to do about it."""

LEAST = AllLow(Reason.MEMORY)
"""Plans frames where memory of the device is short."""

WHOLE_FRAMES = ("dense", "warp", "arseg")
"""Modes that compute all of a frame in one way, or nothing."""

BLOCK_MODES = ("adaptive", "segblocks")
"""Modes that run the network on blocks of one number."""


def _size(frame: Frame) -> tuple[int, int]:
    """Return height and width of its image in pixels."""
    return frame.image.shape[0], frame.image.shape[1]


@dataclass(frozen=True)
class _Planned:
    """A frame between its plan and its mask.

    Attributes:
        frame: as the network sees it.
        image: its image on the device, [1, 3, H, W].
        size: height and width of the image as it came.
        policy: what chose the plan.
        camera: whose frame it is, as the policy was told.
        plan: what is to be computed.
        history: what is remembered of the camera.
        timer: of the frame's stages.

    """

    frame: Frame
    image: Tensor
    size: tuple[int, int]
    policy: BlockPolicy
    camera: str
    plan: Plan
    history: AnyHistory | None
    timer: StageTimer

    @property
    def seen(self) -> tuple[int, int]:
        """Return height and width of the image as the network sees it."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def refresh(self) -> Refresh | None:
        """Return what of it may be computed with the blocks of other cameras."""
        if isinstance(self.history, BlockHistory) and 0 < self.plan.high < self.plan.grid.size:
            return Refresh(self.frame, self.image, self.plan, self.history)
        return None


class Segmenter:
    """Turns frames into masks, one `step` at a time.

    It remembers the newest full computation of each camera, where the mode has a use for it.

    Args:
        net: network in eval mode; moved to the config's device and precision.
        policies: for each mode that it can run, what chooses the plan of each frame.
        config: settings; see `reconfigure` for those that may change later.
        low: half-resolution branch in eval mode; see `seg_node.core.execution.HalfBranch`. None
            for modes without LOW frames that are sharpened by memory.
        clock: nanoseconds that never go back.
        kernels: what computes blocks and decides masks; None for plain torch
            (`seg_node.nets.build.build_kernels`).
        cores: where given, steps on the CPU under a latency budget compute with fewer threads
            while other processes take cores. Masks of other budgets are the same in every run.

    Raises:
        ConfigError: the config asks for a device or precision that this machine lacks, or a mode
            that this network cannot run.

    """

    def __init__(  # noqa: PLR0913 - the parts that it is put together from
        self,
        net: nn.Module,
        policies: Mapping[str, BlockPolicy],
        config: Config | None = None,
        low: nn.Module | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
        *,
        kernels: BlockKernels | None = None,
        cores: Cores | None = None,
    ) -> None:
        """Move the network to its device."""
        self._kernels = kernels
        self._decide = decide_planes if kernels is None else kernels.decide
        self.config = config or Config()
        self.compute = choose_compute(self.config)
        self.policies = policies
        self.check(self.config)
        self._clock = clock
        self._ended_ns = clock()
        on_cpu = self.compute.device.type == "cpu"
        self._threads = FollowedThreads(cores, clock) if cores and on_cpu else None
        self._motion = choose_method(self.config.motion.estimator, self.compute.device, kernels)
        self._histories: dict[str, AnyHistory] = {}
        self._spare: BlockHistory | None = None
        self._next: tuple[Frame, float, Frame] | None = None  # as it comes, scale, as it is seen
        self._uploads = Uploads(self.compute.device)
        engines = self.config.device == "tensorrt"
        graphs = choose_graphs(self.config.graphs, self.compute.device, engines=engines)
        branch = None if low is None else cast("HalfBranch", self._placed(low))
        self._executor = Executor(self._placed(net), branch, self.config, kernels, graphs)
        self._stride = self._executor.face.stride
        self._memory = DeviceMemory(self.compute.device, self._histories, self._forget_graphs)

    def _placed(self, net: nn.Module) -> nn.Module:
        net = net.to(self.compute.device, self.compute.dtype).eval()
        placed: nn.Module = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
        return placed

    def reconfigure(self, config: Config) -> None:
        """Apply live settings from the next frame on; the others keep their values.

        Raises:
            ConfigError: this network cannot run the mode; the settings stay as they were.

        """
        self.check(config)
        self.config = self._executor.config = config

    def check(self, config: Config) -> None:
        """Refuse settings that this network cannot run.

        Raises:
            ConfigError: there is no policy for the mode.

        """
        if self.config.device == "tensorrt" and config.mode not in WHOLE_FRAMES:
            known = ", ".join(WHOLE_FRAMES)
            msg = (
                f"mode is {config.mode!r}, but device 'tensorrt' computes whole frames; choose "
                f"one of {known}, or device cuda"
            )
            raise ConfigError(msg)
        if config.mode not in self.policies:
            msg = f"mode is {config.mode!r}, but this model has {LACKS[config.mode]}"
            raise ConfigError(msg)

    def reset(self) -> None:
        """Forget all earlier frames: the next one of every camera is computed in full."""
        self._histories.clear()

    def ask_full_frame(self) -> None:
        """Have the next frame of every camera computed in full."""
        for history in tuple(self._histories.values()):
            history.ask()

    def step(self, frame: Frame, meanwhile: Callable[[], None] = lambda: None) -> StepResult:
        """Segment one frame.

        Args:
            frame: image uint8 [H, W, 3].
            meanwhile: called where a device computes beside the host, when all is launched and
                before the host waits for the mask.

        Returns:
            labels and confidence at the image's own size, the plan and its cost.

        Raises:
            DeviceMemoryError: the memory of the device does not suffice for any form of it.

        """
        with self._on_free_cores():
            return self._bounded(frame, meanwhile)

    def step_together(self, frames: Sequence[Frame]) -> list[StepResult]:
        """Segment a frame of each of several cameras, in less time than one after the other.

        Where `joins` says so, the network runs once for the blocks of all frames of one size of
        which some blocks are computed. Its time is shared out by their MACs.

        Args:
            frames: of different cameras.

        Returns:
            what `step` returns, for each of them.

        Raises:
            ConfigError: two frames are of one camera.
            DeviceMemoryError: see `step`.

        """
        cameras = [frame.camera for frame in frames]
        if len(set(cameras)) < len(cameras):
            msg = f"frames of cameras {cameras} were given together: give one of each camera"
            raise ConfigError(msg)
        if not self.joins(frames):
            return [self.step(frame) for frame in frames]
        with self._on_free_cores():
            return self._step_together(frames)

    def joins(self, frames: Sequence[Frame]) -> bool:
        """Return whether `step_together` may compute blocks of these frames together.

        That is so for frames of several cameras in mode `adaptive`, on a CPU.
        """
        several = self.may_join and len(frames) > 1
        return several and all(self._memory.is_whole(each.camera) for each in frames)

    @property
    def may_join(self) -> bool:
        """Whether frames of several cameras may be computed together: see `joins`."""
        plain = self._kernels is None and self.compute.device.type == "cpu"
        return plain and self.config.mode == "adaptive"

    def _on_free_cores(self) -> AbstractContextManager[object]:
        """Return what a step runs in, so that it uses as many threads as it may."""
        if self._threads is None:
            return nullcontext()
        if not self.config.budget.latency_ms:
            self._threads.release()
            return nullcontext()
        return self._threads

    def send_ahead(self, frame: Frame) -> None:
        """Start sending the image of the frame that comes next to the device.

        To be called from `meanwhile`: then the copy runs beside the device's work on this frame.
        """
        self._next = frame, self.config.input.scale, self._scaled(frame)
        self._uploads.send_ahead(self._next[-1].image)

    def _bounded(self, frame: Frame, meanwhile: Callable[[], None]) -> StepResult:
        """Segment a frame in the form for which there is memory."""
        config, timer = self.config, StageTimer(self._clock)
        compute = partial(self._step, frame, meanwhile, config, timer)
        return self._memory.step(frame.camera, config, compute)

    def _step(
        self,
        frame: Frame,
        meanwhile: Callable[[], None],
        config: Config,
        timer: StageTimer,
        form: Form,
    ) -> StepResult:
        config = eased(config) if form is Form.FEWER else config
        policy = LEAST if form is Form.LOW else self.policies[config.mode]
        planned = self._planned(frame, config, policy, timer)
        with torch.inference_mode():
            logits, macs = self._computed(planned)
            result = self._decided(planned, logits, macs, meanwhile)
        self._learn([(planned, result)])
        return result

    def _step_together(self, frames: Sequence[Frame]) -> list[StepResult]:
        config, policy = self.config, self.policies[self.config.mode]
        planned = [
            self._planned(frame, config, policy, StageTimer(self._clock, alone=False))
            for frame in frames
        ]
        groups: dict[object, list[_Planned]] = {}
        for each in planned:
            groups.setdefault(each.seen if each.refresh else id(each), []).append(each)
        outcomes = []
        with torch.inference_mode():
            for group in groups.values():
                for each, (logits, macs) in zip(group, self._group_computed(group), strict=True):
                    outcomes.append((each, self._decided(each, logits, macs, lambda: None)))
        self._learn(outcomes)
        found = {each.frame.camera: result for each, result in outcomes}
        return [self._kept_within_memory(each.camera, config, found) for each in frames]

    def _kept_within_memory(
        self, camera: str, config: Config, found: Mapping[str, StepResult]
    ) -> StepResult:
        """Return the result of a camera's frame, with what is remembered within its bound."""
        return self._memory.step(camera, config, lambda _: found[camera])

    def _planned(
        self, frame: Frame, config: Config, policy: BlockPolicy, timer: StageTimer
    ) -> _Planned:
        """Return a frame with what is to be computed of it."""
        size = _size(frame)
        with timer.stage("prepare"):
            frame = self._scaled(frame)
            image = self._uploads.send(frame.image)
            self._motion.take(frame, image)
        history = self._history(frame, policy)
        with timer.stage("motion"):
            past = history.look(frame, config) if history else NOTHING
        with timer.stage("plan"):
            plan = policy.plan(image, config, past)
        return _Planned(frame, image, size, policy, past.camera, plan, history, timer)

    def _computed(self, planned: _Planned) -> tuple[Tensor, int]:
        """Return the logits of a frame and the MACs that they took."""
        with planned.timer.stage("execute"), MacCounter() as counter:
            logits = self._execute(planned.frame, planned.image, planned.plan, planned.history)
        return logits, counter.macs

    def _execute(
        self, frame: Frame, image: Tensor, plan: Plan, history: AnyHistory | None
    ) -> Tensor:
        logits = self._executor.run(frame, image, plan, history)
        if (plan.grid == Action.HIGH).all():
            self._forget_unused_graphs()
        return logits

    def _group_computed(self, group: Sequence[_Planned]) -> list[tuple[Tensor, int]]:
        """Return the same for each of some frames, whose blocks are computed together."""
        parts = [each.refresh for each in group]
        refreshes = [part for part in parts if part is not None]
        if len(refreshes) < len(group) or len(group) == 1:
            return [self._computed(each) for each in group]
        began_ns = self._clock()
        with MacCounter() as counter:
            logits = self._executor.together(refreshes)
        took_ns, macs = self._clock() - began_ns, counter.shares([x.plan.high for x in group])
        for each, own in zip(group, macs, strict=True):
            each.timer.add("execute", took_ns * own // sum(macs))
        return list(zip(logits, macs, strict=True))

    def _decided(
        self, planned: _Planned, logits: Tensor, macs: int, meanwhile: Callable[[], None]
    ) -> StepResult:
        """Return the result of a frame whose logits were computed."""
        timer, history, plan = planned.timer, planned.history, planned.plan
        with timer.stage("decide"):
            planes = self._decide(logits, self._stride, planned.seen)
            if isinstance(history, BlockHistory):
                planes = history.sharpened(planes, self._kernels)
            if self._uploads.beside:
                meanwhile()
            labels, confidence = to_host(*planes)
        with timer.stage("finish"):
            labels, confidence = resize_result(labels, confidence, planned.size)
            side = self.config.block_side(planned.seen)
            macs += planned.policy.macs(planned.seen, side)
            age_ms = np.zeros_like(plan.grid, np.uint16)
            if history:
                age_ms = history.age_ms(planned.frame)
        dense = self._executor.dense_macs(*planned.seen)
        report = StepReport(timer.stages, timer.total_ns(), macs, dense)
        return StepResult(labels, confidence, plan, age_ms, report)

    def _learn(self, outcomes: Sequence[tuple[_Planned, StepResult]]) -> None:
        """Tell policies what frames cost that were computed together, or one alone."""
        before_ns, self._ended_ns = self._ended_ns, self._clock()
        interval_ns = (self._ended_ns - before_ns) // len(outcomes)
        for planned, result in outcomes:
            planned.policy.learn(planned.camera, planned.plan, result.report, interval_ns)

    def warm_up(self, height: int, width: int) -> None:
        """Run every kind of frame of the mode on a black image, so that no real one is slow."""
        black = np.zeros((height, width, 3), np.uint8)
        for stamp_ns in (0, 1_000_000):
            self.step(Frame(black, stamp_ns, camera=WARM_UP_CAMERA))
        blocks = self._executor.blocks
        if self.config.mode in BLOCK_MODES:
            frame = Frame(black, 2_000_000, camera=WARM_UP_CAMERA)
            if blocks is None:
                self._run_blocks(frame)
            else:
                self._record_blocks(frame, blocks)
        history = self._histories.pop(WARM_UP_CAMERA, None)
        if isinstance(history, BlockHistory):
            history.forget()
            self._spare = history  # with the tables that were recorded: the first camera's

    def _record_blocks(self, frame: Frame, blocks: BlockGraphs) -> None:
        """Record the network for every number of blocks."""
        began_ns = self._clock()
        try:
            recorded = self._run_blocks(frame)
        except torch.cuda.OutOfMemoryError:
            LOG.warning("memory is short: networks on blocks are recorded when they are needed")
            self._histories.pop(frame.camera, None)
            self._forget_graphs()
            return
        if recorded:
            took_s = (self._clock() - began_ns) / 1e9
            LOG.info("recorded networks on %d numbers of blocks in %.1f s", blocks.count, took_s)

    @torch.inference_mode()
    def _run_blocks(self, frame: Frame) -> bool:
        """Run the network on blocks of a frame, on all numbers that are recorded, or else on few.

        Returns:
            whether it did: not where nothing is remembered.

        """
        history = self._history(frame, self.policies[self.config.mode])
        image = self._uploads.send(frame.image)
        self._motion.take(frame, image)
        past = NOTHING if history is None else history.look(frame, self.config)
        if past.lost is not None:  # memory was short before there were blocks
            return False
        height, width = _size(frame)
        shape = grid_shape(height, width, self.config.block_side((height, width)))
        other = Action.LOW if history is None else Action.REUSE
        few = (first_blocks(shape, count, other) for count in (1, max(1, math.prod(shape) // 8)))
        recorded = self._executor.blocks is not None
        grids = every_count(shape, self._executor.buckets, other) if recorded else few
        for grid in grids:
            self._execute(frame, image, Plan(grid, Reason.ASKED), history)
        return True

    def _block_history(self, size: tuple[int, int]) -> BlockHistory:
        """Return a memory of blocks for a camera whose images the network sees in this size."""
        side, device = self.config.block_side(size), self.compute.device
        return BlockHistory(self._stride, side, device, self._motion)

    def _scaled(self, frame: Frame) -> Frame:
        """Return the frame with its image as the network will see it."""
        scale = self.config.input.scale
        if scale == 1.0:
            return frame
        if self._next is not None and self._next[0] is frame and self._next[1] == scale:
            return self._next[2]
        height, width = self.config.seen_size(_size(frame))
        image = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
        return replace(frame, image=np.asarray(image, np.uint8))

    def _history(self, frame: Frame, policy: BlockPolicy) -> AnyHistory | None:
        """Return what is remembered of a camera; nothing is, in modes without a use for it.

        Args:
            frame: one of its frames, as the network will see it.
            policy: of the mode.

        """
        camera, remembers = frame.camera, policy.remembers
        history = self._histories.get(camera)
        if history is None or history.remembers is not remembers:
            self._histories.pop(camera, None)
            history = None
        if history is None and remembers is Remembers.FRAME:
            history = self._histories[camera] = History(self._motion)
        if history is None and remembers is Remembers.BLOCKS:
            history, self._spare = self._spare or self._block_history(_size(frame)), None
            self._histories[camera] = history
        if history is None and isinstance(policy, Gated):
            device = self.compute.device
            history = GatedHistory(policy.blocks, self._stride, device, self._motion)
            self._histories[camera] = history
        return history

    def _forget_graphs(self) -> None:
        self._spare = None
        self._executor.forget_graphs()

    def _forget_unused_graphs(self) -> None:
        """Forget what was recorded over memories that no camera has any more."""
        kept = (*self._histories.values(), self._spare)
        self._executor.keep_graphs([h.features for h in kept if isinstance(h, BlockHistory)])
