"""`train segment --student low` from a model and named data to a model with a LOW branch."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, TYPE_CHECKING

import pytest
import torch

from seg_node.cli import main
from seg_node.core.types import ConfigError, DataError, ModelError
from seg_node.nets.build import build_network, load_model
from seg_node.nets.decision import ComplexityNet
from seg_node.nets.low import LowBranch, ResultBranch
from seg_node.nets.manifest import (
    file_sha256,
    find_manifest,
    Manifest,
    PolicyWeights,
    Slimming,
)
from seg_node.nets.weights import save_weights
from seg_node.train.arguments import add_segment_arguments, low_request, segment_request
from seg_node.train.low_command import branch_network, LowJob, start_branch, train_low
from seg_node.train.low_settings import LowTraining
from seg_node.train.request import low_command_line, LowRequest
from test.train.test_low import changed, TINY
from test.train.test_policy_command import write_folder

if TYPE_CHECKING:
    from pathlib import Path

WITHOUT = replace(TINY, steps=2, fusion_after=1, checkpoint_every=1)


@pytest.fixture
def base(random_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the manifest of a model with random weights and a policy."""
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))
    manifest, folder = find_manifest("swiftnet18-half")
    home = tmp_path / "base"
    home.mkdir()
    (home / manifest.file).write_bytes((folder / manifest.file).read_bytes())
    file = "old-policy.safetensors"
    sha256 = save_weights(ComplexityNet(8), home / file)
    policy = PolicyWeights(file, sha256, manifest.sha256, 64, 8, "", "")
    return str(replace(manifest, policy=policy).write(home))


def request_for(tmp_path: Path, base: str, **wishes: Any) -> LowRequest:
    data = write_folder(tmp_path / "data")
    return LowRequest((data,), tmp_path / "run", model=base, settings=WITHOUT, **wishes)


def test_a_model_gets_a_branch_and_keeps_its_weights_and_policy(tmp_path: Path, base: str) -> None:
    settings = replace(WITHOUT, street_share=0.5, streets=1, street_frames=3)
    request = replace(request_for(tmp_path, base, name="mine"), settings=settings)
    (manifest,) = train_low(request)
    path = tmp_path / "run" / "mine.json"
    assert manifest == Manifest.read(path)
    made, before = load_model(str(path)), load_model(base)
    assert replace(
        made.manifest, low=None, name=before.manifest.name, file=before.manifest.file
    ) == (before.manifest)
    assert file_sha256(tmp_path / "run" / "mine.safetensors") == before.manifest.sha256
    assert made.policy is not None
    assert made.low is not None
    assert manifest.low is not None
    assert (manifest.low.file, manifest.low.fusion) == ("mine-low.safetensors", "gated")
    assert manifest.low.network_sha256 == before.manifest.sha256
    assert manifest.low.command.startswith(
        "seg_node train segment --student low --data folder:DIR"
    )
    image = torch.randint(0, 256, (1, 3, 64, 96)).float()
    with torch.inference_mode():
        features = made.low(image, torch.rand(1, 64, 32, 48))
    assert features.shape == (1, 64, 32, 48)
    weight = made.net.get_parameter("head.weight")
    assert torch.equal(made.low.net.get_parameter("head.weight"), weight.half().float())

    with pytest.raises(ConfigError, match="add --resume to continue it"):
        train_low(request)
    with pytest.raises(ConfigError, match=r"holds a run with other settings \(init_sha256 was"):
        train_low(replace(request, init=str(path), resume=True))
    # A branch goes on where it stopped, fusion and all.
    again = replace(request, init=str(path), out=tmp_path / "more")
    branch = start_branch(load_model(base, fold=False), again)
    unfolded = load_model(str(path), fold=False).low
    assert unfolded is not None
    assert changed(branch, unfolded) <= {"net.head.weight", "net.head.bias"}  # rounded to fp16
    other = replace(again, settings=replace(settings, fusion="creff"))
    with pytest.raises(ModelError, match="has the fusion gated: use --fusion gated"):
        start_branch(load_model(base, fold=False), other)


