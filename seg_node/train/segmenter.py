"""Supervised training of a segmentation network, resumable at any step."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
import math
import time
from typing import Any, TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from seg_node.core.types import ConfigError, DataError
from seg_node.train.checkpoint import check_space, load_checkpoint, save_checkpoint
from seg_node.train.distributed import everyones, share_batchnorm, worst
from seg_node.train.journal import Journal
from seg_node.train.losses import segmentation_loss
from seg_node.train.resolution import split_norms, use_resolution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor

    from seg_node.train.batches import Batch, BatchMaker
    from seg_node.train.settings import SegmentTraining

    Validate = Callable[[nn.Module], Mapping[str, float]]
    OnStep = Callable[[int], None]
    Tensors = tuple[Tensor, ...] | list[Tensor]
    Average = Callable[[Tensors, Tensors, Tensor | int], None]

CHECKPOINT = "checkpoint.pt"
LOG_EVERY = 20
"""Steps between two lines of the log."""
FREE = frozenset({"workers", "checkpoint_every", "validate_every"})
"""Settings that may change when a run is resumed: they do not change its curve."""
FINE, INTERRUPTED, LOST = range(3)
"""What happened to a process since its last step."""


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split parameters into decayed (convolution weights) and plain (the rest)."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


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


class SegmentTrainer:
    """Trains one network; `run` continues from the checkpoint in the folder.

    Args:
        net: network with the weights to start from, called as net(image) -> logits.
        batches: makes the batch of every step; knows the settings and which process this is.
        weights: loss weight per class, [classes].
        place: where it happens.
        validate: called with the averaged network now and then; its scores are logged.

    Raises:
        ConfigError: the folder holds a run with other settings.
        DataError: the disk has no room for checkpoints, or the checkpoint is damaged.

    """

    def __init__(
        self,
        net: nn.Module,
        batches: BatchMaker,
        weights: Tensor,
        place: Run,
        validate: Validate | None = None,
    ) -> None:
        """Prepare optimiser and average, and load the checkpoint if there is one."""
        self.config = config = batches.config
        self.batches = batches
        self.place = place
        self.validate = validate
        self.weights = weights.to(place.device)
        settings = {k: v for k, v in asdict(config).items() if k not in FREE}
        self.settings = {**settings, **place.identity}
        if config.low_norms:
            split_norms(net)
        if batches.share.world > 1:
            share_batchnorm(net)
        self.net: nn.Module = net.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
        self.optimizer = make_optimizer(self.net, config)
        self.average = AveragedModel(
            self.net, multi_avg_fn=warming_average(config.average), use_buffers=True
        )
        self.step = 0
        self.seconds = 0.0
        place.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        self._check_space()
        self.model = self._parallel()

    @property
    def checkpoint(self) -> Path:
        """Path of the one checkpoint, always replaced whole."""
        return self.place.folder / CHECKPOINT

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.batches.share.rank == 0

    def run(self, on_step: OnStep | None = None) -> nn.Module:
        """Train to the last step and return the averaged network in eval mode.

        Args:
            on_step: called with the number of steps done, after each; may raise
                KeyboardInterrupt to stop, which leaves a checkpoint.

        Raises:
            ConfigError: the loss or its gradient is no longer a number.
            DataError: a file could not be read; the text names it. A checkpoint is left.

        """
        torch.use_deterministic_algorithms(self.config.deterministic)
        journal = Journal(self.place.folder, self.step) if self.is_first else None
        self.model.train()
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
        steps: Iterator[tuple[int, Batch]],
        journal: Journal | None,
        on_step: OnStep | None,
    ) -> None:
        started, first, before = time.monotonic(), self.step, self.seconds
        interrupted = False
        while self.step < self.config.steps:
            step, batch = self._next(steps, interrupted=interrupted)
            loss = self._update(step, batch)
            self.step = step + 1
            took = time.monotonic() - started
            self.seconds = before + took
            if journal and self.step % LOG_EVERY == 0:
                left = took / (self.step - first) * (self.config.steps - self.step)
                figures = {"loss": loss, "rate": self.config.rate(step)}
                times = {"seconds": round(self.seconds), "left": round(left)}
                journal.write(self.step, {**figures, **times})
            # Before the checkpoint: a run that is killed in between validates again.
            self._validate(journal)
            if self.step % self.config.checkpoint_every == 0:
                self._save()
            interrupted = _is_interrupt(on_step, self.step)

    def _next(self, steps: Iterator[tuple[int, Batch]], *, interrupted: bool) -> tuple[int, Batch]:
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

    def averaged(self) -> nn.Module:
        """Return the exponential moving average of the network, in eval mode."""
        net: nn.Module = self.average.module
        return net.eval()

    def _update(self, step: int, batch: Batch) -> float:
        # Dropout draws the same masks in a resumed run, and others in every process.
        seeds = np.random.SeedSequence((self.config.seed, step, self.batches.share.rank))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(step)
        batch = batch.to(self.place.device)
        use_resolution(self.net, low=batch.low)
        with self._autocast():
            logits = self.model(batch.images.contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(logits.float(), batch, self.weights, self.config, phase=step)
        value = float(loss.detach())
        self._refuse_infinite("loss", value, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip_norm)
        self._refuse_infinite("gradient's norm", float(norm), step)
        self.optimizer.step()
        self.average.update_parameters(self.net)
        return value

    def _refuse_infinite(self, name: str, value: float, step: int) -> None:
        """Stop before a value that is no number reaches the weights."""
        if math.isfinite(value):
            return
        kept = "; the checkpoint is from before" if self.checkpoint.exists() else ""
        rate = self.config.learning_rate
        msg = f"the {name} became {value} at step {step}; lower learning_rate ({rate}){kept}"
        raise ConfigError(msg)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.place.device.type, torch.bfloat16)

    def _validate(self, journal: Journal | None) -> None:
        due = self.step % self.config.validate_every == 0 or self.step == self.config.steps
        if journal and self.validate and due:
            journal.write(self.step, self.validate(self.averaged()))

    def _parallel(self) -> nn.Module:
        if self.batches.share.world == 1:
            return self.net
        ids = [self.place.device.index] if self.place.device.type == "cuda" else None
        # Of resolution-specific norms, half rest in every step.
        model: nn.Module = DistributedDataParallel(
            self.net,
            device_ids=ids,
            find_unused_parameters=self.config.low_norms,
        )
        return model

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "settings": self.settings,
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _save(self) -> None:
        if self.is_first:
            save_checkpoint(self.checkpoint, self._state())

    def _resume(self) -> None:
        state = load_checkpoint(self.checkpoint, self.settings)
        if state is not None:
            self.net.load_state_dict(state["net"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])
            self.seconds = float(state["seconds"])
        steps = everyones(self.step)
        if len(set(steps)) > 1:
            msg = f"processes resume at steps {steps}; {self.place.folder} must be one for all"
            raise ConfigError(msg)

    def _check_space(self) -> None:
        weights = sum(p.numel() * p.element_size() for p in self.net.parameters())
        copies = 4 if self.config.optimizer == "adamw" else 3
        check_space(self.place.folder, copies * weights)


def warming_average(decay: float) -> Average:
    """Return the update of a moving average that forgets the start of the run faster.

    The decay of update n is the smaller of `decay` and (1 + n) / (10 + n): a short run does not
    ship the weights that it began with.
    """

    def update(averages: Tensors, currents: Tensors, count: Tensor | int) -> None:
        now = min(decay, (1.0 + float(count)) / (10.0 + float(count)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1.0 - now)
            else:
                average.copy_(current)

    return update


def _is_interrupt(on_step: OnStep | None, done: int) -> bool:
    """Tell a listener how many steps are done; return whether it wants to stop."""
    try:
        if on_step:
            on_step(done)
    except KeyboardInterrupt:
        return True
    return False


def make_optimizer(net: nn.Module, config: SegmentTraining) -> torch.optim.Optimizer:
    """Return the optimiser that the settings ask for."""
    groups = parameter_groups(net, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, config.learning_rate)
