"""What is done where a device's memory is short, and the way back.

A step that runs out of memory may have left what is remembered of its camera half written. So all
of that is forgotten, the frame is computed once more at half resolution with nothing remembered,
which is the least that gives a mask, and from the next frame on more is left out: one rung of a
`Ladder` for each shortage. One rung is taken back for every so many frames without a shortage; a
return that failed has to wait twice as long the next time, up to `MOST_QUIET`. Frames are counted,
not seconds: equal frames get equal masks in every run (law 6).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from enum import auto, Enum
from typing import Generic, NamedTuple, Protocol, TYPE_CHECKING, TypeVar

import torch

from seg_node.core.types import DeviceMemoryError, MemoryUse, WARM_UP_CAMERA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from seg_node.core.config import Config
    from seg_node.core.types import StepResult

LEAST_QUIET = 64
"""Frames without a shortage, of all cameras, after which one rung is taken back."""

MOST_QUIET = 2048
"""The most that it becomes: where memory stays short, one frame in so many is lost to trying."""

FEWER = 0.5
"""Part of the blocks that are still computed where fewer shall be."""

USE_FRAMES = 30
"""Frames, of all cameras, over which it is forgotten how much a camera was used."""

BYTES_PER_MB = 1e6

CHOOSING = frozenset({"adaptive", "segblocks", "stmg"})
"""Modes whose settings say how many blocks are computed."""


class Form(Enum):
    """How much of a frame is computed."""

    WHOLE = auto()
    """As the settings say."""
    FEWER = auto()
    """With `FEWER` of the blocks that the settings allow."""
    LOW = auto()
    """At half resolution, with nothing remembered."""


class Rung(NamedTuple):
    """One thing that is left out.

    Attributes:
        form: how frames are computed.
        camera: whose frames; None for all.

    """

    form: Form
    camera: str | None = None

    def __str__(self) -> str:
        """Return it as a clause."""
        if self.form is Form.FEWER:
            return f"{FEWER:.0%} of the blocks"
        whose = "all cameras" if self.camera is None else f"camera {self.camera!r}"
        return f"{whose} at half resolution and not remembered"


class Ladder:
    """What is left out now: one rung more for each shortage, one less after quiet.

    First the least used camera is no longer remembered, then the next, as long as two are; then
    there are fewer blocks, in modes that choose blocks; then no camera is remembered.

    Attributes:
        rungs: what is left out, the newest last.

    """

    def __init__(self) -> None:
        """Leave out nothing."""
        self.rungs: list[Rung] = []
        self._use: dict[str, float] = {}
        self._quiet = 0
        self._patience = LEAST_QUIET
        self._returned = False

    def note(self, camera: str) -> None:
        """Count a frame, and take a rung back where there was no shortage for long enough."""
        kept = 1 - 1 / USE_FRAMES
        self._use = {name: use * kept for name, use in self._use.items()}
        self._use[camera] = self._use.get(camera, 0.0) + 1
        self._quiet += 1
        if self._quiet < self._patience:
            return
        self._quiet = 0
        self._returned = bool(self.rungs)
        if self.rungs:
            self.rungs.pop()
        else:
            self._patience = LEAST_QUIET

    def climb(self, remembered: Iterable[str], *, blocks: bool) -> Rung | None:
        """Leave out one thing more.

        Args:
            remembered: cameras of which something is.
            blocks: whether the mode chooses blocks, so that there can be fewer.

        Returns:
            What; None where nothing is left to leave out.

        """
        if self._returned:
            self._patience = min(2 * self._patience, MOST_QUIET)
        self._quiet, self._returned = 0, False
        rung = self._next(set(remembered), blocks=blocks)
        if rung is not None:
            self.rungs.append(rung)
        return rung

    def _next(self, remembered: set[str], *, blocks: bool) -> Rung | None:
        whole = sorted(remembered - {rung.camera for rung in self.rungs})
        if len(whole) > 1:
            return Rung(Form.LOW, min(whole, key=lambda name: self._use.get(name, 0.0)))
        rungs = (Rung(Form.FEWER), Rung(Form.LOW)) if blocks else (Rung(Form.LOW),)
        if Rung(Form.LOW) in self.rungs:
            return None
        return next(rung for rung in rungs if rung not in self.rungs)

    def form(self, camera: str) -> Form:
        """Return how a frame of a camera is computed."""
        forms = {rung.form for rung in self.rungs if rung.camera in {None, camera}}
        return next((form for form in (Form.LOW, Form.FEWER) if form in forms), Form.WHOLE)

    def __str__(self) -> str:
        """Return what is left out, empty for nothing."""
        return "; ".join(map(str, self.rungs))


class Remembering(Protocol):
    """What is remembered of one camera."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield what it holds on the device."""
        ...


History = TypeVar("History", bound=Remembering)


@dataclass
class _Counts:
    """Times since the start that memory was short, and frames that got no mask."""

    short: int = 0
    lost: int = 0


