"""What a training is asked for, and the words that ask for it again."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from seg_node.train.classes import describe
from seg_node.train.settings import SegmentTraining

if TYPE_CHECKING:
    from pathlib import Path

    from seg_node.core.types import ClassInfo

HIDDEN = ("--data", "--unlabelled", "--teacher", "--init", "--widen")
"""Flags whose values may be paths."""


@dataclass(frozen=True)
class SegmentRequest:
    """What to train, on what, from what.

    Attributes:
        data: named data with labels.
        out: folder of the run, with checkpoint and log.
        network: name of a network, or `module:function`.
        name: name of the model that is written; empty for the network's.
        split: split of the data to train on.
        topic: image topic of bags.
        mask_topic: topic of bags with the masks.
        unlabelled: named data without labels, for the teachers.
        validation: named data scored now and then (split `val`); empty for none.
        teachers: models whose soft labels are learned beside the true ones.
        init: model whose weights to start from; empty for fresh ones.
        widen: narrower model whose function the network computes at first; empty for none.
        resume: continue the run in `out`, if there is one.
        settings: hyper-parameters.

    """

    data: tuple[str, ...]
    out: Path
    network: str = "swiftnet18-half"
    name: str = ""
    split: str = "train"
    topic: str | None = None
    mask_topic: str | None = None
    unlabelled: tuple[str, ...] = ()
    validation: str = ""
    teachers: tuple[str, ...] = ()
    init: str = ""
    widen: str = ""
    resume: bool = False
    settings: SegmentTraining = field(default_factory=SegmentTraining)


def identity(request: SegmentRequest, classes: tuple[ClassInfo, ...]) -> dict[str, str]:
    """Return what else makes a run this run; it must not change when the run is resumed."""
    return {
        "network": request.network,
        "data": ",".join(request.data),
        "split": request.split,
        "image": request.topic or "",
        "mask": request.mask_topic or "",
        "classes": describe(classes),
        "unlabelled": ",".join(request.unlabelled),
        "teachers": ",".join(request.teachers),
        "init": request.init,
        "widen": request.widen,
    }


def command_line(request: SegmentRequest) -> str:
    """Return the command of a run; paths, which differ between machines, become DIR."""

    def hide(spec: str) -> str:
        kind, colon, rest = spec.partition(":")
        if not colon:
            return spec.rpartition("/")[2]
        return spec if rest.isdigit() else f"{kind}:DIR"

    named = {
        "--data": request.data,
        "--split": (request.split,) if request.split != "train" else (),
        "--image": (request.topic,) if request.topic else (),
        "--mask": (request.mask_topic,) if request.mask_topic else (),
        "--model": (request.network,),
        "--unlabelled": request.unlabelled,
        "--teacher": request.teachers,
        "--init": (request.init,) if request.init else (),
        "--widen": (request.widen,) if request.widen else (),
    }
    words = ["seg_node train segment"]
    for flag, specs in named.items():
        shown = map(hide, specs) if flag in HIDDEN else specs
        words += [f"{flag} {','.join(shown)}"] if specs else []
    for item in fields(request.settings):
        value = getattr(request.settings, item.name)
        flag = f"--{item.name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value != item.default:
            words.append(f"{flag} {value}")
    return " ".join(words)
