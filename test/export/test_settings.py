"""Shapes, precisions and networks that may be exported, and what is refused in one sentence."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import onnx
import pytest
import torch
from torch import nn

from seg_node.cli import main
from seg_node.core.types import ConfigError, ModelError
from seg_node.export.check import compare
from seg_node.export.packages import check_packages
from seg_node.export.parts import Part
from seg_node.export.settings import ExportSettings
from seg_node.export.torch_formats import check_compiler
from seg_node.nets.build import load_model
from test.export.test_parts import assert_equal, picture, runner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


def export(folder: Path, model: Path | str, *more: str) -> dict[str, object]:
    """Run the command and return what `export.json` says of the first file."""
    assert main(["export", "--model", str(model), "--out", str(folder), *more]) == 0
    entry: dict[str, object] = json.loads((folder / "export.json").read_text())["files"][0]
    return entry


def test_a_shipped_architecture_at_an_odd_size(
    random_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pyramid pools unevenly and its decoder cuts, where no side is a multiple of 32."""
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    export(
        tmp_path, "swiftnet18-half", "--parts", "dense", "--size", "93x59", "--image", "float32"
    )
    image = picture()[..., :59, :93].float()
    with torch.no_grad():
        wanted = load_model("swiftnet18-half").net(image)
    assert_equal(runner(tmp_path / "dense.onnx")(image), wanted)


def test_half_precision_keeps_half_precision_weights_and_planes(
    own_model: Path, tmp_path: Path
) -> None:
    entry = export(tmp_path, own_model, "--parts", "fusion", "--precision", "fp16")
    graph = onnx.load(tmp_path / "fusion.onnx").graph
    types_of = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = {types_of[node.input[1]] for node in graph.node if node.op_type == "Conv"}
    assert weights == {onnx.TensorProto.FLOAT16}
    # As on the robot, logits of the attention are not rounded to half precision.
    assert onnx.TensorProto.FLOAT in {
        node.attribute[0].i for node in graph.node if node.op_type == "Cast"
    }
    types = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    half = onnx.TensorProto.FLOAT16
    assert types == [half, half, onnx.TensorProto.BOOL, half]
    difference = entry["difference"]
    assert isinstance(difference, dict)
    assert 0 < difference["share"] < 1e-2
    assert 0 < difference["alike_share"] < 1e-3


