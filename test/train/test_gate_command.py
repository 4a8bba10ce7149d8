"""`train gate` from a model and named data to a model with gates, which mode stmg then uses."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from typing import Any, TYPE_CHECKING

import pytest
import torch

from seg_node.cli import main
from seg_node.core.config import Config
from seg_node.core.gate import DistortionGate, Gated, LearnedGate
from seg_node.core.types import ConfigError, ModelError
from seg_node.nets.build import build_policies, load_model
from seg_node.nets.manifest import file_sha256, Manifest
from seg_node.train.arguments import add_gate_arguments, gate_request
from seg_node.train.gate_command import train_gate
from seg_node.train.gate_settings import GateTraining, OF_LOW
from seg_node.train.request import gate_command_line, GateRequest
from test.train.test_gate import TINY
from test.train.test_low_command import base
from test.train.test_policy_command import write_folder

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["base"]  # a fixture

SHORT = replace(TINY, steps=2, checkpoint_every=1)


def request_for(tmp_path: Path, base: str, **wishes: Any) -> GateRequest:
    data = write_folder(tmp_path / "data")
    return GateRequest((data,), tmp_path / "run", model=base, settings=SHORT, **wishes)


def test_a_model_gets_gates_and_keeps_the_rest(tmp_path: Path, base: str) -> None:
    request = request_for(tmp_path, base, name="mine")
    settings = replace(SHORT, street_share=0.5, streets=1, street_frames=3)
    (manifest,) = train_gate(replace(request, settings=settings))
    path = tmp_path / "run" / "mine.json"
    assert manifest == Manifest.read(path)
    made, before = load_model(str(path)), load_model(base)
    own = replace(made.manifest, name=before.manifest.name, file=before.manifest.file)
    assert replace(own, gate=None) == before.manifest
    assert file_sha256(tmp_path / "run" / "mine.safetensors") == before.manifest.sha256
    assert made.policy is not None
    assert manifest.gate is not None
    assert (manifest.gate.file, manifest.gate.block_size) == ("mine-gate.safetensors", 32)
    assert manifest.gate.network_sha256 == before.manifest.sha256
    assert manifest.gate.command.startswith("seg_node train gate --data folder:DIR")
    policies = [build_policies(model, Config())["stmg"] for model in (made, before)]
    kinds = [LearnedGate, DistortionGate]
    for policy, kind in zip(policies, kinds, strict=True):
        assert isinstance(policy, Gated)
        assert isinstance(policy.score, kind)
        assert policy.score.macs((3, 4)) == (3 * 4 * (9 * 8 * 7 + 8 * 7)) * (kind is LearnedGate)
    # And on from there.
    again = replace(request, model=str(path), out=tmp_path / "again", settings=settings)
    (further,) = train_gate(again)
    assert further.gate is not None
    assert further.gate.sha256 != manifest.gate.sha256


def test_gates_of_another_network_are_refused_by_name(tmp_path: Path, base: str) -> None:
    (manifest,) = train_gate(request_for(tmp_path, base))
    assert manifest.gate is not None
    other = replace(manifest, gate=replace(manifest.gate, network_sha256="0" * 64))
    path = other.write(tmp_path / "run")
    with pytest.raises(ModelError, match=r"the gate of model 'swiftnet18-half' was trained with"):
        load_model(str(path))
    damaged = replace(manifest, gate=replace(manifest.gate, sha256="0" * 64))
    with pytest.raises(ModelError, match=r"-gate\.safetensors has sha256"):
        load_model(str(damaged.write(tmp_path / "run")))


def test_gates_that_do_not_fit_are_refused(tmp_path: Path, base: str) -> None:
    from seg_node.nets.decision import GateNet  # noqa: PLC0415 - for this test alone
    from seg_node.nets.weights import save_weights  # noqa: PLC0415 - for this test alone

    (manifest,) = train_gate(request_for(tmp_path, base))
    assert manifest.gate is not None
    sha256 = save_weights(GateNet(2), tmp_path / "run" / manifest.gate.file)
    wrong = replace(manifest, gate=replace(manifest.gate, sha256=sha256))
    with pytest.raises(ModelError, match="does not fit the network"):
        load_model(str(wrong.write(tmp_path / "run")))


def test_every_setting_is_a_flag_and_in_the_command(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_gate_arguments(parser)
    words = ["--data", "street:1", "--out", str(tmp_path), "--model", "a/b.json"]
    words += ["--rate-weight", "7.5", "--block-side", "32", "--steps", "9"]
    request = gate_request(parser.parse_args(words))
    expected = GateTraining(rate_weight=7.5, block_side=32, steps=9)
    assert request.settings == expected
    line = gate_command_line(request)
    assert line.startswith("seg_node train gate --data street:1 --model b.json")
    for part in ("--rate-weight 7.5", "--block-side 32", "--steps 9"):
        assert part in line
    flags = {name for action in parser._actions for name in action.option_strings}
    names = {item.name for item in fields(GateTraining)} - OF_LOW
    assert {f"--{name.replace('_', '-')}" for name in names} <= flags


def test_what_cannot_work_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(ConfigError, match="leave --teacher"):
        train_gate(request_for(tmp_path, base, teachers=("swiftnet18-half",)))
    assert main(["train", "gate", "--data", "street:1", "--out", "x", "--steps", "0"]) != 0


def test_learned_gates_never_drop_more_for_more_distortion() -> None:
    from seg_node.nets.decision import GateNet  # noqa: PLC0415 - for this test alone

    torch.manual_seed(0)
    for _ in range(5):
        net = GateNet(3)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_(0, 3)
        distortion, doubt = torch.rand(1, 3, 4, 5) * 30, torch.rand(1, 1, 4, 5)
        with torch.no_grad():
            before = net(distortion, doubt)
            for more in (torch.rand(1, 3, 4, 5) * 9, torch.zeros(1, 3, 4, 5)):
                more[0, 1, 2, 3] = 5.0
                assert (net(distortion + more, doubt) >= before - 1e-4).all()
            assert (net(distortion + 5, doubt) > before).any()
            assert (net(distortion, doubt + 0.2) >= before - 1e-4).all()


def test_fresh_gates_are_undecided_where_untrained_ones_are() -> None:
    from seg_node.core.gate import DOUBT_FLOOR, TOLERANCE  # noqa: PLC0415 - for this test alone
    from seg_node.nets.decision import DOUBT_USUAL, GateNet  # noqa: PLC0415 - for this test alone

    net = GateNet(2)
    distortion = torch.full((1, 2, 3, 3), TOLERANCE / (DOUBT_USUAL + DOUBT_FLOOR))
    with torch.no_grad():
        logits = net(distortion, torch.full((1, 1, 3, 3), DOUBT_USUAL))
    assert float(logits.abs().max()) < 0.25
