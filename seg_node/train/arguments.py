"""The command line of `seg_node train` and `label`; settings bring their own flags."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TYPE_CHECKING

from seg_node.core.types import ConfigError
from seg_node.train.gate_settings import GateTraining
from seg_node.train.low_settings import LowTraining
from seg_node.train.policy_settings import PolicyTraining
from seg_node.train.settings import SegmentTraining
from seg_node.train.slim_settings import SlimTraining

if TYPE_CHECKING:
    from seg_node.core.config import Limits
    from seg_node.train.label import LabelRequest
    from seg_node.train.request import (
        AdjustRequest,
        GateRequest,
        LowRequest,
        PolicyRequest,
        SegmentRequest,
        SlimRequest,
    )
    from seg_node.train.settings import Training

NETWORK, LOW = "network", "low"
STUDENTS = (NETWORK, LOW)
"""What `train segment` can train."""
SCALE_MIN, SCALE_MAX = 0.1, 8.0
"""Resize factors that `label` accepts."""


def names(text: str) -> tuple[str, ...]:
    """Split a comma-separated list; empty text gives an empty list."""
    return tuple(part for part in text.split(",") if part)


def add_segment_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `segment_request` reads."""
    add = parser.add_argument
    _add_data(parser)
    add(
        "--student",
        choices=STUDENTS,
        default=NETWORK,
        help="what learns: a network, or the half-resolution branch of a model for mode arseg",
    )
    add(
        "--model",
        default="swiftnet18-half",
        help="network, or module:function of your own; of student low a name or manifest",
    )
    add("--name", default="", help="name of the model that is written (default: the network's)")
    add("--init", default="", help="model to start from; other classes get a fresh head")
    add("--widen", default="", help="narrower model to start from (Net2Net)")
    add("--encoder", default="", help="model whose encoder to start from, and fresh behind it")
    _add_settings_of_students(parser)


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `policy_request` reads."""
    add = parser.add_argument
    _add_data(parser)
    add("--model", default="swiftnet18-half", help="model to start from: a name or manifest")
    add("--name", default="", help="name of the model that is written (default: the same)")
    _add_settings(parser, PolicyTraining())


def add_slim_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `slim_request` reads."""
    add = parser.add_argument
    _add_data(parser)
    add("--model", default="swiftnet18-half", help="network, or module:function of your own")
    add("--name", default="", help="name of the model that is written (default: the network's)")
    add("--init", default="", help="model to start from; other classes get a fresh head")
    _add_settings(parser, SlimTraining())


def add_gate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `gate_request` reads."""
    add = parser.add_argument
    _add_data(parser)
    add("--model", default="swiftnet18-half", help="model to start from: a name or manifest")
    add("--name", default="", help="name of the model that is written (default: the same)")
    _add_settings(parser, GateTraining())


def add_adjust_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `adjust_request` reads."""
    add = parser.add_argument
    _add_labelled(parser)
    add("--model", default="swiftnet18-half", help="model to adjust: a name or manifest")
    add("--name", default="", help="name of the model that is written (default: the same)")
    add("--out", type=Path, required=True, help="folder to write")
    add(
        "--strength",
        type=float,
        default=1.0,
        help="part of the offsets that is added, 0 to 1 (default: 1): less where the model will "
        "see other data than these",
    )


def _add_labelled(parser: argparse.ArgumentParser) -> None:
    """Add what names labelled data."""
    add = parser.add_argument
    add("--data", required=True, type=names, help="labelled data, comma-separated")
    add("--split", default="train", help="split of the data (default: train)")
    add("--image", help="image topic of bags")
    add("--mask", help="topic of bags with the masks of these images (mono8 class ids)")


def _add_data(parser: argparse.ArgumentParser) -> None:
    """Add what every training reads."""
    add = parser.add_argument
    _add_labelled(parser)
    add("--unlabelled", type=names, default=(), help="data that only the teacher labels")
    add("--validation", default="", help="data scored now and then (split val)")
    add("--teacher", type=names, default=(), help="models whose soft labels are learned too")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--resume", action="store_true", help="continue the run in --out, if there is one")


def _add_settings(parser: argparse.ArgumentParser, settings: Training) -> None:
    """Add a flag for every setting."""
    group = parser.add_argument_group("settings")
    for name, default, limits in settings.described():
        _add_setting(group, name, default, limits)


