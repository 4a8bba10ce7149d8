"""Networks start from other networks without changing what these compute."""

from __future__ import annotations

from dataclasses import replace
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from seg_node.core.types import CAMVID_CLASSES, ClassInfo, ConfigError, ModelError
from seg_node.nets.build import load_model
from seg_node.nets.manifest import find_manifest, Slimming
from seg_node.nets.swiftnet import SwiftNet
from seg_node.train import start
from seg_node.train.command import start_network
from seg_node.train.request import SegmentRequest
from seg_node.train.widen import widen

if TYPE_CHECKING:
    from pathlib import Path

TWO = (ClassInfo("soil", (1, 2, 3)), ClassInfo("crop", (4, 5, 6)))
IMAGE = torch.randint(0, 256, (2, 3, 70, 90), generator=torch.Generator().manual_seed(0))

PLAIN = """
from torch import nn

class Plain(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classes, self.stride, self.feature_channels = classes, 4, 6
        self.body, self.head = nn.Conv2d(3, 6, 3, 4, 1), nn.Conv2d(6, classes, 1)
    def features(self, image):
        return self.body(image.to(self.head.weight.dtype))
    def forward(self, image):
        return self.head(self.features(image))

plain = Plain
"""


def test_a_widened_network_computes_the_same() -> None:
    torch.manual_seed(3)
    narrow, wide = SwiftNet(5, 0.25), SwiftNet(5, 0.5)
    with torch.no_grad():
        narrow(IMAGE)  # in training mode: moves the statistics away from their defaults
        widen(narrow, wide, 0)
        for train in (True, False):
            expected, got = narrow.train(train)(IMAGE), wide.train(train)(IMAGE)
            assert torch.allclose(expected, got, atol=1e-4)
    twins = wide.get_parameter("encoder.stages.1.1.conv2.0.weight")
    assert not torch.allclose(twins[:, :32], twins[:, 32:])


def test_other_layers_cannot_be_widened() -> None:
    with pytest.raises(ModelError, match="cannot widen: 5 and 6 classes"):
        widen(SwiftNet(5, 0.25), SwiftNet(6, 0.5), 0)


def test_a_model_passes_on_its_weights(trained: str) -> None:
    model = load_model(trained, fold=False).net
    net = start.from_model("swiftnet18-half", CAMVID_CLASSES, 1, trained).eval()
    with torch.no_grad():
        assert torch.equal(net(IMAGE), model(IMAGE))


def test_other_classes_get_a_fresh_head_and_the_old_body(trained: str) -> None:
    model = load_model(trained, fold=False).net
    net = start.from_model("swiftnet18-half", TWO, 1, trained).eval()
    with torch.no_grad():
        assert net(IMAGE).shape[1] == 2
        assert torch.equal(net.features(IMAGE), model.features(IMAGE))  # type: ignore[operator]  # nn.Module has no such face


def test_nothing_starts_from_a_slimmed_model(trained: str, tmp_path: Path) -> None:
    manifest, folder = find_manifest(trained)
    slimmed = replace(manifest, file=str(folder / manifest.file), slim=Slimming({}))
    path = str(slimmed.write(tmp_path))
    for begin in (start.from_model, start.from_narrow, start.from_encoder):
        with pytest.raises(ModelError, match="swiftnet18-half is slimmed, and no training goes"):
            begin("swiftnet18-half", CAMVID_CLASSES, 1, path)


def test_another_network_does_not_fit(trained: str) -> None:
    with pytest.raises(ModelError, match="does not fit swiftnet18"):
        start.from_model("swiftnet18", TWO, 1, trained)
    with pytest.raises(ModelError, match="knows other classes than the data"):
        start.from_narrow("swiftnet18", TWO, 1, trained)


def test_another_kind_of_network_starts_with_the_encoder_alone(trained: str) -> None:
    model = load_model(trained, fold=False).net
    net = start.from_encoder("bisenet18-half", CAMVID_CLASSES, 1, trained).eval()
    own = start.fresh("bisenet18-half", len(CAMVID_CLASSES), 1).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found = net.get_submodule("context.encoder")(image)
        for a, b in zip(found, model.get_submodule("encoder")(image), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(
            net.get_submodule("spatial")(image), own.get_submodule("spatial")(image)
        )


def test_an_encoder_that_does_not_fit_is_refused(trained: str) -> None:
    with pytest.raises(
        ModelError, match=r"encoder of swiftnet18-half has \(32, .* that of bisenet18 has \(64,"
    ):
        start.from_encoder("bisenet18", CAMVID_CLASSES, 1, trained)


def test_a_network_without_such_an_encoder_is_refused(
    trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain_net.py").write_text(PLAIN)
    monkeypatch.delitem(sys.modules, "plain_net", raising=False)  # and again at the end
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ModelError, match="plain_net:plain has no ResNet-18 as encoder: leave --enc"
    ):
        start.from_encoder("plain_net:plain", CAMVID_CLASSES, 1, trained)


def test_two_starts_at_once_are_refused(trained: str, tmp_path: Path) -> None:
    request = SegmentRequest(("street:1",), tmp_path, init=trained, encoder=trained)
    with pytest.raises(ConfigError, match="from one of --init, --widen and --encoder"):
        start_network(request, CAMVID_CLASSES)
