"""Networks as engines: what is refused, what is filled up, and that modes run on them.

TensorRT cannot run here. In its place torch runs exported traces, those that engines are made of,
behind the same interface; all else is what the robot runs.
"""

from __future__ import annotations

import copy
from dataclasses import replace
import json
from typing import Any, TYPE_CHECKING

import pytest
import torch

from seg_node.core.config import Config
from seg_node.core.costs import MacCounter
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import Interval, UNTRAINED
from seg_node.core.tiles import halved
from seg_node.core.types import Action, ConfigError, Frame, ModelError, Reason
from seg_node.export.command import run_export
from seg_node.export.settings import ExportSettings
from seg_node.export.tensorrt_format import engine_manifest
from seg_node.export.torch_formats import trace_runner
from seg_node.nets.build import build_policies, load_model, model_for
from seg_node.nets.engines import (
    Binding,
    check_bindings,
    check_engine,
    Engine,
    EngineManifest,
    EngineNetwork,
    find_engine,
    Machine,
    with_engines,
)
from test.core.motions import picture

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from seg_node.nets.build import Model

HERE = Machine("11.4.0", "NVIDIA Test")
SIZE = (64, 96)
POLICIES = {**UNTRAINED, "arseg": Interval(Action.LOW)}
BATCH = 2


@pytest.fixture(scope="module")
def model(own_model: Path) -> Model:
    return load_model(str(own_model))


