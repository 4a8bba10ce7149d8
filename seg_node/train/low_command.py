"""`seg_node train segment --student low`: from a model to the model with its LOW branch."""

from __future__ import annotations

import copy
from dataclasses import replace
import logging
import shutil
from typing import TYPE_CHECKING

import torch

from seg_node.core.types import ConfigError, ModelError
from seg_node.nets.build import load_model
from seg_node.nets.low import AnyBranch, BLEND, build_branch
from seg_node.nets.manifest import find_manifest, LowWeights
from seg_node.nets.weights import save_weights
from seg_node.train.batches import label_counts
from seg_node.train.classes import describe, refuse_other_classes, refuse_street, same_classes
from seg_node.train.distributed import choose_device, join_alone
from seg_node.train.labelled import open_named
from seg_node.train.losses import class_weights
from seg_node.train.low import LowTrainer, Resolutions
from seg_node.train.low_validation import LowScores
from seg_node.train.pair_batches import PairMaker, PairPools
from seg_node.train.pictures import HELD_BYTES, Pool
from seg_node.train.pools import refuse_impossible, TrainingData
from seg_node.train.request import data_identity, low_command_line
from seg_node.train.rides import real_rides, render_rides
from seg_node.train.trainer import Run

if TYPE_CHECKING:
    from torch import nn

    from seg_node.nets.build import Model
    from seg_node.nets.manifest import Manifest
    from seg_node.train.low import Validate
    from seg_node.train.request import LowRequest
    from seg_node.train.rides import Ride
    from seg_node.train.trainer import OnStep

LOG = logging.getLogger(__name__)


