"""The loop of every training: steps, log, scores, and a checkpoint from which any run goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
import math
import time
from typing import Any, Generic, TYPE_CHECKING, TypeVar

import numpy as np
import torch

from seg_node.core.types import ConfigError, DataError
from seg_node.train.batches import Made, Settings
from seg_node.train.checkpoint import check_space, load_checkpoint, save_checkpoint
from seg_node.train.distributed import everyones, worst
from seg_node.train.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor

    from seg_node.train.batches import Maker
    from seg_node.train.learner import Learner

    OnStep = Callable[[int], None]

Outcome = TypeVar("Outcome")
"""What a training makes."""

CHECKPOINT = "checkpoint.pt"
LOG_EVERY = 20
"""Steps between two lines of the log."""
FREE = frozenset({"workers", "checkpoint_every", "validate_every"})
"""Settings that may change when a run is resumed: they do not change its curve."""
FINE, INTERRUPTED, LOST = range(3)
"""What happened to a process since its last step."""


@dataclass(frozen=True)
class Run:
    """Where a training happens.

    Attributes:
        folder: where checkpoint and log live; created if missing.
        device: where to compute.
        identity: what a resumed run must share besides the settings, such as the data.

    """

    folder: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    identity: Mapping[str, str] = field(default_factory=dict)


class Trainer(ABC, Generic[Settings, Made, Outcome]):
    """Trains what a subclass holds; `run` continues from the checkpoint in the folder.

    A subclass builds its networks and optimisers after `super().__init__`, and then calls
    `_resume`.

    Args:
        batches: makes the batch of every step; knows the settings and which process this is.
        place: where it happens.
        validate: called with the averaged outcome now and then; its scores are logged.

    """

    def __init__(
        self,
        batches: Maker[Settings, Made],
        place: Run,
        validate: Callable[[Outcome], Mapping[str, float]] | None = None,
    ) -> None:
        """Start at step 0, in a folder that exists."""
        self.config = batches.config
        self.batches = batches
        self.place = place
        self.validate = validate
        settings = {k: v for k, v in asdict(batches.config).items() if k not in FREE}
        self.settings = {**settings, **place.identity}
        self.step = 0
        self.seconds = 0.0
        place.folder.mkdir(parents=True, exist_ok=True)

    # ---- what a subclass knows -------------------------------------------------------------

    @abstractmethod
    def averaged(self) -> Outcome:
        """Return the exponential moving average of what is trained, in eval mode."""

    @abstractmethod
    def _begin(self) -> None:
        """Put what is trained into training mode."""

    @abstractmethod
    def _learn(self, step: int, batch: Made) -> Mapping[str, float]:
        """Take one step and return its figures for the log."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the networks and optimisers."""

    @abstractmethod
    def _load(self, state: Mapping[str, Any]) -> None:
        """Take over what `_state` returned."""

    @abstractmethod
    def _bytes(self) -> int:
        """Return about how large a checkpoint is."""

    # ---- the loop --------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        """Path of the one checkpoint, always replaced whole."""
        return self.place.folder / CHECKPOINT

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.batches.share.rank == 0

    def run(self, on_step: OnStep | None = None) -> Outcome:
        """Train to the last step and return the averaged outcome in eval mode.

        Args:
            on_step: called with the number of steps done, after each; may raise
                KeyboardInterrupt to stop, which leaves a checkpoint.

        Raises:
            ConfigError: a loss or its gradient is no longer a number.
            DataError: a file could not be read; the text names it. A checkpoint is left.

        """
        torch.use_deterministic_algorithms(self.config.deterministic)
        journal = Journal(self.place.folder, self.step) if self.is_first else None
        self._begin()
        steps = self.batches.run(self.step, self.config.steps)
        try:
            self._run(steps, journal, on_step)
        finally:
            steps.close()
            if journal:
                journal.close()
        self._save()
        return self.averaged()

    def _run(
        self,
        steps: Iterator[tuple[int, Made]],
        journal: Journal | None,
        on_step: OnStep | None,
    ) -> None:
        started, first, before = time.monotonic(), self.step, self.seconds
        interrupted = False
        while self.step < self.config.steps:
            step, batch = self._next(steps, interrupted=interrupted)
            self._seed(step)
            figures = self._learn(step, batch.to(self.place.device))
            self.step = step + 1
            took = time.monotonic() - started
            self.seconds = before + took
            if journal and self.step % LOG_EVERY == 0:
                left = took / (self.step - first) * (self.config.steps - self.step)
                times = {"seconds": round(self.seconds), "left": round(left)}
                journal.write(self.step, {**figures, **times})
            # Before the checkpoint: a run that is killed in between validates again.
            self._validate(journal)
            if self.step % self.config.checkpoint_every == 0:
                self._save()
            interrupted = _is_interrupt(on_step, self.step)

    def _next(self, steps: Iterator[tuple[int, Made]], *, interrupted: bool) -> tuple[int, Made]:
        """Return the next batch, or stop all processes together with a checkpoint."""
        lost: DataError | None = None
        found = None
        try:
            found = next(steps)
        except DataError as err:
            lost = err
        code = worst(LOST if lost else INTERRUPTED if interrupted else FINE)
        if code != FINE:
            self._save()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if found is None or code == LOST:
            why = lost or "another process could not read a file; its own lines name it"
            msg = f"training stopped after step {self.step}, with a checkpoint: {why}"
            raise DataError(msg) from lost
        return found

    def _seed(self, step: int) -> None:
        """Let dropout draw the same masks in a resumed run, and others in every process."""
        seeds = np.random.SeedSequence((self.config.seed, step, self.batches.share.rank))
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def _refuse_infinite(self, name: str, value: float, step: int) -> None:
        """Stop before a value that is no number reaches the weights."""
        if math.isfinite(value):
            return
        kept = "; the checkpoint is from before" if self.checkpoint.exists() else ""
        rate = self.config.learning_rate
        msg = f"the {name} became {value} at step {step}; lower learning_rate ({rate}){kept}"
        raise ConfigError(msg)

    def _descend(self, learner: Learner, loss: Tensor, rate: float, step: int) -> None:
        """Take a step of a learner down the gradient of its loss.

        Raises:
            ConfigError: the gradient's norm is no number; the weights are as before.

        """
        learner.find_gradient(loss)
        self._follow(learner, rate, step)

    def _follow(
        self, learner: Learner, rate: float, step: int, name: str = "gradient's norm"
    ) -> None:
        """Take a step of a learner down the gradient that it has found.

        Args:
            learner: has found its gradient.
            rate: learning rate.
            step: number of the step, for the error.
            name: what the norm of the gradient is called in the error.

        Raises:
            ConfigError: the gradient's norm is no number; the weights are as before.

        """
        norm = learner.clip_gradient(self.config.clip_norm)
        self._refuse_infinite(name, norm, step)
        learner.descend(rate)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.place.device.type, torch.bfloat16)

    def _validate(self, journal: Journal | None) -> None:
        due = self.step % self.config.validate_every == 0 or self.step == self.config.steps
        if journal and self.validate and due:
            journal.write(self.step, self.validate(self.averaged()))

    # ---- checkpoints -----------------------------------------------------------------------

    def _save(self) -> None:
        if self.is_first:
            progress = {"step": self.step, "seconds": self.seconds, "settings": self.settings}
            save_checkpoint(self.checkpoint, {**progress, **self._state()})

    def _resume(self) -> None:
        """Continue from the checkpoint, if there is one.

        Raises:
            ConfigError: the folder holds a run with other settings.
            DataError: the disk has no room for checkpoints, or the checkpoint is damaged.

        """
        state = load_checkpoint(self.checkpoint, self.settings)
        if state is not None:
            self._load(state)
            self.step = int(state["step"])
            self.seconds = float(state["seconds"])
        steps = everyones(self.step)
        if len(set(steps)) > 1:
            msg = f"processes resume at steps {steps}; {self.place.folder} must be one for all"
            raise ConfigError(msg)
        check_space(self.place.folder, self._bytes())


def _is_interrupt(on_step: OnStep | None, done: int) -> bool:
    """Tell a listener how many steps are done; return whether it wants to stop."""
    try:
        if on_step:
            on_step(done)
    except KeyboardInterrupt:
        return True
    return False
