"""Training learns, resumes bit for bit, and stops early, clearly and resumably."""

from __future__ import annotations

from dataclasses import replace
import json
import shutil
from typing import Any, TYPE_CHECKING

import pytest
import torch

from seg_node.core.types import ConfigError, DataError, Frame
from seg_node.data.sources import FrameRef, Sample
from seg_node.nets.build import fold_batchnorm
from seg_node.train import checkpoint as checkpoints
from seg_node.train.batches import Pools
from seg_node.train.optimizers import parameter_groups, warming_average
from seg_node.train.pictures import Pool
from seg_node.train.resolution import merge_norms, ResolutionNorm
from seg_node.train.segmenter import SegmentTrainer
from seg_node.train.trainer import Run
from test.train.samples import batches, halves, network, TINY

if TYPE_CHECKING:
    from pathlib import Path

    from seg_node.train.settings import SegmentTraining

WEIGHTS = torch.ones(11)


def trainer(folder: Path, config: SegmentTraining = TINY, seed: int = 0) -> SegmentTrainer:
    return SegmentTrainer(network(seed), batches(config), WEIGHTS, Run(folder))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in a.state_dict().items())


def test_only_convolution_weights_decay() -> None:
    decayed, plain = parameter_groups(network(), 0.1)
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert isinstance(decayed["params"], list)
    assert all(p.ndim == 4 for p in decayed["params"])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_run_ends_bit_for_bit_like_an_unbroken_one(
    tmp_path: Path, optimizer: str
) -> None:
    config = replace(TINY, optimizer=optimizer, low_share=0.4, low_norms=True)
    whole = trainer(tmp_path / "whole", config).run()

    def stop(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "broken", config).run(stop)
    second = trainer(tmp_path / "broken", config, seed=5)
    assert second.step == 4
    assert second.seconds > 0.0
    assert same(whole, second.run())


@pytest.mark.slow
def test_training_learns_dark_from_bright(tmp_path: Path) -> None:
    config = replace(TINY, steps=40, learning_rate=1e-2, average=0.8, warmup=4)
    net = trainer(tmp_path, config).run()
    with torch.no_grad():
        image = torch.from_numpy(halves()[0].image).permute(2, 0, 1)[None]
        labels = net(image).argmax(1)[0]
    assert float((labels[:, :10] == 0).float().mean()) > 0.9
    assert float((labels[:, 14:] == 1).float().mean()) > 0.9
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"loss": "ohem", "schedule": "poly"},
        {"deterministic": True},
        {"softness": 0.0, "jaccard": 0.0},
    ],
)
def test_every_choice_trains(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = replace(TINY, steps=20, average=0.8, learning_rate=5e-3, **changes)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        run = trainer(tmp_path, config)
        first = run._update(0, batches(config)(0))
        run.run()
    finally:
        torch.use_deterministic_algorithms(before)
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] < 0.8 * first


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    config = replace(TINY, steps=1)
    trainer(tmp_path, config).run()
    with pytest.raises(
        ConfigError, match=r"other settings \(steps was 1, is 2\); use another folder"
    ):
        trainer(tmp_path, replace(config, steps=2))


def test_lines_of_a_lost_future_are_forgotten(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (20, 40)]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"step": 6']))
    trainer(tmp_path, replace(TINY, steps=1)).run()
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    broken = trainer(tmp_path)
    with torch.no_grad():
        broken.net.get_parameter("head.weight").fill_(float("inf"))
    with pytest.raises(
        ConfigError, match=r"loss became nan at step 0; lower learning_rate \(0.002\)$"
    ):
        broken.run()
    assert not broken.checkpoint.exists()


