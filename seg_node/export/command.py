"""Does `seg_node export`: writes the parts of a model, and `export.json` beside them."""

from __future__ import annotations

from dataclasses import asdict
import json
import logging
from pathlib import Path
import platform
import tempfile
from typing import Any, TYPE_CHECKING

import cv2
import onnx
import onnxruntime
import onnxscript
import torch

import seg_node
from seg_node.core.types import ConfigError
from seg_node.data.street import Street
from seg_node.export.check import compare, TOLERANCES
from seg_node.export.formats import FORMATS, Order
from seg_node.export.parts import make_parts
from seg_node.export.program import trace
from seg_node.export.tensorrt_format import write_engine_manifest
from seg_node.nets.build import load_model
from seg_node.nets.manifest import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

    from seg_node.export.check import Difference
    from seg_node.export.parts import Part
    from seg_node.export.program import Program
    from seg_node.export.settings import ExportSettings
    from seg_node.nets.manifest import Manifest

LOG = logging.getLogger(__name__)
REPORT = "export.json"
SEED = 1
"""Street whose first frames the parts are tried on."""
IMAGES_TRIED = 2
ENGINES = ("high", "half")
"""Parts whose engines `device` tensorrt runs."""
PIXELS = {"uint8": torch.uint8, "float32": torch.float32}
"""Types of the images' numbers, by name."""


def run_export(settings: ExportSettings) -> Path:
    """Write every part in every format, and say how far each is from torch.

    Files appear in the folder once all of them are written and checked; until then they lie in a
    temporary folder inside it.

    Args:
        settings: what to write, and where.

    Returns:
        path of `export.json`.

    Raises:
        ConfigError: a setting is out of range, this machine lacks what a format needs, or the
            folder cannot be written to.
        ModelError: the model is unknown or damaged, lacks a part, cannot be exported so, or a
            file differs from torch by more than `check.TOLERANCES` allow.

    """
    settings.check()
    for name in settings.formats:
        FORMATS[name].check()
    model = load_model(settings.model)
    width, height = settings.size or model.manifest.training_size
    parts = make_parts(model, settings.parts, (height, width))
    images = street_images((height, width), PIXELS[settings.image])
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial", dir=settings.out) as partial:
            files = [
                entry
                for part in parts
                for entry in _write(part, images, settings, model.manifest, Path(partial))
            ]
            report = _report(settings, model.manifest, (width, height), files)
            text = json.dumps(report, indent=2) + "\n"
            (Path(partial) / REPORT).write_text(text, encoding="utf-8")
            for path in sorted(Path(partial).iterdir(), key=lambda path: path.name == REPORT):
                path.replace(settings.out / path.name)
    except OSError as err:
        msg = f"cannot write to {settings.out}: {err.strerror or err}; choose another --out"
        raise ConfigError(msg) from err
    return settings.out / REPORT


def street_images(size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the first frames of a synthetic street.

    Args:
        size: (H, W) in pixels.
        dtype: type of the numbers, 0..255.

    Returns:
        RGB [2, 3, H, W].

    """
    street = Street(SEED)
    pictures = [
        cv2.resize(street.picture(index)[0], (size[1], size[0])) for index in range(IMAGES_TRIED)
    ]
    frames = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]
    return torch.stack(frames).contiguous().to(dtype)


def _write(
    part: Part, images: Tensor, settings: ExportSettings, manifest: Manifest, folder: Path
) -> list[dict[str, Any]]:
    """Write a part in every format, check the files, and return what the report says of them."""
    notes = {
        "model": manifest.name,
        "sha256": manifest.sha256,
        "part": part.name,
        "seg_node": seg_node.__version__,
    }
    entries = []
    with torch.no_grad():
        order = Order(trace(part, images, settings), settings.opset, notes)
        for name in settings.formats:
            kind = FORMATS[name]
            path = folder / f"{part.name}{kind.suffix}"
            kind.write(order, path)
            difference = compare(part, images, settings, kind.run(order, path))
            LOG.info("%s", _line(path, difference))
            entry = _entry(order.program, name, path, difference)
            if name == "tensorrt" and part.name in ENGINES:
                sha256 = _weights(part, manifest)
                entry["manifest"] = write_engine_manifest(path, entry, manifest.name, sha256).name
            entries.append(entry)
    return entries


def _weights(part: Part, manifest: Manifest) -> str:
    """Return the hash of the weights that a part is made of."""
    low = manifest.low
    return low.sha256 if part.name == "half" and low is not None else manifest.sha256


def _line(path: Path, difference: Difference) -> str:
    agreement = difference.agreement
    labels = "" if agreement is None else f", {agreement:.2%} of the labels equal"
    return (
        f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, within {difference.maximum:.2g} of "
        f"torch, {difference.share:.2g} of the range{labels}"
    )


def _entry(program: Program, kind: str, path: Path, difference: Difference) -> dict[str, Any]:
    """Return what the report says of one file."""
    part = program.part
    return {
        "part": part.name,
        "format": kind,
        "file": path.name,
        "sha256": file_sha256(path),
        "bytes": path.stat().st_size,
        "inputs": [
            {
                "name": name,
                "type": str(value.dtype).removeprefix("torch."),
                "shape": [
                    program.open_dims[name].get(axis, length)
                    for axis, length in enumerate(value.shape)
                ],
            }
            for name, value in program.example.items()
        ],
        "outputs": [program.output],
        "difference": {
            **asdict(difference),
            "share": difference.share,
            "alike_share": difference.alike_share,
        },
    }


def _report(
    settings: ExportSettings,
    manifest: Manifest,
    size: tuple[int, int],
    files: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return the whole of `export.json`."""
    return {
        "model": {
            "name": manifest.name,
            "network": manifest.network,
            "sha256": manifest.sha256,
            "policy_sha256": manifest.policy.sha256 if manifest.policy else None,
            "low_sha256": manifest.low.sha256 if manifest.low else None,
            "classes": [info.name for info in manifest.classes],
        },
        "size": list(size),
        "precision": settings.precision,
        "opset": settings.opset,
        "dynamic": settings.dynamic or None,
        "image": settings.image,
        "batch": settings.batch,
        "tolerance": TOLERANCES[settings.precision],
        "tried_on": f"frames 0 and 1 of street:{SEED}",
        "versions": {
            "seg_node": seg_node.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "onnxscript": onnxscript.__version__,
        },
        "files": files,
    }