def test_a_slimmed_model_is_no_start_of_a_whole_ones_branch(tmp_path: Path, base: str) -> None:
    manifest, folder = find_manifest(base)
    slimmed = replace(
        manifest,
        name="slim",
        file=str(folder / manifest.file),
        policy=None,
        low=None,
        slim=Slimming({}),
    )
    path = str(slimmed.write(tmp_path))
    request = replace(request_for(tmp_path, base), init=path)
    with pytest.raises(ModelError, match=r"slim and .* one is slimmed: leave --init"):
        start_branch(load_model(base, fold=False), request)


def test_the_branch_starts_as_the_network_or_as_another_with_its_head(
    tmp_path: Path, base: str
) -> None:
    model = load_model(base, fold=False)
    request = request_for(tmp_path, base)
    plain = start_branch(model, request)
    assert changed(plain.net, model.net) == set()
    again = start_branch(model, request)
    assert changed(plain.fusion, again.fusion) == set()  # drawn from the seed
    creff = replace(request, settings=replace(WITHOUT, fusion="creff"))
    assert (
        changed(start_branch(model, creff).fusion, LowBranch(model.net, "creff").fusion) == set()
    )
    other = load_model(base, fold=False)
    with torch.no_grad():
        other.net.get_parameter("head.bias").fill_(3.0)
        other.net.get_parameter("encoder.stem.1.weight").fill_(0.5)
    file = tmp_path / "base" / "other.safetensors"
    sha256 = save_weights(other.net, file)
    manifest = replace(other.manifest, name="other", file=file.name, sha256=sha256, policy=None)
    request = replace(request, init=str(manifest.write(tmp_path / "base")))
    norms = replace(request, settings=replace(WITHOUT, weights="norms"))
    for asked in (request, norms):
        found = start_branch(model, asked)
        assert changed(found.net, model.net) == {"encoder.stem.1.weight"}
    with torch.no_grad():
        other.net.get_parameter("encoder.stem.0.weight").fill_(0.5)
    replace(manifest, sha256=save_weights(other.net, file)).write(tmp_path / "base")
    assert "encoder.stem.0.weight" in changed(start_branch(model, request).net, model.net)
    text = r"convolutions are those of swiftnet18-half, but encoder.stem.0.weight of other differs"
    with pytest.raises(ModelError, match=text):
        start_branch(model, norms)
    replace(manifest, network="bisenet18").write(tmp_path / "base")
    with pytest.raises(ModelError):
        start_branch(model, request)


def written(folder: Path, base: str, network: str, **changes: Any) -> str:
    """Write a model of another network with random weights, and return its manifest."""
    manifest, _ = find_manifest(base)
    net = build_network(network, len(manifest.classes))
    sha256 = save_weights(net, folder / f"{network}.safetensors")
    other = replace(
        manifest,
        name="other",
        network=network,
        file=f"{network}.safetensors",
        sha256=sha256,
        policy=None,
        **changes,
    )
    return str(other.write(folder))


def test_results_are_blended_behind_another_network(tmp_path: Path, base: str) -> None:
    init = written(tmp_path, base, "swiftnet18")
    request = replace(
        request_for(tmp_path, base, init=init), settings=replace(WITHOUT, fusion="blend")
    )
    (manifest,) = train_low(request)
    assert manifest.low is not None
    assert (manifest.low.network, manifest.low.fusion) == ("swiftnet18", "blend")
    path = str(tmp_path / "run" / f"{manifest.name}.json")
    made = load_model(path)
    assert isinstance(made.low, ResultBranch)
    assert made.low.net.feature_channels == 128
    image = torch.randint(0, 256, (1, 3, 64, 96)).float()
    with torch.inference_mode():
        assert made.low(image, torch.rand(1, 14, 32, 48)).shape == (1, 11, 32, 48)
    # It goes on where it stopped; a branch that fuses features starts from the network instead.
    model = load_model(base, fold=False)
    known = load_model(path, fold=False)
    again = replace(request, init=path)
    assert known.low is not None
    assert changed(start_branch(model, again), known.low) == set()
    assert branch_network(model.manifest, known.manifest, "blend") == "swiftnet18"
    assert branch_network(model.manifest, known.manifest, "gated") is None
    features = start_branch(model, replace(again, settings=WITHOUT))
    assert isinstance(features, LowBranch)
    assert changed(features.net, model.net) == set()