def _add_settings_of_students(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting of either student; those not given are left out."""
    of_low = {name: (default, limits) for name, default, limits in LowTraining().described()}
    group = parser.add_argument_group("settings")
    for name, default, limits in SegmentTraining().described():
        other, _ = of_low.pop(name, (default, limits))
        note = "" if other == default else f"; of student low: {other}"
        _add_setting(group, name, default, limits, note)
    group = parser.add_argument_group("settings of --student low")
    for name, (default, limits) in of_low.items():
        _add_setting(group, name, default, limits)


def _add_setting(
    group: argparse._ArgumentGroup, name: str, default: object, limits: Limits, note: str = ""
) -> None:
    flag = f"--{name.replace('_', '-')}"
    # Only what was given is taken from the command line: the settings know their defaults.
    absent = argparse.SUPPRESS
    if isinstance(default, bool):
        group.add_argument(flag, action="store_true", default=absent, help=limits.doc)
        return
    choices = limits.choices or None
    text = f"{limits.doc} (default: {default}{note})"
    group.add_argument(flag, type=type(default), default=absent, choices=choices, help=text)


def segment_request(args: argparse.Namespace) -> SegmentRequest:
    """Return what the command line asks for.

    Raises:
        ConfigError: a setting is out of its range, or one of the other student.

    """
    from seg_node.train.request import SegmentRequest  # noqa: PLC0415 - --help needs no torch

    _refuse_other_students(args, SegmentTraining())
    return SegmentRequest(
        **_data_of(args),
        network=args.model,
        init=args.init,
        widen=args.widen,
        encoder=args.encoder,
        settings=SegmentTraining(**_values_of(args, SegmentTraining())),
    )


def low_request(args: argparse.Namespace) -> LowRequest:
    """Return what the command line asks for with --student low.

    Raises:
        ConfigError: a setting is out of its range, or one of the other student.

    """
    from seg_node.train.request import LowRequest  # noqa: PLC0415 - --help needs no torch

    for flag in ("widen", "encoder"):
        if getattr(args, flag):
            msg = f"--{flag} is for --student network; a LOW branch is made as its network is"
            raise ConfigError(msg)
    _refuse_other_students(args, LowTraining())
    settings = LowTraining(**_values_of(args, LowTraining()))
    return LowRequest(**_data_of(args), model=args.model, init=args.init, settings=settings)


def _refuse_other_students(args: argparse.Namespace, settings: Training) -> None:
    """Refuse a setting that was given and that this student lacks."""
    own = {name for name, _, _ in settings.described()}
    for other in (SegmentTraining(), LowTraining()):
        for name, _, _ in other.described():
            if name not in own and hasattr(args, name):
                msg = f"--{name.replace('_', '-')} is no setting of --student {args.student}"
                raise ConfigError(msg)


def policy_request(args: argparse.Namespace) -> PolicyRequest:
    """Return what the command line asks for.

    Raises:
        ConfigError: a setting is out of its range.

    """
    from seg_node.train.request import PolicyRequest  # noqa: PLC0415 - --help needs no torch

    settings = PolicyTraining(**_values_of(args, PolicyTraining()))
    return PolicyRequest(**_data_of(args), model=args.model, settings=settings)


def slim_request(args: argparse.Namespace) -> SlimRequest:
    """Return what the command line asks for.

    Raises:
        ConfigError: a setting is out of its range.

    """
    from seg_node.train.request import SlimRequest  # noqa: PLC0415 - --help needs no torch

    settings = SlimTraining(**_values_of(args, SlimTraining()))
    return SlimRequest(**_data_of(args), network=args.model, init=args.init, settings=settings)


def gate_request(args: argparse.Namespace) -> GateRequest:
    """Return what the command line asks for.

    Raises:
        ConfigError: a setting is out of its range.

    """
    from seg_node.train.request import GateRequest  # noqa: PLC0415 - --help needs no torch

    settings = GateTraining(**_values_of(args, GateTraining()))
    return GateRequest(**_data_of(args), model=args.model, settings=settings)


def adjust_request(args: argparse.Namespace) -> AdjustRequest:
    """Return what the command line asks for."""
    from seg_node.train.request import AdjustRequest  # noqa: PLC0415 - --help needs no torch

    return AdjustRequest(**_labelled_of(args), model=args.model, strength=args.strength)


def _values_of(args: argparse.Namespace, settings: Training) -> dict[str, Any]:
    """Return the settings that were given."""
    return {n: getattr(args, n) for n, _, _ in settings.described() if hasattr(args, n)}


def _data_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what every training is asked for: fields of `TrainRequest`."""
    return {
        **_labelled_of(args),
        "unlabelled": args.unlabelled,
        "validation": args.validation,
        "teachers": args.teacher,
        "resume": args.resume,
    }


def _labelled_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what data are asked for: fields of `DataRequest`."""
    return {
        "data": args.data,
        "out": args.out,
        "name": args.name,
        "split": args.split,
        "topic": args.image,
        "mask_topic": args.mask,
    }


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `label_request` reads."""
    add = parser.add_argument
    add("data", help="bag, video, folder or named data")
    add("--model", type=names, default=("swiftnet18-half",), help="models that vote")
    add("--scales", default="0.75,1.25", help="resize factors that vote (default: 0.75,1.25)")
    add("--confidence", type=float, default=0.7, help="less sure pixels stay void (default: 0.7)")
    add("--stride", type=int, default=1, help="only every N-th frame")
    add("--split", default="train", help="split of data that have splits (default: train)")
    add("--image", "--topic", help="image topic of a bag (default: the only one)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--out", type=Path, required=True, help="folder to write; what is there is kept")


def label_request(args: argparse.Namespace) -> LabelRequest:
    """Return what the command line asks for.

    Raises:
        ConfigError: a value is out of its range.
        DataError: the data are a path that does not exist.

    """
    from seg_node.data.datasets import guess_spec  # noqa: PLC0415 - --help needs no OpenCV
    from seg_node.train.label import LabelRequest  # noqa: PLC0415 - --help needs no torch

    try:
        scales = tuple(float(text) for text in names(args.scales))
    except ValueError as err:
        msg = f"--scales is {args.scales!r}; expected numbers such as 0.75,1.25"
        raise ConfigError(msg) from err
    ranges = {
        "--model": (bool(args.model), "one name or several"),
        "--scales": (bool(scales) and all(SCALE_MIN <= s <= SCALE_MAX for s in scales), "0.1..8"),
        "--confidence": (0.0 <= args.confidence <= 1.0, "0..1"),
        "--stride": (args.stride >= 1, "1 or more"),
    }
    for flag, (fine, allowed) in ranges.items():
        if not fine:
            msg = f"{flag} is {getattr(args, flag[2:])!r}; expected {allowed}"
            raise ConfigError(msg)
    return LabelRequest(
        data=guess_spec(args.data),
        models=args.model,
        out=args.out,
        scales=scales,
        confidence=args.confidence,
        stride=args.stride,
        split=args.split,
        topic=args.image,
        device=args.device,
    )
