"""Gates learn what is worth computing; the network stays as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.blocks import to_pixels
from seg_node.core.config import Config
from seg_node.core.gate import Gated
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import NOTHING, UNTRAINED
from seg_node.core.residual import find_gated_modules
from seg_node.core.shown import Shown
from seg_node.core.tracking import OnHost
from seg_node.core.types import ConfigError, Frame, Plan
from seg_node.data.clips import StreetClip
from seg_node.nets.build import build_gate
from seg_node.train.gate import draw_gates, GateTrainer, stage_costs
from seg_node.train.gate_pairs import GatedPairs
from seg_node.train.gate_settings import GateTraining
from seg_node.train.gate_validation import GateScores
from seg_node.train.pair_batches import PairMaker, PairPools
from seg_node.train.trainer import Run
from test.train.test_low import changed, high
from test.train.test_pairs import textured

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from seg_node.core.policy import Past

TINY = GateTraining(
    steps=4,
    batch=2,
    crop_width=64,
    crop_height=64,
    block_side=32,
    warmup=2,
    checkpoint_every=2,
    validate_every=2,
    street_share=0.0,
)


def trainer(folder: Path, config: GateTraining = TINY, **wishes: Any) -> GateTrainer:
    net = high()
    torch.manual_seed(0)
    pools = PairPools([textured(seed) for seed in range(3)])
    maker = PairMaker(pools, config)
    return GateTrainer(net, build_gate(net), maker, torch.ones(11), Run(folder), **wishes)


class Set(Gated):
    """Keeps one set of gates in all frames after the first."""

    kept = np.zeros(0, np.bool_)

    def plan(self, image: Tensor, config: Config, past: Past = NOTHING) -> Plan:
        """Return the gates."""
        first = super().plan(image, config, past)
        return first if past.lost is not None else replace(first, gates=self.kept)


def test_training_computes_what_the_pipeline_computes() -> None:
    """Gates, memory and skips; a still camera, so that both read the same pixels.

    The node mixes that with what it showed before, the first frame.
    """
    torch.manual_seed(0)
    net = high()
    blocks = find_gated_modules(net)
    key, other = (textured(seed).image[:64, :96] for seed in (0, 1))
    image = key - key // 8 + other // 8
    policy = Set(blocks)
    policy.kept = np.random.default_rng(0).random((7, 2, 3)) < 0.5
    config = Config(mode="stmg", device="cpu", block_size=32).updated({"motion.source": "none"})
    pipeline = Segmenter(net, {**UNTRAINED, "stmg": policy}, config)
    pipeline.step(Frame(key, 0))
    history = pipeline._history(Frame(key, 0), policy)
    assert history is not None
    past = history.look(Frame(image, 1), config)
    assert past.gates is not None
    images, keys = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] for x in (image, key))
    with torch.inference_mode():
        expected = history.logits(  # type: ignore[call-arg]  # it is a GatedHistory
            Frame(image, 1), images, policy.plan(images, config, past), net
        )
        flow, valid = torch.zeros(1, 64, 96, 2), torch.ones(1, 64, 96, dtype=torch.bool)
        pairs = GatedPairs(net, blocks, keys, flow, valid)
        seen = pairs.seen(images, 32)
        found = pairs.logits(images, torch.from_numpy(policy.kept)[None].float())
        assert (found - expected).abs().max() > 1e-2
        shown, method = Shown(), OnHost()
        shown.keep(pairs.key_logits, method.colours(Frame(key, 0), (16, 24)))
        colours = method.colours(Frame(image, 1), (16, 24))
        shown.follow(flow[0, :16, :24], valid[0, :16, :24], colours)
        kept = np.asarray(policy.kept.any(0))
        computed = torch.from_numpy(to_pixels(kept, 8, (16, 24)))
        found = shown.mixed(found, computed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(seen.distortion[0], past.gates.distortion, atol=1.0)
    np.testing.assert_allclose(seen.doubt[0, 0], past.gates.doubt, atol=1e-4)


def test_costs_are_shares_of_the_macs() -> None:
    """Those of a ResNet cost about the same; the first block of one, which halves, less.

    The decoder has as many channels at every stride as the encoder has at a stride of 8.
    """
    net = high()
    costs = stage_costs(net, find_gated_modules(net))
    assert float(costs.sum()) == pytest.approx(1)
    c = 9 * 2
    halving = 4.5 + 9 + 0.5
    encoder, decoder = [c + c, *[halving + c] * 3], [9 / 4, 9, 9 * 4]
    expected = torch.tensor([*encoder, *decoder])
    torch.testing.assert_close(costs, expected / expected.sum())


def test_drawn_gates_are_hard_with_a_gradient_and_keep_what_scores_more() -> None:
    logits = torch.linspace(-30, 30, 2 * 3 * 4 * 4).view(2, 3, 4, 4).requires_grad_()
    drawn = draw_gates(logits, TINY, 3)
    values = drawn.gates.detach()
    assert set(values.flatten().tolist()) <= {0.0, 1.0}
    assert (values.flatten()[:20] == 0).all()
    assert (values.flatten()[-20:] == 1).all()
    assert ((drawn.dropped >= 0.1) & (drawn.dropped <= 0.9)).all()
    drawn.gates.sum().backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert logits.grad is not None
    assert (logits.grad >= 0).all()
    assert float(logits.grad.max()) > 0
    assert torch.equal(draw_gates(logits, TINY, 3).gates, drawn.gates)
    assert not torch.equal(draw_gates(logits, TINY, 4).dropped, drawn.dropped)


def test_gates_come_nearer_to_their_share_and_the_network_stays(tmp_path: Path) -> None:
    config = replace(TINY, steps=14, learning_rate=0.1, rate_weight=50.0)
    run = trainer(tmp_path, config)
    before = build_gate(high())
    run._begin()
    batch = run.batches(0)
    found = [run._learn(step, batch)["missed_share"] for step in range(config.steps)]
    assert np.mean(found[-4:]) < 0.8 * np.mean(found[:4])
    assert changed(high(), run.net) == set()
    assert changed(before, run.gate) == {"own", "doubt", "bias", "around", "mix", "limits"}


def test_a_resumed_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole").run()
    stopped = trainer(tmp_path / "parts")

    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(stop)
    resumed = trainer(tmp_path / "parts")
    assert resumed.step == 2
    assert changed(whole, resumed.run()) == set()
    with pytest.raises(ConfigError, match="temperature"):
        trainer(tmp_path / "parts", replace(TINY, temperature=0.7))


@pytest.mark.parametrize(("bias", "how"), [(100.0, "open"), (-100.0, "shut")])
def test_a_collapse_is_named(tmp_path: Path, bias: float, how: str) -> None:
    """Counted through a stop in between."""
    config = replace(TINY, collapse_steps=4)
    run = trainer(tmp_path, config)
    with torch.no_grad():
        run.gate.bias.fill_(bias)

    def stop(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(stop)
    with pytest.raises(ConfigError, match=f"gates collapsed: all of them were {how} for 4 steps"):
        trainer(tmp_path, config).run()


def test_scores_tell_accuracy_and_share_by_threshold() -> None:
    net = high()
    with torch.inference_mode():
        scores = GateScores(net, StreetClip(3, count=5), 11, 32)(build_gate(net))
    shut = [scores[f"val_shut_{t}"] for t in (0.3, 0.5, 0.7)]
    assert 0 <= shut[0] <= shut[1] <= shut[2] <= 1
    assert shut[0] < shut[2]
    assert all(0 <= scores[f"val_miou_{t}"] <= 1 for t in (0.3, 0.5, 0.7))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"block_side": 48}, "block_side is 48"),
        ({"crop_width": 128, "block_side": 96}, "block_side is 96"),
        ({"dropped_min": 0.8, "dropped_max": 0.5}, "dropped_min is 0.8"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(TINY, **change)


def test_no_setting_of_a_half_resolution_branch_is_offered() -> None:
    names = {name for name, _, _ in TINY.described()}
    assert "block_side" in names
    assert "distance_max" in names
    assert names & {"fusion", "weights", "similarity", "fusion_after", "task"} == set()