def test_an_infinite_gradient_never_reaches_the_weights(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    weight = run.net.get_parameter("head.weight")
    weight.register_hook(lambda grad: grad * float("inf"))  # type: ignore[no-untyped-call]  # torch's stub
    before = weight.detach().clone()
    with pytest.raises(ConfigError, match=r"gradient's norm became (nan|inf) at step 0"):
        run.run()
    assert torch.equal(weight, before)


def test_the_average_forgets_the_start_of_a_short_run() -> None:
    update = warming_average(0.998)
    average = [torch.zeros(1)]
    for count in range(1, 100):
        update(average, [torch.ones(1)], torch.tensor(count))
    assert float(average[0]) > 0.99
    update(average, [torch.zeros(1)], torch.tensor(10**6))
    assert float(average[0]) == pytest.approx(0.998, abs=2e-3)


def test_dropout_resumes_on_the_same_curve(tmp_path: Path) -> None:
    def with_dropout(folder: Path) -> SegmentTrainer:
        net = network()
        net.head = torch.nn.Sequential(torch.nn.Dropout2d(0.5), net.head)  # type: ignore[assignment]  # a head all the same
        return SegmentTrainer(net, batches(), WEIGHTS, Run(folder))

    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    whole = with_dropout(tmp_path / "whole").run()
    with pytest.raises(KeyboardInterrupt):
        with_dropout(tmp_path / "broken").run(stop)
    assert same(whole, with_dropout(tmp_path / "broken").run())


def test_an_interrupt_within_a_step_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path)
    descend = run.learner.descend

    def interrupt(rate: float) -> None:
        descend(rate)
        if run.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(run.learner, "descend", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert trainer(tmp_path).step == 3


def test_a_validation_is_never_lost(tmp_path: Path) -> None:
    def killed(net: torch.nn.Module) -> dict[str, float]:
        del net
        raise KeyboardInterrupt

    run = SegmentTrainer(network(), batches(), WEIGHTS, Run(tmp_path), killed)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert trainer(tmp_path).step == 0


def test_how_often_to_save_may_change_on_resume(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    assert trainer(tmp_path, replace(TINY, checkpoint_every=1, workers=2)).step == 6


def test_a_lost_file_stops_with_its_name_and_a_checkpoint(tmp_path: Path) -> None:
    def lose() -> Sample:
        msg = "images/0002.png is missing"
        raise DataError(msg)

    def read() -> Sample:
        picture = halves()[0]
        return Sample("0", Frame(picture.image), picture.labels)

    loaders = (read, read, lose)
    frames = [FrameRef(str(i), i, labelled=True, loader=load) for i, load in enumerate(loaders)]
    run = trainer(tmp_path)
    run.batches.pools = Pools(Pool(frames))
    text = r"training stopped after step \d, with a checkpoint: images/0002.png is missing"
    with pytest.raises(DataError, match=text):
        run.run()
    assert trainer(tmp_path).step == run.step


def test_a_disk_without_room_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"has 1 MiB free, training needs \d+; free some space"):
        trainer(tmp_path)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(TINY, steps=1))
    run.run()
    before = run.checkpoint.read_bytes()
    # /dev/full takes every byte and then says that the disk is full.
    run.checkpoint.with_suffix(".partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"cannot write the checkpoint .*checkpoint.pt"):
        checkpoints.save_checkpoint(run.checkpoint, {"weights": torch.zeros(1 << 20)})
    assert run.checkpoint.read_bytes() == before


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match=r"checkpoint.pt is not a readable checkpoint"):
        trainer(tmp_path)


@pytest.mark.slow
def test_halved_images_get_batchnorms_of_their_own(tmp_path: Path) -> None:
    config = replace(TINY, low_share=0.5, low_norms=True, steps=8, average=0.5)
    net = trainer(tmp_path, config).run()
    norms = [m for m in net.modules() if isinstance(m, ResolutionNorm)]
    assert norms
    assert any(not torch.equal(n.high.running_mean, n.low.running_mean) for n in norms)  # type: ignore[arg-type]  # tracked
    plain = network()
    for low in (False, True):
        merged = merge_norms(net, low=low)
        assert merged.state_dict().keys() == plain.state_dict().keys()
        for module in net.modules():
            if isinstance(module, ResolutionNorm):
                module.is_low = low
        image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
        with torch.no_grad():
            expected = net(image)
            assert torch.equal(merged(image), expected)
            assert torch.allclose(fold_batchnorm(merged)(image), expected, atol=1e-4)