class DeviceMemory(Generic[History]):
    """Runs steps within the memory of a device.

    The setting `memory_limit_mb` bounds, on a CUDA device, all that torch may take there: the
    allocator refuses more as if it were not there. On any device it bounds what is remembered of
    all cameras, which is looked at after each frame.

    Args:
        device: where the network runs.
        histories: what is remembered of each camera, by its name; cameras are taken out of it.
        release: frees what can be made again, wherever memory is short.

    """

    def __init__(
        self,
        device: torch.device,
        histories: dict[str, History],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Start with nothing left out."""
        self._device = device
        self._histories = histories
        self._release = release
        self._ladder = Ladder()
        self._counts = _Counts()
        self._limit_mb: float | None = None  # as torch's allocator was told last

    def step(
        self, camera: str, config: Config, compute: Callable[[Form], StepResult]
    ) -> StepResult:
        """Segment a frame, in a lesser form where memory is short.

        Args:
            camera: its camera.
            config: settings in force.
            compute: computes the frame in a form; of the cameras it may remember this one only.

        Raises:
            DeviceMemoryError: not even the least form fits; the frame has no mask.

        """
        self._begin(config)
        self._ladder.note(camera)
        for form in (self._ladder.form(camera), Form.LOW):
            with suppress(torch.cuda.OutOfMemoryError):
                return self._told(compute(form), config)
            # Not before here: until the error is gone, so are not the activations of its frames.
            self._short(camera, form, config)
        self._counts.lost += 1
        msg = (
            "a frame does not fit into the memory of the device, even at half resolution; lower "
            "input.scale, raise memory_limit_mb if it is set, or choose a smaller model"
        )
        raise DeviceMemoryError(msg)

    def is_whole(self, camera: str) -> bool:
        """Return whether nothing is left out of a camera's frames."""
        return self._ladder.form(camera) is Form.WHOLE

    def _begin(self, config: Config) -> None:
        """Bound what torch may take of the device, and begin to look for the peak."""
        if self._device.type != "cuda":
            return
        torch.cuda.reset_peak_memory_stats(self._device)
        if config.memory_limit_mb != self._limit_mb:
            self._limit_mb = config.memory_limit_mb
            total = torch.cuda.get_device_properties(self._device).total_memory
            share = config.memory_limit_mb * BYTES_PER_MB / total
            torch.cuda.set_per_process_memory_fraction(min(1.0, share or 1.0), self._device)

    def _short(self, camera: str, form: Form, config: Config) -> None:
        """Forget what the failed step may have torn, and leave out more."""
        self._counts.short += 1
        self._leave_out({*self._histories, camera}, config)
        self._histories.pop(camera, None)
        if form is Form.LOW:
            self._histories.clear()
        self._release()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _leave_out(self, remembered: Iterable[str], config: Config) -> bool:
        """Climb, and forget whom the new rung names; False where nothing is left to leave out."""
        remembered = set(remembered) - {WARM_UP_CAMERA}
        rung = self._ladder.climb(remembered, blocks=config.mode in CHOOSING)
        if rung is None:
            return False
        if rung.form is Form.LOW:
            for camera in remembered if rung.camera is None else {rung.camera}:
                self._histories.pop(camera, None)
        return True

    def _told(self, result: StepResult, config: Config) -> StepResult:
        """Keep what is remembered within its bound, and report."""
        held = most = held_bytes(self._histories.values())
        if 0 < config.memory_limit_mb < held / BYTES_PER_MB:
            self._counts.short += 1
        while 0 < config.memory_limit_mb < held / BYTES_PER_MB:
            if not self._leave_out(self._histories, config):
                self._histories.clear()
            self._release()  # what was recorded over them holds them
            held = held_bytes(self._histories.values())
        use = MemoryUse(
            self._peak(most), held, self._counts.short, self._counts.lost, str(self._ladder)
        )
        return replace(result, report=replace(result.report, memory=use))

    def _peak(self, held: int) -> int:
        if self._device.type != "cuda":
            return held
        statistics = torch.cuda.memory_stats_as_nested_dict(self._device)
        return int(statistics["allocated_bytes"]["all"]["peak"])


def eased(config: Config) -> Config:
    """Return settings with `FEWER` of the blocks."""
    budget, policy, gate = config.budget, config.policy, config.gate
    return replace(
        config,
        budget=replace(
            budget, latency_ms=FEWER * budget.latency_ms, compute=FEWER * budget.compute
        ),
        policy=replace(policy, high_fraction=FEWER * policy.high_fraction),
        gate=replace(gate, threshold=1 - FEWER * (1 - gate.threshold)),
    )


def held_bytes(histories: Iterable[Remembering]) -> int:
    """Return the bytes behind all tensors that are remembered; what several share counts once."""
    storages = (tensor.untyped_storage() for history in histories for tensor in history.tensors())
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
