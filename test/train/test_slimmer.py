"""Slimming training: smaller step by step, resumed bit for bit, and every MAC accounted for."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
import json
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from seg_node.core.costs import dense_macs
from seg_node.core.types import ConfigError
from seg_node.nets.slim import resize
from seg_node.train.batches import BatchMaker, Pools
from seg_node.train.segmenter import SegmentTrainer
from seg_node.train.settings import SegmentTraining
from seg_node.train.slim_schedule import plan
from seg_node.train.slimmer import SlimTrainer
from seg_node.train.trainer import Run
from test.train.slim_samples import frames, maker, network, TINY

if TYPE_CHECKING:
    from pathlib import Path

    from seg_node.train.batches import Batch
    from seg_node.train.slim_settings import SlimTraining

SIZE = (96, 80)


def trainer(
    folder: Path, config: SlimTraining = TINY, net: nn.Module | None = None
) -> SlimTrainer:
    schedule = plan(config)
    batches = maker(config, schedule)
    whole = net or network()
    return SlimTrainer(whole, batches, torch.ones(2), Run(folder), schedule, SIZE)


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    ours = a.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.slow
def test_a_run_that_is_stopped_and_killed_ends_bit_for_bit_like_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg_node.train.trainer.LOG_EVERY", 2)
    whole = trainer(tmp_path / "whole")
    expected = whole.run()

    def stop(done: int) -> None:
        if done == 1:  # the next step makes the network smaller
            raise KeyboardInterrupt

    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        trainer(broken).run(stop)
    killed = trainer(broken)
    assert killed.step == 1
    update = killed._update

    def kill(step: int, batch: Batch) -> float:
        if step == 3:  # smaller again, and without a checkpoint since
            raise KeyboardInterrupt
        return update(step, batch)

    monkeypatch.setattr(killed, "_update", kill)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    last = trainer(broken)
    assert last.step == 2
    assert same(expected, last.run())
    assert last.training_macs == whole.training_macs
    assert last.slimming == whole.slimming
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "whole", broken)
    ]
    for one, other in zip(*logs, strict=True):
        assert one.keys() == other.keys() >= {"loss", "rate", "scale", "samples", "seconds"}
        for name in ("loss", "training_macs", "inference_macs"):
            assert one[name] == other[name]
    assert logs[0][-1]["training_macs"] == whole.training_macs


@pytest.mark.slow
def test_macs_are_those_of_the_operations_that_run(tmp_path: Path) -> None:
    config = replace(TINY, sparsity=0.0)
    run = trainer(tmp_path, config)
    seen: list[int] = []
    for step in range(config.steps):
        batch = run.batches(step)
        run._begin()
        before = run.training_macs
        figures = run._learn(step, batch)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run._learner.net(batch.images)
        assert run.training_macs - before == 3 * counter.get_total_flops() // 2
        assert figures["samples"] == len(batch.images)
        assert figures["scale"] == batch.images.shape[-1] / 64
        seen.append(int(figures["inference_macs"]))
    assert seen[0] == run.whole_macs == dense_macs(network(), 80, 96)
    assert run.whole_macs > seen[1] == seen[2] > seen[3]
    assert seen[1] <= 0.8 * run.whole_macs
    assert seen[3] <= 0.6 * run.whole_macs
    assert seen[3] == dense_macs(run.averaged(), 80, 96) == run.inference_macs
    assert run.training_macs < 0.9 * run.normal_macs
    assert run.normal_macs == 3 * 4 * 4 * dense_macs(network(), 64, 64)


@pytest.mark.slow
def test_a_cut_changes_only_what_it_takes_out(tmp_path: Path) -> None:
    """Without sparsity and rate, the slimmed network has the weights that it started with."""
    config = replace(TINY, learning_rate=1e-8, weight_decay=0.0, sparsity=0.0, steps=2, cuts=1)
    run = trainer(tmp_path, config)
    averaged = run.run()
    start = network().state_dict()
    stem = averaged.get_parameter("encoder.stem.0.weight")
    theirs = start["encoder.stem.0.weight"]
    rows = [int((theirs - row).abs().amax((1, 2, 3)).argmin()) for row in stem]
    assert rows == sorted(set(rows))
    torch.testing.assert_close(stem, theirs[rows], rtol=0.0, atol=1e-5)
    moments = run._learner.state()["optimizer"]["state"]
    assert len(moments) == len(list(averaged.parameters()))
    assert {int(known["step"]) for known in moments.values()} == {config.steps}
    rebuilt = resize(network(), run.slimming)
    rebuilt.load_state_dict(averaged.state_dict())
    image = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt.eval()(image), averaged(image))


def test_without_slimming_it_is_normal_training(tmp_path: Path) -> None:
    config = replace(TINY, slim="neither", steps=2)
    run = trainer(tmp_path / "slim", config)
    names = {field.name for field in fields(SegmentTraining)}
    shared = {name: value for name, value in asdict(config).items() if name in names}
    batches = BatchMaker(Pools(frames()), SegmentTraining(**shared))
    normal = SegmentTrainer(network(), batches, torch.ones(2), Run(tmp_path / "normal"))
    assert same(run.run(), normal.run())
    assert run.training_macs == run.normal_macs
    assert run.inference_macs == run.whole_macs


def test_a_network_that_cannot_become_so_small_is_refused_at_the_start(tmp_path: Path) -> None:
    config = replace(TINY, inference_macs=0.1, least_share=0.8, training_macs=0.9)
    with pytest.raises(ConfigError, match=r"inference_macs 0.1 asks for .* remove a whole layer"):
        trainer(tmp_path, config)


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    config = replace(TINY, steps=2, slim="neither")
    trainer(tmp_path, config).run()
    with pytest.raises(ConfigError, match=r"\(reweight was 0.5, is 0.0\); use another folder"):
        trainer(tmp_path, replace(config, reweight=0.0))
