"""Arguments of `seg_node export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seg_node.core.config import Config
from seg_node.export.settings import (
    DYNAMIC,
    ExportSettings,
    FORMATS,
    IMAGES,
    OPSETS,
)

if TYPE_CHECKING:
    import argparse


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `export_settings` reads."""
    defaults = ExportSettings(Config().model, Path("out/export"))
    parser.add_argument(
        "--model", default=defaults.model, help="name of a shipped model, or path of a manifest"
    )
    parser.add_argument(
        "--out", type=Path, default=defaults.out, help=f"folder (default: {defaults.out})"
    )
    parser.add_argument(
        "--size", metavar="WxH", help="size of the images (default: that of the training)"
    )
    parser.add_argument(
        "--parts",
        metavar="A,B",
        help="some of dense, high, head, low, half, fusion, policy (default: all that the model "
        "has, but not half)",
    )
    parser.add_argument(
        "--formats",
        metavar="A,B",
        default=",".join(defaults.formats),
        help=f"some of {', '.join(FORMATS)} (default: onnx)",
    )
    parser.add_argument(
        "--precision",
        default=defaults.precision,
        help="fp32 or fp16 (default: fp32)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=defaults.opset,
        help=f"ONNX operator set, {OPSETS[0]} to {OPSETS[1]} (default: {defaults.opset})",
    )
    parser.add_argument(
        "--dynamic",
        default=defaults.dynamic,
        help=f"leave it open: {' or '.join(filter(None, DYNAMIC))} (default: fixed shapes)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=defaults.batch,
        help=f"images of one run, where it is not left open (default: {defaults.batch})",
    )
    parser.add_argument(
        "--image",
        default=defaults.image,
        help=f"type of the pixels, {' or '.join(IMAGES)} (default: uint8)",
    )


def export_settings(args: argparse.Namespace, size: tuple[int, int] | None) -> ExportSettings:
    """Return what the command line asks for.

    Args:
        args: what `add_export_arguments` made of it.
        size: (width, height) that `--size` means; None without it.

    """
    return ExportSettings(
        model=args.model,
        out=args.out,
        size=size,
        parts=tuple(args.parts.split(",")) if args.parts else (),
        formats=tuple(dict.fromkeys(args.formats.split(","))),
        precision=args.precision,
        opset=args.opset,
        dynamic=args.dynamic,
        image=args.image,
        batch=args.batch,
    )
