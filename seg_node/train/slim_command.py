"""`seg_node train slim`: from named data to a smaller network, and what it cost."""

from __future__ import annotations

from dataclasses import asdict
import hashlib
import json
from typing import Any, TYPE_CHECKING

import torch

from seg_node.nets.manifest import Manifest
from seg_node.nets.weights import save_weights
from seg_node.train import start
from seg_node.train.batches import label_counts
from seg_node.train.complexity import score_pictures
from seg_node.train.distributed import choose_device, join_alone
from seg_node.train.losses import class_weights
from seg_node.train.pools import kinds_of, refuse_impossible, TrainingData
from seg_node.train.request import data_identity, slim_command_line
from seg_node.train.slim_batches import SlimBatchMaker
from seg_node.train.slim_schedule import plan, slimmed_data
from seg_node.train.slimmer import PASSES, SlimTrainer
from seg_node.train.trainer import Run
from seg_node.train.validation import validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from seg_node.core.types import ClassInfo
    from seg_node.train.data_slimming import DataManifest
    from seg_node.train.request import SlimRequest
    from seg_node.train.slimmer import Validate
    from seg_node.train.trainer import OnStep

RECORD = "record.json"


class SlimJob:
    """A training that is ready to run: data opened, checked and slimmed, teachers heard.

    Into the folder of the run it writes `data_slimming.json`, how each frame is shown; and, at
    the end, weights and manifest of the slimmed network, and `record.json`, what all this cost.

    Args:
        request: what to train.

    Raises:
        DataError: the data cannot be used; the text names the file.
        ModelError: unknown network, teacher or start, or a network that cannot be slimmed.
        ConfigError: several processes, a target that cannot be reached, or the folder holds a run
            that is not to be continued, or another one.

    """

    def __init__(self, request: SlimRequest) -> None:
        """Prepare everything."""
        self.request = request
        self.share = join_alone("slimming is done")
        device = choose_device()
        refuse_impossible(request, device)
        settings = request.settings
        self.schedule = plan(settings)
        data = TrainingData(request)
        self.classes = data.classes
        self.size = data.size
        pools = data.pools(device, self.share)
        names = [frame.name for frame in data.frames]
        scored = score_pictures(names, pools.labelled, settings.complexity)
        loose = min(1.0, sum(pools.loose_shares(settings)))
        self.data = slimmed_data(settings, self.schedule, scored, loose)
        counts = label_counts(pools.labelled, len(self.classes))
        self.trainer = SlimTrainer(
            start_network(request, self.classes),
            SlimBatchMaker(pools, settings, self.data, self.schedule.data_steps),
            class_weights(counts, settings.softness),
            Run(request.out, device, identity(request, self.classes, self.data)),
            self.schedule,
            self.size,
            self._validation(data),
        )
        self.data.write(request.out)

    def run(self, on_step: OnStep | None = None) -> list[Manifest]:
        """Train, or continue, and write the slimmed model and the record.

        Args:
            on_step: called with the number of steps done, after each; see `Trainer.run`.

        """
        net = self.trainer.run(on_step)
        manifest = self._write(net.cpu())
        record = json.dumps(self.record(), indent=2)
        (self.request.out / RECORD).write_text(record + "\n")
        return [manifest]

    def record(self) -> dict[str, Any]:
        """Return what the run was and what it cost so far; MACs, seconds, fractions 0..1."""
        trainer, settings = self.trainer, self.request.settings
        return {
            "command": slim_command_line(self.request),
            "slim": settings.slim,
            "seed": settings.seed,
            "steps": trainer.step,
            "seconds": round(trainer.seconds, 1),
            "passes_per_step": PASSES,
            "training_macs": trainer.training_macs,
            "normal_training_macs": trainer.normal_macs,
            "training_share": trainer.training_macs / trainer.normal_macs,
            "frame": list(self.size),
            "inference_macs": trainer.inference_macs,
            "normal_inference_macs": trainer.whole_macs,
            "inference_share": trainer.inference_macs / trainer.whole_macs,
            "data_strength": self.data.strength,
            "schedule": asdict(self.schedule),
        }

    def _validation(self, data: TrainingData) -> Validate | None:
        pictures = data.validation()
        if pictures is None:
            return None
        classes = len(self.classes)

        def score(net: nn.Module) -> Mapping[str, float]:
            return {"val_miou": validate(net, pictures, classes)}

        return score

    def _write(self, net: nn.Module) -> Manifest:
        request = self.request
        name = request.name or request.network.replace(":", "-")
        file = f"{name}.safetensors"
        slim = self.trainer.slimming
        manifest = Manifest(
            name=name,
            network=request.network,
            file=file,
            sha256=save_weights(net, request.out / file, dtype=torch.float16),
            classes=self.classes,
            training_size=self.size,
            data=kinds_of(request),
            terms="",
            command=slim_command_line(request),
            commit="",
            scores={},
            slim=slim if slim.channels or slim.removed else None,
        )
        manifest.write(request.out)
        return manifest


def train_slim(request: SlimRequest, on_step: OnStep | None = None) -> list[Manifest]:
    """Prepare and run a `SlimJob`."""
    return SlimJob(request).run(on_step)


def start_network(request: SlimRequest, classes: tuple[ClassInfo, ...]) -> nn.Module:
    """Return the whole network with the weights to start from.

    Raises:
        ModelError: the start does not fit.

    """
    seed = request.settings.seed
    if request.init:
        return start.from_model(request.network, classes, seed, request.init)
    return start.fresh(request.network, len(classes), seed)


def identity(
    request: SlimRequest, classes: tuple[ClassInfo, ...], data: DataManifest
) -> dict[str, str]:
    """Return what else makes a run this run; it must not change when the run is resumed."""
    frames = json.dumps(asdict(data)).encode()
    return {
        "task": "slim",
        "network": request.network,
        "init": request.init,
        **data_identity(request, classes),
        "slimmed_data": hashlib.sha256(frames).hexdigest(),
    }
