"""Supervised training of a segmentation network from scratch, resumable at any step."""

from __future__ import annotations

from dataclasses import asdict
import json
import logging
import math
import time
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from seg_node.core.types import ConfigError
from seg_node.train.batches import BatchMaker
from seg_node.train.losses import class_weights, segmentation_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from seg_node.data.datasets import Sample
    from seg_node.train.settings import SegmentTraining

    Validate = Callable[[nn.Module], Mapping[str, float]]

LOG = logging.getLogger(__name__)


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split parameters into decayed (convolution weights) and plain (the rest)."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


class SegmentTrainer:
    """Trains one network; `run` continues from the newest checkpoint in `folder`.

    Args:
        net: network with fresh weights, called as net(image) -> logits.
        samples: labelled frames.
        config: hyper-parameters.
        folder: where checkpoint and log live; created if missing.
        validate: called with the averaged network now and then; its scores are logged.

    Raises:
        ConfigError: the folder holds a run with other hyper-parameters.

    """

    def __init__(
        self,
        net: nn.Module,
        samples: Sequence[Sample],
        config: SegmentTraining,
        folder: Path,
        validate: Validate | None = None,
    ) -> None:
        """Prepare batches, optimiser and average, and load a checkpoint if there is one."""
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the keyword
        self.config = config
        self.folder = folder
        self.validate = validate
        self.batches = BatchMaker(samples, config)
        self.optimizer = torch.optim.AdamW(parameter_groups(net, config.weight_decay))
        self.average = AveragedModel(
            net,
            multi_avg_fn=get_ema_multi_avg_fn(config.average),  # type: ignore[no-untyped-call]  # torch's stub
            use_buffers=True,
        )
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def checkpoint(self) -> Path:
        """Path of the one checkpoint, always replaced whole."""
        return self.folder / "checkpoint.pt"

    def run(self) -> nn.Module:
        """Train to the last step and return the averaged network in eval mode."""
        config = self.config
        classes = int(getattr(self.net, "classes", 0))
        weights = class_weights(self.batches.label_counts(classes), config.softness)
        self.net.train()
        started = time.monotonic()
        for step, images, labels in self.batches.run(self.step, config.steps):
            loss = self._update(step, images, labels, weights)
            self.step = step + 1
            if self.step % 20 == 0:
                self._log({"loss": loss, "rate": config.rate(step)}, time.monotonic() - started)
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self._save()
            if self.validate and self.step % config.validate_every == 0:
                self._log(dict(self.validate(self.averaged())), time.monotonic() - started)
        return self.averaged()

    def averaged(self) -> nn.Module:
        """Return the exponential moving average of the network, in eval mode."""
        net: nn.Module = self.average.module
        return net.eval()

    def _update(self, step: int, images: Tensor, labels: Tensor, weights: Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(step)
        logits = self.net(images.contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(logits, labels, weights, jaccard=self.config.jaccard, phase=step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()
        self.average.update_parameters(self.net)
        value = float(loss.detach())
        if not math.isfinite(value):
            rate = self.config.learning_rate
            msg = f"loss became {value} at step {step}; lower learning_rate ({rate})"
            raise ConfigError(msg)
        return value

    def _log(self, values: dict[str, float], seconds: float) -> None:
        line = {"step": self.step, "seconds": round(seconds, 1), **values}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        LOG.info("%s", json.dumps(line))

    def _save(self) -> None:
        state = {
            "step": self.step,
            "config": asdict(self.config),
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        mine, theirs = asdict(self.config), state["config"]
        changed = sorted(k for k in mine if mine[k] != theirs.get(k))
        if changed:
            was = {k: theirs.get(k) for k in changed}
            msg = f"{self.folder} holds a run with other settings ({was}); use another folder"
            raise ConfigError(msg)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        LOG.info("resumed %s at step %d", self.folder, self.step)
