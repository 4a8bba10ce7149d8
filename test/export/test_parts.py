"""What is exported computes what torch computes, and its files are what `export.json` says."""

from __future__ import annotations

from dataclasses import replace
import json
import shutil
from typing import TYPE_CHECKING

import onnx
import onnxruntime
import pytest
import torch

from seg_node.cli import main
from seg_node.core.scores import Complexity
from seg_node.core.tiles import halved
from seg_node.nets.build import build_network, load_model
from seg_node.nets.low import build_branch, LowBranch
from seg_node.nets.manifest import find_manifest
from seg_node.nets.weights import save_weights
from test.export.conftest import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from seg_node.nets.build import Model
    from test.export.conftest import Exported

PARTS = ("dense", "high", "head", "low", "fusion", "policy")
TOLERANCE = 1e-3
TYPES = {
    "uint8": onnx.TensorProto.UINT8,
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bool": onnx.TensorProto.BOOL,
}


def picture(seed: int = 0) -> Tensor:
    """Return another image than those that an export tries, uint8 [1, 3, 64, 96]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 12, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, (64, 96), mode="bilinear").to(torch.uint8)


def runner(path: Path) -> Callable[..., Tensor]:
    """Return what runs an ONNX file on tensors, in the order of its inputs."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        arrays = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, arrays)[0])

    return run


def assert_equal(found: Tensor, wanted: Tensor) -> None:
    """Compare by the range of what is wanted."""
    span = float(wanted.max() - wanted.min())
    assert span > 0
    torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE * span)


@pytest.fixture(scope="module")
def model(exported: Exported) -> Model:
    return load_model(str(exported.manifest))


@pytest.fixture(scope="module")
def parts(exported: Exported) -> dict[str, Callable[..., Tensor]]:
    return {name: runner(exported.folder / f"{name}.onnx") for name in PARTS}


def test_high_and_head_make_dense(model: Model, parts: dict[str, Callable[..., Tensor]]) -> None:
    with torch.no_grad():
        wanted = model.net(picture())
    assert_equal(parts["dense"](picture()), wanted)
    assert_equal(parts["head"](parts["high"](picture())), wanted)


@pytest.mark.parametrize("seen", [0.0, 0.02, 0.6, 1.0])
def test_low_and_fusion_make_a_frame_of_mode_arseg(
    model: Model, parts: dict[str, Callable[..., Tensor]], seen: float
) -> None:
    """As in the pipeline: half the image, features of another one as memory, holes in it."""
    low = model.low
    assert isinstance(low, LowBranch)
    valid = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(5)) < seen
    with torch.no_grad():
        memory = model.net.features(picture(1))  # type: ignore[operator]  # features() is a method
        wanted = low(halved(picture()), memory, valid)
    assert_equal(parts["fusion"](parts["low"](picture()), memory, valid), wanted)


@pytest.mark.parametrize("seen", [0.0, 0.4, 1.0])
def test_memory_and_blend_make_a_frame_of_a_branch_that_blends(
    own_model: Path, tmp_path: Path, seen: float
) -> None:
    torch.manual_seed(6)
    manifest, folder = find_manifest(str(own_model))
    assert manifest.low is not None
    branch = build_branch(build_network(manifest.network, 11), "blend").eval()
    torch.nn.init.normal_(branch.fusion.get_parameter("share.weight"))
    shutil.copyfile(folder / manifest.file, tmp_path / manifest.file)
    sha256 = save_weights(branch, tmp_path / "blend.safetensors")
    known = replace(manifest.low, file="blend.safetensors", sha256=sha256, fusion="blend")
    path = replace(manifest, low=known, policy=None).write(tmp_path)
    names = ("low", "memory", "blend")
    assert main(["export", "--model", str(path), "--out", str(tmp_path / "out")]) == 0
    low, memory, blend = (runner(tmp_path / "out" / f"{name}.onnx") for name in names)
    assert not (tmp_path / "out" / "fusion.onnx").exists()

    net = load_model(str(path)).net
    valid = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(5)) < seen
    with torch.no_grad():
        features = net.features(picture(1))  # type: ignore[operator]  # features() is a method
        kept = branch.remembered(picture(1), features, net(picture(1)))
        wanted = branch(halved(picture()), kept, valid)
    assert_equal(memory(picture(1)), kept)
    assert_equal(blend(picture(), low(picture()), kept, valid), wanted)


def test_policy_ranks_blocks_that_stick_out_as_the_robot_does(
    model: Model, parts: dict[str, Callable[..., Tensor]]
) -> None:
    assert model.policy is not None
    scores = torch.from_numpy(Complexity(model.policy)(picture(), 24)).float()
    assert scores.shape == (3, 4)
    assert_equal(parts["policy"](picture())[0], scores)


def test_every_file_is_what_the_report_says(exported: Exported) -> None:
    files = exported.report["files"]
    assert [(entry["part"], entry["format"]) for entry in files] == [
        (part, "onnx") for part in PARTS
    ]
    assert {entry["file"] for entry in files} | {"export.json"} == {
        path.name for path in exported.folder.iterdir()
    }
    for entry in files:
        path = exported.folder / entry["file"]
        assert sha256_of(path) == entry["sha256"]
        assert path.stat().st_size == entry["bytes"]
        assert entry["difference"]["share"] <= TOLERANCE
        assert entry["difference"]["span"] > 0
        agreement = entry["difference"]["agreement"]
        assert agreement > 0.999 if entry["part"] in {"dense", "head"} else agreement is None


@pytest.mark.parametrize("part", PARTS)
def test_onnx_is_valid_and_has_the_inputs_of_the_report(exported: Exported, part: str) -> None:
    (entry,) = (file for file in exported.report["files"] if file["part"] == part)
    graph = onnx.load(exported.folder / entry["file"])
    onnx.checker.check_model(graph, full_check=True)
    assert [(imported.domain, imported.version) for imported in graph.opset_import] == [("", 20)]
    for values, said in ((graph.graph.input, "inputs"), (graph.graph.output, "outputs")):
        found = [
            (
                value.name,
                value.type.tensor_type.elem_type,
                [dim.dim_value for dim in value.type.tensor_type.shape.dim],
            )
            for value in values
        ]
        assert found == [(one["name"], TYPES[one["type"]], one["shape"]) for one in entry[said]]
    notes = {prop.key: prop.value for prop in graph.metadata_props}
    assert notes["part"] == part
    assert notes["sha256"] == exported.report["model"]["sha256"]


def test_the_report_says_what_was_exported(exported: Exported) -> None:
    manifest = json.loads(exported.manifest.read_text())
    report = exported.report
    assert report["model"]["name"] == "own"
    assert report["model"]["sha256"] == manifest["sha256"]
    assert report["model"]["policy_sha256"] == manifest["policy"]["sha256"]
    assert report["model"]["low_sha256"] == manifest["low"]["sha256"]
    assert report["size"] == manifest["training_size"]
    assert (report["opset"], report["precision"], report["dynamic"]) == (20, "fp32", None)
    assert report["versions"]["onnxruntime"] == onnxruntime.__version__
