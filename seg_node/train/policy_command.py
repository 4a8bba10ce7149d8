"""`seg_node train policy`: from a model and named data to the model with a policy."""

from __future__ import annotations

import copy
from dataclasses import replace
import shutil
from typing import TYPE_CHECKING

import numpy as np
import torch

from seg_node.core.types import Action, ConfigError
from seg_node.nets.build import load_model
from seg_node.nets.decision import ComplexityNet
from seg_node.nets.manifest import find_manifest, Manifest, PolicyWeights
from seg_node.nets.weights import save_weights
from seg_node.train.batches import BatchMaker, label_counts
from seg_node.train.classes import refuse_other_classes
from seg_node.train.distributed import choose_device, join_alone
from seg_node.train.losses import class_weights
from seg_node.train.policy import Pair, PolicyTrainer, run_blocks
from seg_node.train.pools import kinds_of, refuse_impossible, TrainingData
from seg_node.train.request import data_identity, policy_command_line
from seg_node.train.trainer import Run
from seg_node.train.validation import validate_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from seg_node.nets.build import Model
    from seg_node.train.policy import Validate
    from seg_node.train.policy_settings import PolicyTraining
    from seg_node.train.request import PolicyRequest
    from seg_node.train.trainer import OnStep


class PolicyJob:
    """A training that is ready to run: model loaded, data opened and checked, teachers heard.

    The manifest that it writes is the model's own with a policy. Where the network learned too,
    it lacks terms, commit and scores: what is true of them is for the one who releases to say.

    Args:
        request: what to train.

    Raises:
        DataError: the data cannot be used; the text names the file.
        ModelError: unknown model or teacher, or the model does not run on blocks.
        ConfigError: several processes, blocks that the model cannot have, or the folder holds a
            run that is not to be continued, or another one.

    """

    def __init__(self, request: PolicyRequest) -> None:
        """Prepare everything."""
        self.request = request
        self.share = join_alone("a policy is trained")
        device = choose_device()
        refuse_impossible(request, device)
        self.base = load_model(request.model, fold=False)
        pair = start_pair(self.base, request.settings)
        data = TrainingData(request)
        refuse_other_classes(self.base.manifest, data.classes)
        pools = data.pools(device, self.share)
        counts = label_counts(pools.labelled, len(data.classes))
        self.trainer = PolicyTrainer(
            pair,
            BatchMaker(pools, request.settings, self.share),
            class_weights(counts, request.settings.softness),
            Run(request.out, device, self._identity(data)),
            self._validation(data),
        )

    def run(self, on_step: OnStep | None = None) -> list[Manifest]:
        """Train, or continue, and write weights and manifest into the folder of the run.

        Args:
            on_step: called with the number of steps done, after each; see `Trainer.run`.

        """
        pair = self.trainer.run(on_step)
        return [self._write(Pair(pair.network.cpu(), pair.policy.cpu()))]

    def _identity(self, data: TrainingData) -> dict[str, str]:
        policy = self.base.manifest.policy
        return {
            "task": "policy",
            "network_sha256": self.base.manifest.sha256,
            "policy_sha256": policy.sha256 if policy else "",
            **data_identity(self.request, data.classes),
        }

    def _validation(self, data: TrainingData) -> Validate | None:
        pictures = data.validation()
        if pictures is None:
            return None
        classes, settings = len(data.classes), self.request.settings

        def score(pair: Pair) -> Mapping[str, float]:
            return validate_blocks(pair, pictures, classes, settings)

        return score

    def _write(self, pair: Pair) -> Manifest:
        request = self.request
        command = policy_command_line(request)
        model = self._write_network(pair.network, request.name or self.base.manifest.name, command)
        file = f"{model.name}-policy.safetensors"
        policy = PolicyWeights(
            file=file,
            sha256=save_weights(pair.policy, request.out / file),
            network_sha256=model.sha256,
            block_size=request.settings.block_size,
            channels=request.settings.policy_channels,
            command=command,
            commit="",
        )
        manifest = replace(model, policy=policy)
        manifest.write(request.out)
        return manifest

    def _write_network(self, net: nn.Module, name: str, command: str) -> Manifest:
        """Write the network's weights: those of the model itself, if they were frozen."""
        request, base = self.request, self.base.manifest
        manifest = replace(base, name=name, file=f"{name}.safetensors")
        path = request.out / manifest.file
        if request.settings.frozen:
            _, folder = find_manifest(request.model)
            shutil.copyfile(folder / base.file, path)
            return manifest
        return replace(
            manifest,
            sha256=save_weights(net, path, dtype=torch.float16),
            data=f"{base.data}; {kinds_of(request)}",
            terms="",
            command=f"{base.command}; {command}",
            commit="",
            scores={},
        )


def train_policy(request: PolicyRequest, on_step: OnStep | None = None) -> list[Manifest]:
    """Prepare and run a `PolicyJob`."""
    return PolicyJob(request).run(on_step)


def start_pair(model: Model, settings: PolicyTraining) -> Pair:
    """Return a model's network with its policy, or with a fresh one where it has none.

    Args:
        model: loaded without folding.
        settings: side of the blocks, and seed and channels of a fresh policy.

    Raises:
        ConfigError: the network cannot have LOW blocks of this side, or the model's policy
            has blocks of another side or another number of channels.
        ModelError: the network does not run on blocks.

    """
    side = settings.block_size
    # One block of each kind, without numbers, fails as the first step would.
    images = torch.empty((1, 3, side, 2 * side), device="meta")
    grid = np.array([[[Action.HIGH, Action.LOW]]], np.uint8)
    run_blocks(copy.deepcopy(model.net).to("meta"), images, grid, side)
    known = model.manifest.policy
    if model.policy is None or known is None:
        torch.manual_seed(settings.seed)
        return Pair(model.net, ComplexityNet(settings.policy_channels))
    if known.block_size != side:
        msg = (
            f"the policy of model {model.manifest.name!r} knows blocks of {known.block_size} "
            f"pixels, block_size is {side}; use {known.block_size}, or a model without a policy"
        )
        raise ConfigError(msg)
    if known.channels != settings.policy_channels:
        msg = (
            f"the policy of model {model.manifest.name!r} has {known.channels} channels, "
            f"policy_channels is {settings.policy_channels}; use {known.channels}"
        )
        raise ConfigError(msg)
    return Pair(model.net, model.policy)
