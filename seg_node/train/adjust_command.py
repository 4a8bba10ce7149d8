"""`seg_node train adjust`: from a model and named data to the model with adjusted logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
import shutil
from typing import Any, TYPE_CHECKING

import torch

from seg_node.core.types import ConfigError
from seg_node.nets.build import load_model
from seg_node.nets.low import BLEND
from seg_node.nets.manifest import find_manifest, LowWeights, Manifest
from seg_node.nets.weights import save_weights
from seg_node.train.adjustment import draw_pixels, find_offsets, Gain, judge, last_bias
from seg_node.train.classes import refuse_other_classes
from seg_node.train.distributed import choose_device
from seg_node.train.labelled import common_classes, labelled_refs, open_labelled
from seg_node.train.pictures import Pool
from seg_node.train.pools import kinds_of
from seg_node.train.request import adjust_command_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from seg_node.train.request import AdjustRequest

PARTS = ("policy", "low", "gate")
"""What may belong to a model. All but a branch that blends results stay right: features do."""


@dataclass(frozen=True)
class Adjusted:
    """What `adjust` found and wrote.

    Attributes:
        manifest: of the model that was written.
        offsets: added to the logit of each class, by name.
        gain: what they are worth.
        branch_lost: whether the model had a LOW branch that blends results, which it has no more.

    """

    manifest: Manifest
    offsets: dict[str, float]
    gain: Gain
    branch_lost: bool


def adjust(request: AdjustRequest, tell: Callable[[int], None] = lambda _: None) -> Adjusted:
    """Find offsets of the logits on labelled data, and write the model with them.

    Features stay as they are, and with them policy, gates and a LOW branch that fuses features,
    which are copied. One that blends results goes by others than these, and is left out. The
    manifest lacks terms, commit and scores: what is true of them is for the one who releases to
    say.

    Args:
        request: model and data.
        tell: called with the number of frames done.

    Raises:
        DataError: the data cannot be used; the text names the file.
        ModelError: unknown model, other classes, or no last layer with a bias.
        ConfigError: the name is no file's name, `out` holds the model itself, or the strength is
            no part of the offsets.

    """
    base, folder = find_manifest(request.model)
    name = request.name or base.name
    _refuse_names(request, name, folder)
    if not 0.0 < request.strength <= 1.0:
        msg = f"--strength is {request.strength}; allowed are numbers above 0, up to 1"
        raise ConfigError(msg)
    net = load_model(request.model, fold=False).net.to(choose_device())
    bias = last_bias(net)
    sources = open_labelled(request)
    classes = common_classes(sources)
    refuse_other_classes(base, classes)
    pictures = Pool([ref for source in sources for ref in labelled_refs(source)])
    frames = draw_pixels(net, pictures, tell=tell)
    whole = find_offsets(frames)
    gain = judge(frames, whole, request.strength)
    offsets = request.strength * whole
    with torch.no_grad():
        bias += offsets.to(bias.device)
    manifest = _write(net.cpu(), request, name, folder)
    named = zip((info.name for info in classes), offsets.tolist(), strict=True)
    return Adjusted(manifest, dict(named), gain, branch_lost=bool(base.low and not manifest.low))


def _refuse_names(request: AdjustRequest, name: str, folder: Path) -> None:
    if "/" in name:
        msg = f"--name is {name!r}; give a name without /"
        raise ConfigError(msg)
    if request.out.resolve() == folder.resolve():
        msg = f"--out is {request.out}, where the model itself lies; choose another folder"
        raise ConfigError(msg)


def _write(net: nn.Module, request: AdjustRequest, name: str, folder: Path) -> Manifest:
    """Write weights and manifest, and copy what belongs to the model."""
    base, _ = find_manifest(request.model)
    request.out.mkdir(parents=True, exist_ok=True)
    file = f"{name}.safetensors"
    sha256 = save_weights(net, request.out / file, dtype=torch.float16)
    parts: dict[str, Any] = {}
    for part in PARTS:
        known = getattr(base, part)
        if isinstance(known, LowWeights) and known.fusion == BLEND:
            parts[part] = None
        elif known is not None:
            own = f"{name}-{part}.safetensors"
            shutil.copyfile(folder / known.file, request.out / own)
            parts[part] = replace(known, file=own, network_sha256=sha256)
    manifest = replace(
        base,
        name=name,
        file=file,
        sha256=sha256,
        data=f"{base.data}; logits adjusted on {kinds_of(request)}",
        terms="",
        command=f"{base.command}; {adjust_command_line(request)}",
        commit="",
        scores={},
        **parts,
    )
    manifest.write(request.out)
    return manifest
