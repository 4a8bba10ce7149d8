"""Recorded functions: everything of a CUDA graph but the capture, which needs a GPU."""

from __future__ import annotations

from typing import Any, NoReturn, TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn, Tensor

from seg_node.core import graphs
from seg_node.core.config import Config
from seg_node.core.costs import MacCounter
from seg_node.core.graphs import CaptureError, choose_graphs, CudaCaptures, Graphs
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import Interval, UNTRAINED
from seg_node.core.types import Action, ConfigError, DeviceMemoryError
from seg_node.data.street import Street
from seg_node.nets.low import build_branch
from seg_node.nets.swiftnet import SwiftNet

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")
CLASSES = 5


class Watched:
    """A convolution that notes where its inputs lie."""

    def __init__(self) -> None:
        """Draw the weights."""
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 5, 3, padding=1)
        self.places: list[int] = []

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return features, and their sum over the channels."""
        self.places.append(x.data_ptr())
        features: Tensor = self.layer(x)
        return features, features.sum(1)


def image(seed: int, *size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, 3, *(size or (8, 6))), generator=generator)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_results_are_those_of_the_function() -> None:
    function, recorded = Watched(), Graphs()
    for seed in range(3):
        found = recorded.run("features", function, image(seed))
        for a, b in zip(found, function(image(seed)), strict=True):
            assert torch.equal(a, b)


def test_inputs_lie_in_the_same_place_in_every_run() -> None:
    function, recorded = Watched(), Graphs()
    kept = [image(seed) for seed in range(4)]
    for x in kept:
        recorded.run("features", function, x)
    assert len(set(function.places)) == 1
    assert function.places[0] not in {x.data_ptr() for x in kept}
    assert recorded.count == 1


def test_two_frames_in_flight_share_nothing() -> None:
    function, recorded = Watched(), Graphs()
    first = recorded.run("features", function, image(0))
    before = [x.clone() for x in first]
    recorded.run("features", function, image(1))
    assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))


def test_each_shape_layout_and_name_has_its_own() -> None:
    function, recorded = Watched(), Graphs()
    last = torch.channels_last
    for x in (image(0), image(0, 4, 4), image(0).contiguous(memory_format=last), image(1, 4, 4)):
        found = recorded.run("features", function, x)
        assert torch.allclose(found[0], function(x)[0], atol=1e-6)
    assert recorded.count == 3
    recorded.run("others", function, image(0))
    assert recorded.count == 4


def test_the_least_recently_used_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    function, recorded = Watched(), Graphs()
    a, b = (recorded.recorded("x", function, (image(0, side, side),)) for side in (4, 5))
    assert recorded.recorded("x", function, (image(1, 4, 4),)) is a
    recorded.recorded("x", function, (image(0, 6, 6),))
    assert recorded.count == 2
    assert recorded.recorded("x", function, (image(0, 4, 4),)) is a
    assert recorded.recorded("x", function, (image(0, 5, 5),)) is not b


def test_every_run_counts_as_one_run_of_the_function() -> None:
    function, recorded = Watched(), Graphs()
    counts = []
    for run in (function, lambda x: recorded.run("features", function, x)):
        for seed in range(2):
            with MacCounter() as counter:
                run(image(seed))
            counts.append(counter.macs)
    assert counts == [8 * 6 * 5 * 27] * 4


def test_what_is_cleared_is_recorded_anew() -> None:
    function, recorded = Watched(), Graphs()
    recorded.run("features", function, image(0))
    recorded.clear()
    assert recorded.count == 0
    assert torch.equal(recorded.run("features", function, image(1))[0], function(image(1))[0])


def test_graphs_on_a_cpu_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="graphs is 'on', which needs a CUDA device, not cpu"):
        choose_graphs("on", CPU)
    assert choose_graphs("auto", CPU) is None


def test_engines_of_tensorrt_are_not_recorded() -> None:
    gpu = torch.device("cuda", 0)
    with pytest.raises(ConfigError, match="needs torch to compute, not device tensorrt"):
        choose_graphs("on", gpu, engines=True)
    assert choose_graphs("auto", gpu, engines=True) is None


@pytest.mark.parametrize(("choice", "there"), [("auto", True), ("on", True), ("off", False)])
def test_the_choice_on_a_gpu(choice: str, *, there: bool) -> None:
    assert (choose_graphs(choice, torch.device("cuda", 0)) is not None) is there


class Refusing:
    """Captures nothing."""

    def capture(self, work: Any) -> NoReturn:
        """Refuse, after the work has run."""
        work()
        msg = "operation not permitted when stream is capturing"
        raise CaptureError(msg)

    def clear(self) -> None:
        """There is nothing to free."""


def test_what_cannot_be_captured_is_run_again_and_said(caplog: pytest.LogCaptureFixture) -> None:
    function, recorded = Watched(), Graphs(Refusing())
    for seed in range(3):
        (found, _) = recorded.run("features", function, image(seed))
        assert torch.equal(found, function(image(seed))[0])
    (message,) = [r.getMessage() for r in caplog.records]
    assert message.startswith("features for (1, 3, 8, 6) cannot be captured as a graph: operation")
    assert message.endswith("it is launched kernel by kernel")


def test_where_graphs_are_required_it_is_refused() -> None:
    recorded = Graphs(Refusing(), required=True)
    with pytest.raises(ConfigError, match=r"graphs is 'on', but features .* choose auto or off"):
        recorded.run("features", Watched(), image(0))
    assert recorded.count == 0


def segmenter(mode: str, fusion: str = "gated") -> Segmenter:
    torch.manual_seed(0)
    net = SwiftNet(CLASSES, 0.125).eval()
    policies = {**UNTRAINED, "arseg": Interval(Action.LOW)}
    config = Config().updated({"mode": mode, "device": "cpu", "keyframe_interval": 3})
    return Segmenter(net, policies, config, build_branch(net, fusion))


@pytest.mark.parametrize(
    ("mode", "fusion"),
    [("dense", "gated"), ("warp", "gated"), ("arseg", "gated"), ("arseg", "blend")],
)
def test_frames_of_recorded_networks_are_those_of_the_networks(mode: str, fusion: str) -> None:
    plain, recorded = segmenter(mode, fusion), segmenter(mode, fusion)
    recorded._executor.graphs = Graphs()
    for index, sample in enumerate(Street(3, 96, 64).frames(5)):
        a, b = plain.step(sample.frame), recorded.step(sample.frame)
        assert np.array_equal(a.labels, b.labels), index
        assert np.array_equal(a.confidence, b.confidence)
        assert a.report.macs == b.report.macs > 0 or mode == "warp"
    assert recorded._executor.graphs.count == (2 if mode == "arseg" else 1)


def test_graphs_go_where_memory_is_short() -> None:
    steps = segmenter("dense")
    steps._executor.graphs = Graphs()
    (sample,) = Street(3, 96, 64).frames(1)
    steps.step(sample.frame)

    def full(*_: Any) -> NoReturn:
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(DeviceMemoryError):
        steps._memory.step("", steps.config, full)
    assert steps._executor.graphs.count == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_captured_function_gives_what_it_gives() -> None:
    device, function = torch.device("cuda"), Watched()
    function.layer.to(device)
    recorded = Graphs(CudaCaptures(device))
    for size in ((8, 6), (16, 12), (8, 6)):
        for seed in range(3):
            x = image(seed, *size).to(device)
            found = recorded.run("features", function, x)
            for a, b in zip(found, function(x), strict=True):
                torch.testing.assert_close(a, b)
    assert recorded.count == 2