@pytest.fixture(scope="module")
def engines(model: Model, own_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of engines whose files are traces, of two images a run."""
    folder = tmp_path_factory.mktemp("engines")
    wishes: dict[str, Any] = {"size": SIZE[::-1], "parts": ("high", "half"), "batch": BATCH}
    wishes["formats"] = ("pt2",)
    report = run_export(ExportSettings(str(own_model), folder, **wishes))
    assert model.manifest.low is not None
    hashes = {"high": model.manifest.sha256, "half": model.manifest.low.sha256}
    for entry in json.loads(report.read_text())["files"]:
        part = entry["part"]
        manifest = engine_manifest(entry["file"], entry, "own", hashes[part], HERE)
        path = manifest.write(folder)
        assert path.name == f"{part}.engine.json"
        assert EngineManifest.read(path) == manifest
    return folder


def opened(path: Path, manifest: EngineManifest) -> Any:
    """Open the trace in the place of an engine."""
    run = trace_runner(path)

    def only_its_shape(inputs: Mapping[str, Tensor]) -> Tensor:
        (image,) = inputs.values()
        assert image.shape == manifest.input.shape
        assert image.is_contiguous()
        return run({"image": image})

    return only_its_shape


@pytest.fixture(scope="module")
def on_engines(model: Model, engines: Path) -> Model:
    return with_engines(model, engines, torch.float32, HERE, opened)


def frames(count: int) -> list[Frame]:
    wide = picture(5, (SIZE[0], SIZE[1] + 2 * count))
    return [
        Frame(wide[:, 2 * i : 2 * i + SIZE[1]].copy(), i * 66_000_000, camera="front")
        for i in range(count)
    ]


# ---- running -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dense", "warp", "arseg"])
def test_modes_make_the_masks_that_they_make_in_torch(
    mode: str, model: Model, on_engines: Model
) -> None:
    config = Config(device="cpu", mode=mode, keyframe_interval=3)
    in_torch, in_engines = (
        Segmenter(each.net, POLICIES, config, each.low) for each in (model, on_engines)
    )
    for frame in frames(4):
        wanted, found = in_torch.step(frame), in_engines.step(frame)
        assert (found.labels == wanted.labels).mean() > 0.999
        assert found.plan.reason is wanted.plan.reason
        assert found.report.macs == wanted.report.macs
        assert found.report.dense_macs == wanted.report.dense_macs


def test_a_batch_is_cut_and_filled_up(model: Model, on_engines: Model) -> None:
    images = torch.stack([torch.from_numpy(frame.image).permute(2, 0, 1) for frame in frames(3)])
    net: Any = on_engines.net
    with torch.no_grad():
        wanted = model.net(images)
        found = net(images)
        assert net(images[:1]).shape == (1, *wanted.shape[1:])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)
    with MacCounter() as counter, torch.no_grad():
        net.features(images)
    assert counter.macs == 3 * net.engine.macs > 0


def test_images_of_another_size_are_refused_but_for_half_of_it(on_engines: Model) -> None:
    """Frames for which memory is short are computed at half resolution by the same network."""
    net: Any = on_engines.net
    image = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    assert net(halved(image)).shape[-2:] == (8, 12)
    with pytest.raises(ModelError, match=r"takes images \[3, 64, 96\], not \[3, 32, 96\].*96x32"):
        net(image[..., :32, :])
    low: Any = on_engines.low
    with pytest.raises(ModelError, match="--size 192x128"):
        low.net.features(torch.zeros(1, 3, 64, 96))


def test_the_pixels_get_the_type_that_the_engine_takes(on_engines: Model) -> None:
    net: Any = on_engines.net
    image = torch.randint(0, 256, (1, 3, *SIZE), generator=torch.Generator().manual_seed(1))
    same = net.features(image.to(torch.uint8))
    assert net.features(image.float()).equal(same)


# ---- refusing ------------------------------------------------------------------------------


def test_without_engines_the_command_that_makes_them_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"seg_node export --model own .* --formats tensorrt"
    ) as e:
        find_engine(tmp_path, "high", "own")
    assert str(tmp_path / "high.engine.json") in str(e.value)
    (tmp_path / "high.engine.json").write_text("{}")
    with pytest.raises(ModelError, match="is no manifest of an engine"):
        find_engine(tmp_path, "high", "own")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network_sha256": "other"}, "is for weights other, not"),
        ({"gpu": "Orin"}, "is for GPU Orin, not NVIDIA Test"),
        ({"tensorrt": "10.3.0"}, "is for TensorRT 10.3.0, not 11.4.0"),
        ({"output": Binding("features", "float16", (1, 8, 16, 24))}, "features in float16"),
        ({"sha256": "0"}, "is not the file that its manifest describes"),
        ({"file": "gone.engine"}, "is not the file that its manifest describes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_engine_of_something_else_is_refused_by_name(
    change: dict[str, Any], words: str, engines: Path, model: Model
) -> None:
    manifest, sha256 = find_engine(engines, "high", "own"), model.manifest.sha256
    check_engine(manifest, engines, sha256, torch.float32, HERE)
    with pytest.raises(ModelError, match=words):
        check_engine(replace(manifest, **change), engines, sha256, torch.float32, HERE)


def test_an_engine_of_the_other_branch_is_refused(engines: Path, model: Model) -> None:
    manifest = find_engine(engines, "half", "own")
    with pytest.raises(ModelError, match="is for weights"):
        check_engine(manifest, engines, model.manifest.sha256, torch.float32, HERE)


def test_tensors_have_to_be_those_of_the_manifest(engines: Path) -> None:
    manifest = find_engine(engines, "high", "own")
    assert manifest.input == Binding("image", "uint8", (BATCH, 3, *SIZE))
    assert manifest.output == Binding("features", "float32", (BATCH, 8, 16, 24))
    check_bindings(manifest, [manifest.output, manifest.input])
    wrong = replace(manifest.input, shape=(1, 3, *SIZE))
    with pytest.raises(ModelError, match=r"image uint8 \[1, 3, 64, 96\].*image uint8 \[2, 3"):
        check_bindings(manifest, [wrong, manifest.output])


def test_an_engine_is_shared_by_copies(on_engines: Model) -> None:
    net: Any = on_engines.net
    assert isinstance(net, EngineNetwork)
    assert isinstance(net.engine, Engine)
    assert copy.deepcopy(net).engine is net.engine


# ---- the device ----------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_tensorrt_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"device 'tensorrt' needs .*(tensorrt|GPU)") as error:
        model_for(Config(device="tensorrt"))
    assert "install" in str(error.value) or "built for CUDA" in str(error.value)
    with pytest.raises(ConfigError, match="torch sees 0 GPUs"):
        Segmenter(torch.nn.Identity(), {}, Config(device="tensorrt"))


@pytest.mark.parametrize("mode", ["adaptive", "segblocks", "stmg"])
def test_device_tensorrt_refuses_modes_of_blocks(mode: str, on_engines: Model) -> None:
    policies = build_policies(on_engines, Config())
    assert "stmg" not in policies
    segmenter = Segmenter(on_engines.net, policies, Config(device="cpu", mode="dense"))
    segmenter.config = Config(device="tensorrt", mode="dense")
    with pytest.raises(ConfigError, match=f"mode is '{mode}'.*one of dense, warp, arseg"):
        segmenter.reconfigure(Config(device="tensorrt", mode=mode))
    segmenter.reconfigure(Config(device="tensorrt", mode="warp"))


def test_other_devices_have_no_engines(own_model: Path) -> None:
    loaded = model_for(Config(device="cpu", model=str(own_model)))
    assert not isinstance(loaded.net, EngineNetwork)


def test_a_memory_short_frame_needs_no_engine(on_engines: Model) -> None:
    config = Config(device="cpu", mode="warp", memory_limit_mb=0.001)
    segmenter = Segmenter(on_engines.net, build_policies(on_engines, config), config)
    assert Reason.MEMORY in [segmenter.step(frame).plan.reason for frame in frames(3)]
