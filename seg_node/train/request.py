"""What a training is asked for, and the words that ask for it again."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from seg_node.train.classes import describe
from seg_node.train.gate_settings import GateTraining
from seg_node.train.low_settings import LowTraining
from seg_node.train.policy_settings import PolicyTraining
from seg_node.train.settings import SegmentTraining, Training
from seg_node.train.slim_settings import SlimTraining

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from seg_node.core.types import ClassInfo

WHOLE = 1.0
"""Strength of offsets of logits: all of them."""

HIDDEN = ("--data", "--unlabelled", "--teacher", "--init", "--widen", "--encoder")
"""Flags whose values may be paths."""


@dataclass(frozen=True)
class DataRequest:
    """What labelled data to read, and where to write.

    Attributes:
        data: named data with labels.
        out: folder to write.
        name: name of the model that is written; empty for that of the network or model.
        split: split of the data.
        topic: image topic of bags.
        mask_topic: topic of bags with the masks.

    """

    data: tuple[str, ...]
    out: Path
    name: str = ""
    split: str = "train"
    topic: str | None = None
    mask_topic: str | None = None


@dataclass(frozen=True)
class AdjustRequest(DataRequest):
    """What model's logits to adjust.

    Attributes:
        model: the model, by name or manifest; it stays as it is.
        strength: part of the offsets that is added, 0..1: less where the model will see other
            data than these.

    """

    model: str = "swiftnet18-half"
    strength: float = WHOLE


@dataclass(frozen=True)
class TrainRequest(DataRequest):
    """What to train on, and where: common to all trainings. `out` has checkpoint and log.

    Attributes:
        unlabelled: named data without labels, for the teachers.
        validation: named data scored now and then (split `val`); empty for none.
        teachers: models whose soft labels are learned beside the true ones.
        resume: continue the run in `out`, if there is one.
        settings: hyper-parameters.

    """

    unlabelled: tuple[str, ...] = ()
    validation: str = ""
    teachers: tuple[str, ...] = ()
    resume: bool = False
    settings: Training = field(default_factory=Training)


@dataclass(frozen=True)
class SegmentRequest(TrainRequest):
    """What network to train, from what.

    Attributes:
        network: name of a network, or `module:function`.
        init: model whose weights to start from; empty for fresh ones.
        widen: narrower model whose function the network computes at first; empty for none.
        encoder: model whose encoder the network starts with; empty for none.

    """

    network: str = "swiftnet18-half"
    init: str = ""
    widen: str = ""
    encoder: str = ""
    settings: SegmentTraining = field(default_factory=SegmentTraining)


@dataclass(frozen=True)
class PolicyRequest(TrainRequest):
    """What model to train a policy for.

    Attributes:
        model: the model, by name or manifest.

    """

    model: str = "swiftnet18-half"
    settings: PolicyTraining = field(default_factory=PolicyTraining)


@dataclass(frozen=True)
class LowRequest(TrainRequest):
    """What model to train a half-resolution branch for, from what.

    Attributes:
        model: the model, by name or manifest; it stays as it is.
        init: model whose branch, or else whose network, to start from; empty for `model`.

    """

    model: str = "swiftnet18-half"
    init: str = ""
    settings: LowTraining = field(default_factory=LowTraining)


@dataclass(frozen=True)
class SlimRequest(TrainRequest):
    """What network to train and to slim, from what.

    Attributes:
        network: name of a network, or `module:function`.
        init: model whose weights to start from; empty for fresh ones.

    """

    network: str = "swiftnet18-half"
    init: str = ""
    settings: SlimTraining = field(default_factory=SlimTraining)


@dataclass(frozen=True)
class GateRequest(TrainRequest):
    """What model to train gates for.

    Attributes:
        model: the model, by name or manifest; its network stays as it is.

    """

    model: str = "swiftnet18-half"
    settings: GateTraining = field(default_factory=GateTraining)


def identity(request: SegmentRequest, classes: tuple[ClassInfo, ...]) -> dict[str, str]:
    """Return what else makes a run this run; it must not change when the run is resumed."""
    return {
        "network": request.network,
        **data_identity(request, classes),
        "init": request.init,
        "widen": request.widen,
        "encoder": request.encoder,
    }


def data_identity(request: TrainRequest, classes: tuple[ClassInfo, ...]) -> dict[str, str]:
    """Return what a run is trained on."""
    return {
        "data": ",".join(request.data),
        "split": request.split,
        "image": request.topic or "",
        "mask": request.mask_topic or "",
        "classes": describe(classes),
        "unlabelled": ",".join(request.unlabelled),
        "teachers": ",".join(request.teachers),
    }


def command_line(request: SegmentRequest) -> str:
    """Return the command of a run; paths, which differ between machines, become DIR."""
    start = {
        "--init": (request.init,) if request.init else (),
        "--widen": (request.widen,) if request.widen else (),
        "--encoder": (request.encoder,) if request.encoder else (),
    }
    return _command("segment", request, request.network, start)


def policy_command_line(request: PolicyRequest) -> str:
    """Return the command of a run; paths, which differ between machines, become DIR."""
    return _command("policy", request, _hidden(request.model), {})


def gate_command_line(request: GateRequest) -> str:
    """Return the command of a run; paths, which differ between machines, become DIR."""
    return _command("gate", request, _hidden(request.model), {})


def low_command_line(request: LowRequest) -> str:
    """Return the command of a run; paths, which differ between machines, become DIR."""
    start = {"--init": (request.init,) if request.init else ()}
    return _command("segment --student low", request, _hidden(request.model), start)


def slim_command_line(request: SlimRequest) -> str:
    """Return the command of a run; paths, which differ between machines, become DIR."""
    start = {"--init": (request.init,) if request.init else ()}
    return _command("slim", request, request.network, start)


def adjust_command_line(request: AdjustRequest) -> str:
    """Return the command; paths, which differ between machines, become DIR."""
    flags = {**_data_flags(request), "--model": (_hidden(request.model),)}
    if request.strength != WHOLE:
        flags["--strength"] = (str(request.strength),)
    return " ".join(["seg_node train adjust", *_words(flags)])


def _hidden(spec: str) -> str:
    kind, colon, rest = spec.partition(":")
    if not colon:
        return spec.rpartition("/")[2]
    return spec if rest.isdigit() else f"{kind}:DIR"


def _command(
    task: str, request: TrainRequest, model: str, start: Mapping[str, tuple[str, ...]]
) -> str:
    named = {
        **_data_flags(request),
        "--model": (model,),
        "--unlabelled": request.unlabelled,
        "--teacher": request.teachers,
        **start,
    }
    words = [f"seg_node train {task}", *_words(named)]
    for item in fields(request.settings):
        value = getattr(request.settings, item.name)
        flag = f"--{item.name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value != item.default:
            words.append(f"{flag} {value}")
    return " ".join(words)


def _data_flags(request: DataRequest) -> dict[str, tuple[str, ...]]:
    return {
        "--data": request.data,
        "--split": (request.split,) if request.split != "train" else (),
        "--image": (request.topic,) if request.topic else (),
        "--mask": (request.mask_topic,) if request.mask_topic else (),
    }


def _words(flags: Mapping[str, tuple[str, ...]]) -> list[str]:
    words = []
    for flag, specs in flags.items():
        shown = map(_hidden, specs) if flag in HIDDEN else specs
        words += [f"{flag} {','.join(shown)}"] if specs else []
    return words