class LowJob:
    """A training that is ready to run: model loaded, data opened and checked, streets rendered.

    The manifest that it writes is the model's own with a LOW branch; a policy is kept. The
    branch's entry lacks the commit: it is for the one who releases to say.

    Args:
        request: what to train.

    Raises:
        DataError: the data cannot be used; the text names the file.
        ModelError: unknown model or start, or one that knows other classes than the data.
        ConfigError: several processes, a teacher, or the folder holds a run that is not to be
            continued, or another one.

    """

    def __init__(self, request: LowRequest) -> None:
        """Prepare everything."""
        self.request = request
        self.share = join_alone("a LOW branch is trained")
        if request.teachers:
            msg = "the teacher of a LOW branch is the network of --model; leave --teacher"
            raise ConfigError(msg)
        device = choose_device()
        refuse_impossible(request, device)
        self.base = load_model(request.model, fold=False)
        branch = start_branch(self.base, request)
        data = TrainingData(request)
        refuse_other_classes(self.base.manifest, data.classes)
        high = load_model(request.model).net.to(device)
        validate = self._validation(high, branch)
        pools = self._pools(data)
        counts = label_counts(pools.stills, len(data.classes))
        self.trainer = LowTrainer(
            Resolutions(high, branch),
            PairMaker(pools, request.settings, self.share),
            class_weights(counts, request.settings.softness),
            Run(request.out, device, self._identity(data)),
            validate,
        )

    def run(self, on_step: OnStep | None = None) -> list[Manifest]:
        """Train, or continue, and write weights and manifest into the folder of the run.

        Args:
            on_step: called with the number of steps done, after each; see `Trainer.run`.

        """
        return [self._write(self.trainer.run(on_step).cpu())]

    def _pools(self, data: TrainingData) -> PairPools:
        request, settings = self.request, self.request.settings
        if settings.street_share:
            refuse_street(data.classes)
        clips: list[Ride] = []
        for spec in request.unlabelled:
            source = open_named(request, spec, request.split)
            clips += real_rides(source, HELD_BYTES // len(request.unlabelled))
        return PairPools(
            Pool(data.frames),
            render_rides(settings) if settings.street_share else (),
            clips,
        )

    def _validation(self, high: nn.Module, branch: AnyBranch) -> Validate | None:
        request = self.request
        if not request.validation:
            return None
        source = open_named(request, request.validation, "val", masks=True)
        ours = self.base.manifest.classes
        if not same_classes(source.classes, ours):
            msg = f"{source.spec} has classes {describe(source.classes)}, the model other ones"
            raise ModelError(msg)
        nets = Resolutions(high, branch)
        return LowScores(nets, source, len(ours), request.settings.distance_max)

    def _identity(self, data: TrainingData) -> dict[str, str]:
        start = self._start()
        return {
            "task": "low",
            "network_sha256": self.base.manifest.sha256,
            "init_sha256": start.low.sha256 if start.low else start.sha256,
            **data_identity(self.request, data.classes),
        }

    def _start(self) -> Manifest:
        return find_manifest(self.request.init or self.request.model)[0]

    def _write(self, branch: AnyBranch) -> Manifest:
        """Write the branch beside copies of the model's own files."""
        request, base = self.request, self.base.manifest
        _, folder = find_manifest(request.model)
        name = request.name or base.name
        file = f"{name}-low.safetensors"
        low = LowWeights(
            file=file,
            sha256=save_weights(branch, request.out / file, dtype=torch.float16),
            fusion=request.settings.fusion,
            network_sha256=base.sha256,
            command=low_command_line(request),
            commit="",
            network=branch_network(base, self._start(), request.settings.fusion),
        )
        manifest = replace(base, name=name, file=f"{name}.safetensors", low=low)
        shutil.copyfile(folder / base.file, request.out / manifest.file)
        if base.policy:
            shutil.copyfile(folder / base.policy.file, request.out / base.policy.file)
        manifest.write(request.out)
        return manifest


def train_low(request: LowRequest, on_step: OnStep | None = None) -> list[Manifest]:
    """Prepare and run a `LowJob`."""
    return LowJob(request).run(on_step)


def start_branch(base: Model, request: LowRequest) -> AnyBranch:
    """Return the branch to start from; its head is the one of the model, if it makes features.

    Where the start is a model with a branch of this fusion, that goes on; else the network of the
    start is what sees images at half resolution, and the fusion is a fresh one.

    Args:
        base: the model, loaded without folding.
        request: names the start: `init`, or the model itself.

    Raises:
        ModelError: the start is another network and features are to be fused, or it has another
            stride, knows other classes, has another fusion, is slimmed otherwise, or has
            convolutions of its own where they are to be the model's.

    """
    start = load_model(request.init, fold=False) if request.init else base
    fusion = request.settings.fusion
    _refuse_other_network(start, base, fusion)
    torch.manual_seed(request.settings.seed)
    if start.low is not None and goes_on(start.manifest, fusion):
        branch = start.low
    else:
        branch = build_branch(copy.deepcopy(start.net), fusion)
    if branch.of_features:
        head = base.net.get_submodule("head").state_dict()
        branch.net.get_submodule("head").load_state_dict(head)
    if request.settings.weights == "norms":
        _refuse_other_convolutions(branch.net, base, start.manifest.name)
    return branch


def goes_on(start: Manifest, fusion: str) -> bool:
    """Return whether a model has a branch that a training with this fusion continues.

    Raises:
        ModelError: its branch fuses features, too, but otherwise.

    """
    if start.low is None or (start.low.fusion == BLEND) != (fusion == BLEND):
        return False
    if start.low.fusion != fusion:
        msg = (
            f"the LOW branch of {start.name} has the fusion {start.low.fusion}: use --fusion "
            f"{start.low.fusion}, or no --init"
        )
        raise ModelError(msg)
    return True


def branch_network(base: Manifest, start: Manifest, fusion: str) -> str | None:
    """Return the network of a branch, for its manifest: None if it is that of the model."""
    network = start.network
    if start.low is not None and start.low.network and goes_on(start, fusion):
        network = start.low.network
    return None if network == base.network else network


def _refuse_other_network(start: Model, base: Model, fusion: str) -> None:
    one, other = start.manifest, base.manifest
    if one.network != other.network and fusion != BLEND:
        msg = (
            f"{one.name} is a {one.network}, {other.name} a {other.network}: leave --init, or use "
            f"--fusion {BLEND}"
        )
        raise ModelError(msg)
    strides = [int(model.net.stride) for model in (start, base)]  # type: ignore[arg-type]  # the face of a network says int
    if strides[0] != strides[1]:
        msg = f"{one.name} has stride {strides[0]}, {other.name} {strides[1]}: leave --init"
        raise ModelError(msg)
    if one.slim != other.slim:
        msg = f"{one.name} and {other.name} have other channels, one is slimmed: leave --init"
        raise ModelError(msg)
    if not same_classes(one.classes, other.classes):
        told = f"{describe(one.classes)}, {other.name} has {describe(other.classes)}"
        msg = f"{one.name} has classes {told}: leave --init"
        raise ModelError(msg)


def _refuse_other_convolutions(net: nn.Module, base: Model, name: str) -> None:
    own = dict(base.net.named_parameters())
    for key, value in net.named_parameters():
        if value.ndim > 1 and (key not in own or not torch.equal(value, own[key])):
            msg = (
                f"with --weights norms the convolutions are those of {base.manifest.name}, but "
                f"{key} of {name} differs: use --weights own, or another --init"
            )
            raise ModelError(msg)