def test_features_of_another_network_or_results_of_another_stride_are_refused(
    tmp_path: Path, base: str
) -> None:
    model = load_model(base, fold=False)
    request = replace(request_for(tmp_path, base), init=written(tmp_path, base, "swiftnet18"))
    with pytest.raises(ModelError, match="a swiftnet18-half: leave --init, or use --fusion blend"):
        start_branch(model, request)
    blend = replace(WITHOUT, fusion="blend")
    norms = replace(request, settings=replace(blend, weights="norms"))
    with pytest.raises(
        ModelError, match=r"convolutions are those of swiftnet18-half, but .* diff"
    ):
        start_branch(model, norms)
    eighth = written(tmp_path, base, "bisenet18-half")
    with pytest.raises(ModelError, match="other has stride 8, swiftnet18-half 4: leave --init"):
        start_branch(model, replace(request, init=eighth, settings=blend))


def test_what_cannot_work_is_refused_by_name(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(tmp_path, base)
    with pytest.raises(ConfigError, match="the network of --model; leave --teacher"):
        LowJob(replace(request, teachers=(base,)))
    two = write_folder(tmp_path / "two", ("dark", "bright"))
    text = r"model swiftnet18-half has 11 \(Sky.*\), the data have 2 \(dark, bright\)"
    with pytest.raises(ModelError, match=text):
        LowJob(replace(request, data=(two,)))
    with pytest.raises(DataError, match=r"no labelled frame of folder:.* has 11 frames before it"):
        LowJob(replace(request, validation=request.data[0]))
    from seg_node.train.distributed import Share  # noqa: PLC0415 - here only

    monkeypatch.setattr("seg_node.train.distributed.join", lambda: Share(0, 2, 2))
    with pytest.raises(ConfigError, match="trained by one process, not 2; leave torchrun"):
        LowJob(request)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_segment_arguments(parser)
    return parser.parse_args(["--data", "street:1", "--out", "x", *words])


def test_every_setting_is_a_flag_and_in_the_command() -> None:
    words = ["--student", "low", "--model", "/a/base.json", "--init", "/b/other.json"]
    words += ["--weights", "norms", "--distance-max", "5", "--fusion-after", "10", "--steps", "90"]
    request = low_request(parse(*words))
    expected = LowTraining(weights="norms", distance_max=5, fusion_after=10, steps=90)
    assert request.settings == expected
    assert (request.model, request.init) == ("/a/base.json", "/b/other.json")
    assert low_request(parse("--student", "low")).settings == LowTraining()
    assert low_command_line(request) == (
        "seg_node train segment --student low --data street:1 --model base.json --init other.json "
        "--steps 90 --weights norms --distance-max 5 --fusion-after 10"
    )


def test_settings_of_the_other_student_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--low-norms is no setting of --student low"):
        low_request(parse("--student", "low", "--low-norms"))
    with pytest.raises(ConfigError, match="--distance-max is no setting of --student network"):
        segment_request(parse("--distance-max", "5"))
    words = ["train", "segment", "--data", "street:1", "--out", "x", "--student", "low"]
    assert main([*words, "--crop-width", "352"]) == 1
    assert "sides must be multiples of 64" in capsys.readouterr().err
    assert main([*words, "--widen", "y"]) == 1
    assert "--widen is for --student network" in capsys.readouterr().err