def test_open_batch_and_size(own_model: Path, tmp_path: Path) -> None:
    """One file for several images, and for images of another size; as a trace of torch too."""
    arguments = ("--parts", "high", "--dynamic", "size", "--formats", "onnx,pt2")
    entry = export(tmp_path, own_model, *arguments)
    assert entry["inputs"] == [
        {"name": "image", "type": "uint8", "shape": ["batch", 3, "32*rows", "32*columns"]}
    ]
    assert entry["outputs"] == [
        {"name": "features", "type": "float32", "shape": [None, 8, None, None]}
    ]
    images = torch.cat([picture(seed) for seed in range(3)]).repeat(1, 1, 2, 1)
    with torch.no_grad():
        wanted = load_model(str(own_model)).net.features(images)  # type: ignore[operator]  # features() is a method
        trace = torch.export.load(tmp_path / "high.pt2").module()
        assert_equal(trace(images), wanted)
    assert_equal(runner(tmp_path / "high.onnx")(images), wanted)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--size", "big"], "size is 'big'; expected WIDTHxHEIGHT"),
        (["--size", "0x64"], "side of the images is 0; allowed are 16 to 8192"),
        (["--size", "96x9000"], "side of the images is 9000; allowed are 16 to 8192"),
        (["--parts", "dense,tail"], "part is 'tail'; choose from dense, high, head, low, half,"),
        (["--batch", "0"], "batch is 0; allowed are 1 to 64"),
        (["--batch", "2", "--dynamic", "batch"], "batch is 2, but dynamic 'batch' leaves it open"),
        (["--formats", "onnx,bin"], "format is 'bin'; choose one of onnx, pt2, aoti, tensorrt"),
        (["--precision", "int8"], "precision is 'int8'; choose one of fp32, fp16"),
        (["--opset", "12"], "opset is 12; allowed are 18 to 23"),
        (["--dynamic", "depth"], "dynamic is 'depth'; choose one of batch, size"),
        (["--image", "int8"], "image is 'int8'; choose one of uint8, float32"),
        (["--dynamic", "batch", "--formats", "tensorrt"], "TensorRT engines have one shape"),
        (["--dynamic", "size", "--parts", "head,policy"], "part 'policy' works at one size"),
        (["--model", "yolo"], "unknown model 'yolo'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    own_model: Path,
    tmp_path: Path,
    arguments: list[str],
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main(["export", "--model", str(own_model), "--out", str(out), *arguments]) == 1
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not out.exists() or not list(out.iterdir())


def test_parts_that_a_model_lacks_are_named(
    random_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    for part, lacks in (("low", "no half-resolution branch"), ("policy", "no policy network")):
        assert main(["export", "--parts", part, "--out", str(tmp_path)]) == 1
        assert f"'swiftnet18-half' has no part '{part}': {lacks}" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(
    own_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    assert main(["export", "--model", str(own_model), "--out", str(out)]) == 1
    assert capsys.readouterr().err == (
        f"seg_node: cannot write to {out}: Not a directory; choose another --out\n"
    )


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"needs no_such_package: pip install 'seg_node\[export"):
        check_packages(("onnx", "no_such_package"))
    with (
        torch._inductor.config.patch({"cpp.cxx": "/no/compiler"}),
        pytest.raises(ConfigError, match=r"needs a C\+\+ compiler: install g\+\+"),
    ):
        check_compiler()


def test_tensorrt_is_refused_where_it_or_a_gpu_is_missing(
    own_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    out = tmp_path / "out"
    arguments = ["export", "--model", str(own_model), "--out", str(out), "--formats", "tensorrt"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"seg_node: format tensorrt needs (the package tensorrt|a GPU).*\n", error)
    assert not out.exists()


class Wrong(nn.Module):
    """Ten values from 0 to 9, all off by a bit."""

    def __init__(self, off: float) -> None:
        """Take how far the values are off."""
        super().__init__()
        self.off = off

    def forward(self, image: Tensor) -> Tensor:
        """Return [N, 10, 1, 1] for any image."""
        return torch.arange(10.0).view(1, 10, 1, 1).expand(len(image), -1, -1, -1) + self.off


@pytest.mark.parametrize(
    ("off", "precision", "allowed"),
    [
        (0.008, "fp32", True),
        (0.010, "fp32", False),
        (0.08, "fp16", True),
        (0.10, "fp16", False),
        (float("nan"), "fp16", False),
    ],
)
def test_what_differs_by_more_than_its_share_of_the_range_is_refused(
    tmp_path: Path, off: float, precision: str, *, allowed: bool
) -> None:
    """The range is 9: a thousandth of it is 0.009."""
    right, wrong = Wrong(0.0), Wrong(off)
    part = Part("dense", right, right, lambda x: {"image": x}, "logits", {"image": 1})
    settings = ExportSettings("own", tmp_path, precision=precision)

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = wrong(inputs["image"])
        return found

    if allowed:
        difference = compare(part, picture(), settings, run)
        assert difference.maximum == pytest.approx(off, rel=1e-3)
        assert difference.span == 9.0
        assert difference.agreement == 1.0
        return
    with pytest.raises(ModelError, match=r"'dense' of 'own' differs from torch by .* not written"):
        compare(part, picture(), settings, run)


class Tenth(nn.Module):
    """A tenth of the image; half precision has none."""

    def __init__(self) -> None:
        """Make the factor."""
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.1), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        """Multiply."""
        return image.to(self.factor.dtype) * self.factor


class Unknown(Tenth):
    """One that torch cannot compute in half precision."""

    def forward(self, image: Tensor) -> Tensor:
        """Fail as torch does."""
        if self.factor.dtype == torch.half:
            msg = "\"tenth\" not implemented for 'Half'"
            raise RuntimeError(msg)
        return super().forward(image)


@pytest.mark.parametrize(("net", "alike"), [(Tenth(), 0.0), (Unknown(), None)], ids=str)
def test_half_precision_is_compared_with_torch_in_the_same_and_in_float32(
    tmp_path: Path, net: nn.Module, alike: float | None
) -> None:
    part = Part("dense", net, net, lambda x: {"image": x}, "features", {"image": 1})
    settings = ExportSettings("own", tmp_path, precision="fp16")
    difference = compare(
        part, picture(), settings, lambda inputs: Tenth().half()(*inputs.values())
    )
    assert difference.maximum > 1e-4
    assert difference.alike == alike
    assert difference.alike_share == alike
    exact = compare(part, picture(), ExportSettings("own", tmp_path), lambda x: net(*x.values()))
    assert exact.maximum == exact.alike == 0.0


@pytest.mark.parametrize(("dynamic", "sides"), [("batch", [64]), ("size", [64, 96])])
def test_what_is_open_is_tried(tmp_path: Path, dynamic: str, sides: list[int]) -> None:
    """Traces can hold for one size alone without saying so, as SwiftNet's do."""
    net = Wrong(0.0)
    part = Part("dense", net, net, lambda x: {"image": x}, "logits", {"image": 1})
    settings = ExportSettings("own", tmp_path, dynamic=dynamic)
    tried = []

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        tried.append(tuple(inputs["image"].shape))
        found: Tensor = net(inputs["image"]) + (tried[-1][2] - 64)
        return found

    images = torch.cat([picture(0), picture(1)])
    if len(sides) == 1:
        compare(part, images, settings, run)
    else:
        with pytest.raises(ModelError, match="with dynamic 'size' differs from torch by 32"):
            compare(part, images, settings, run)
    assert {shape[0] for shape in tried} == {1, 2}
    assert sorted({shape[2] for shape in tried}) == sides


def test_several_images_of_a_run_and_the_network_of_half_the_image(
    tmp_path: Path, own_model: Path
) -> None:
    """What engines are built from; `half` is written only where it is named."""
    folder = tmp_path / "out"
    export(folder, own_model, "--parts", "half", "--batch", "3", "--size", "65x50")
    (entry,) = json.loads((folder / "export.json").read_text())["files"]
    assert entry["inputs"] == [{"name": "image", "type": "float32", "shape": [3, 3, 25, 33]}]
    assert entry["outputs"][0]["shape"] == [3, 8, 7, 9]
    images = torch.rand(3, 3, 25, 33, generator=torch.Generator().manual_seed(1)) * 255
    low = load_model(str(own_model)).low
    assert low is not None
    with torch.no_grad():
        wanted = low.net.features(images)  # type: ignore[operator]  # features() is a method
    assert_equal(runner(folder / "half.onnx")(images), wanted)
