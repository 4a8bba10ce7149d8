"""Training of the gates of mode stmg: which modules are worth computing where.

The network stays as it is, and is the teacher. In each pair of frames the later one is computed
with gates: hard ones, from logits with noise, with the gradient of soft ones (straight-through
Gumbel). Every picture has a share that is to be dropped, drawn anew: it is the threshold of its
gates, and what the rate loss holds them to. So the threshold of a run means that share, and turns
one network from the dense one to one that reuses nearly all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast, TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.costs import MacCounter
from seg_node.core.gated_modules import in_place_of, plain, stages_of
from seg_node.core.residual import find_gated_modules
from seg_node.core.types import ConfigError
from seg_node.nets.decision import GateNet
from seg_node.train.batches import Batch
from seg_node.train.gate_pairs import GatedPairs
from seg_node.train.learner import Learner, placed
from seg_node.train.losses import segmentation_loss
from seg_node.train.low_settings import LowTraining
from seg_node.train.optimizers import make_optimizer
from seg_node.train.pair_batches import PairBatch
from seg_node.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn, Tensor

    from seg_node.core.gated_modules import GatedModule
    from seg_node.train.gate_settings import GateTraining
    from seg_node.train.pair_batches import PairMaker
    from seg_node.train.trainer import Run

    Validate = Callable[[GateNet], Mapping[str, float]]

DICE = 13
"""Number of the stream of random numbers that gates are drawn from."""
NEARLY = 0.01
"""Gates are all open, or all shut, where no more than this share differs."""


@dataclass(frozen=True)
class Drawn:
    """Gates of a batch.

    Attributes:
        gates: 0 or 1, with the gradient of soft ones, [N, G, gh, gw].
        dropped: share that is to be dropped of each picture, [N].

    """

    gates: Tensor
    dropped: Tensor


def draw_gates(logits: Tensor, config: GateTraining, step: int) -> Drawn:
    """Draw hard gates from logits, with a threshold for every picture.

    Args:
        logits: [N, G, gh, gw].
        config: range of the thresholds, noise and seed.
        step: of the run.

    """
    rng = np.random.default_rng((config.seed, step, DICE))
    dropped = rng.uniform(config.dropped_min, config.dropped_max, len(logits))
    threshold = torch.from_numpy(np.log(dropped / (1 - dropped))).to(logits)
    noise = torch.from_numpy(rng.logistic(size=tuple(logits.shape))).to(logits)
    margin = logits - threshold.view(-1, 1, 1, 1) + config.temperature * noise
    soft = torch.sigmoid(margin / config.temperature)
    hard = (margin >= 0).to(soft)
    return Drawn(hard + (soft - soft.detach()), torch.from_numpy(dropped).to(logits))


def stage_costs(net: nn.Module, blocks: Sequence[GatedModule]) -> Tensor:
    """Return the share of each stage in the MACs of all that is gated, [G]."""
    macs: list[int] = []

    def counted(block: GatedModule, x: Tensor) -> Tensor:
        with MacCounter() as counter:
            out: Tensor = plain(block)(x)
        macs.append(counter.macs)
        return out

    device = next(net.parameters()).device
    with torch.no_grad(), in_place_of(blocks, [partial(counted, block) for block in blocks]):
        net(torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device))
    own = iter(macs)
    sums = [sum(next(own) for _ in stage) for stage in stages_of(blocks)]
    costs = torch.tensor(sums, dtype=torch.float32, device=device)
    return costs / costs.sum()


class GateTrainer(Trainer[LowTraining, PairBatch, GateNet]):
    """Trains gates; `run` continues from the checkpoint in the folder.

    Args:
        net: the network, in eval mode; it stays as it is.
        gate: gates with the weights to start from.
        batches: makes the pairs of every step; all of them in this process.
        weights: loss weight per class, [classes].
        place: where it happens.
        validate: called with the averaged gates now and then; its scores are logged.

    Raises:
        ConfigError: the folder holds a run with other settings; in `run` also that all gates were
            open, or shut, for `collapse_steps` steps.
        DataError: the disk has no room for checkpoints, or the checkpoint is damaged.

    """

    batches: PairMaker

    def __init__(  # noqa: PLR0913, PLR0917 - as its sisters, with the network that is gated
        self,
        net: nn.Module,
        gate: GateNet,
        batches: PairMaker,
        weights: Tensor,
        place: Run,
        validate: Validate | None = None,
    ) -> None:
        """Prepare what learns, and load the checkpoint if there is one."""
        super().__init__(batches, place, validate)
        self.choice = cast("GateTraining", batches.config)
        self.weights = weights.to(place.device)
        self.net = placed(net, place.device).eval().requires_grad_(requires_grad=False)
        self.blocks = find_gated_modules(self.net)
        self.costs = stage_costs(self.net, self.blocks)
        self.gate = gate.to(place.device).requires_grad_(requires_grad=True)
        self.learner = Learner(
            self.gate, make_optimizer(self.gate, self.config), self.config.average
        )
        self.open = self.shut = 0
        self._resume()

    def averaged(self) -> GateNet:
        """Return the moving average of the gates, in eval mode."""
        return cast("GateNet", self.learner.averaged())

    def _begin(self) -> None:
        self.gate.train()

    def _learn(self, step: int, batch: PairBatch) -> Mapping[str, float]:
        config = self.choice
        images, keys = (
            x.contiguous(memory_format=torch.channels_last) for x in (batch.images, batch.keys)
        )
        with self._autocast():
            pairs = GatedPairs(self.net, self.blocks, keys, batch.flow, batch.valid)
            with torch.no_grad():
                wanted = self.net(images).float().softmax(1)
                seen = pairs.seen(images, config.block_side)
            drawn = draw_gates(self.gate(seen.distortion, seen.doubt), config, step)
            logits = pairs.logits(images, drawn.gates).float()
        task = segmentation_loss(
            logits,
            Batch(images, batch.labels, wanted, low=False),
            self.weights,
            config,
            phase=step,
        )
        kept = (drawn.gates.mean((2, 3)) * self.costs).sum(1)
        rate = (1 - drawn.dropped - kept).square().mean()
        loss = task + config.rate_weight * rate
        figures = {
            "loss": float(loss.detach()),
            "task": float(task.detach()),
            "missed_share": float(rate.detach().sqrt()),
            "kept": float(kept.detach().mean()),
            "rate": config.rate(step),
        }
        self._refuse_infinite("loss", figures["loss"], step)
        self._refuse_collapse(drawn.gates.detach(), step)
        self._descend(self.learner, loss, figures["rate"], step)
        return figures

    def _refuse_collapse(self, gates: Tensor, step: int) -> None:
        """Stop a run whose gates have not told bins from each other for long."""
        kept = float(gates.mean())
        self.open = self.open + 1 if kept > 1 - NEARLY else 0
        self.shut = self.shut + 1 if kept < NEARLY else 0
        for count, how in ((self.open, "open"), (self.shut, "shut")):
            if count >= self.choice.collapse_steps:
                msg = (
                    f"the gates collapsed: all of them were {how} for {count} steps up to step "
                    f"{step}; raise rate_weight ({self.choice.rate_weight}), or lower "
                    f"learning_rate ({self.config.learning_rate}), and start anew"
                )
                raise ConfigError(msg)

    def _state(self) -> dict[str, Any]:
        return {"gate": self.learner.state(), "open": self.open, "shut": self.shut}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state["gate"])
        self.open, self.shut = int(state["open"]), int(state["shut"])

    def _bytes(self) -> int:
        return self.learner.nbytes()
