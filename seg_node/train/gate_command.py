"""`seg_node train gate`: from a model and named data to the model with gates for mode stmg."""

from __future__ import annotations

from dataclasses import replace
import shutil
from typing import TYPE_CHECKING

import torch

from seg_node.core.residual import find_gated_modules
from seg_node.core.types import ConfigError, ModelError
from seg_node.nets.build import build_gate, load_model
from seg_node.nets.manifest import find_manifest, GateWeights
from seg_node.nets.weights import save_weights
from seg_node.train.batches import label_counts
from seg_node.train.classes import describe, refuse_other_classes, refuse_street, same_classes
from seg_node.train.distributed import choose_device, join_alone
from seg_node.train.gate import GateTrainer
from seg_node.train.gate_validation import GateScores
from seg_node.train.labelled import open_named
from seg_node.train.losses import class_weights
from seg_node.train.pair_batches import PairMaker, PairPools
from seg_node.train.pictures import HELD_BYTES, Pool
from seg_node.train.pools import refuse_impossible, TrainingData
from seg_node.train.request import data_identity, gate_command_line
from seg_node.train.rides import real_rides, render_rides
from seg_node.train.trainer import Run

if TYPE_CHECKING:
    from torch import nn

    from seg_node.nets.decision import GateNet
    from seg_node.nets.manifest import Manifest
    from seg_node.train.gate import Validate
    from seg_node.train.request import GateRequest
    from seg_node.train.rides import Ride
    from seg_node.train.trainer import OnStep


class GateJob:
    """A training that is ready to run: model loaded, data opened and checked, streets rendered.

    The manifest that it writes is the model's own with gates; policy and LOW branch are kept. The
    entry of the gates lacks the commit: it is for the one who releases to say.

    Args:
        request: what to train.

    Raises:
        DataError: the data cannot be used; the text names the file.
        ModelError: unknown model, one without residual blocks, or one that knows other classes
            than the data.
        ConfigError: several processes, a teacher, or the folder holds a run that is not to be
            continued, or another one.

    """

    def __init__(self, request: GateRequest) -> None:
        """Prepare everything."""
        self.request = request
        self.share = join_alone("gates are trained")
        if request.teachers:
            msg = "the teacher of gates is the network of --model; leave --teacher"
            raise ConfigError(msg)
        device = choose_device()
        refuse_impossible(request, device)
        self.base = load_model(request.model)
        if not find_gated_modules(self.base.net):
            msg = f"model {self.base.manifest.name!r} has no residual block to gate"
            raise ModelError(msg)
        data = TrainingData(request)
        refuse_other_classes(self.base.manifest, data.classes)
        if request.settings.street_share:
            refuse_street(data.classes)
        pools = self._pools(data)
        counts = label_counts(pools.stills, len(data.classes))
        self.trainer = GateTrainer(
            self.base.net,
            self.base.gate or _fresh_gate(self.base.net, request.settings.seed),
            PairMaker(pools, request.settings, self.share),
            class_weights(counts, request.settings.softness),
            Run(request.out, device, self._identity(data)),
            self._validation(),
        )

    def run(self, on_step: OnStep | None = None) -> list[Manifest]:
        """Train, or continue, and write weights and manifest into the folder of the run.

        Args:
            on_step: called with the number of steps done, after each; see `Trainer.run`.

        """
        return [self._write(self.trainer.run(on_step).cpu())]

    def _pools(self, data: TrainingData) -> PairPools:
        request, settings = self.request, self.request.settings
        clips: list[Ride] = []
        for spec in request.unlabelled:
            source = open_named(request, spec, request.split)
            clips += real_rides(source, HELD_BYTES // len(request.unlabelled))
        streets = render_rides(settings) if settings.street_share else ()
        return PairPools(Pool(data.frames), streets, clips)

    def _validation(self) -> Validate | None:
        request = self.request
        if not request.validation:
            return None
        source = open_named(request, request.validation, "val", masks=True)
        ours = self.base.manifest.classes
        if not same_classes(source.classes, ours):
            msg = f"{source.spec} has classes {describe(source.classes)}, the model other ones"
            raise ModelError(msg)
        return GateScores(self.base.net, source, len(ours), request.settings.block_side)

    def _identity(self, data: TrainingData) -> dict[str, str]:
        gate = self.base.manifest.gate
        return {
            "task": "gate",
            "network_sha256": self.base.manifest.sha256,
            "gate_sha256": gate.sha256 if gate else "",
            **data_identity(self.request, data.classes),
        }

    def _write(self, gate: GateNet) -> Manifest:
        """Write the gates beside copies of the model's own files."""
        request, base = self.request, self.base.manifest
        _, folder = find_manifest(request.model)
        name = request.name or base.name
        file = f"{name}-gate.safetensors"
        written = GateWeights(
            file=file,
            sha256=save_weights(gate, request.out / file),
            network_sha256=base.sha256,
            block_size=request.settings.block_side,
            command=gate_command_line(request),
            commit="",
        )
        manifest = replace(base, name=name, file=f"{name}.safetensors", gate=written)
        shutil.copyfile(folder / base.file, request.out / manifest.file)
        for part in (base.policy, base.low):
            if part is not None:
                shutil.copyfile(folder / part.file, request.out / part.file)
        manifest.write(request.out)
        return manifest


def _fresh_gate(net: nn.Module, seed: int) -> GateNet:
    torch.manual_seed(seed)
    return build_gate(net)


def train_gate(request: GateRequest, on_step: OnStep | None = None) -> list[Manifest]:
    """Prepare and run a `GateJob`."""
    return GateJob(request).run(on_step)
