"""The parts of a model that are exported, as modules of tensors alone, and what to try them on.

| part | maps | to |
|---|---|---|
| `dense` | image [N, 3, H, W] | logits [N, classes, h, w] |
| `high` | image [N, 3, H, W] | features [N, C, h, w], which `head` reads and memory keeps |
| `head` | features [N, C, h, w] | logits [N, classes, h, w] |
| `low` | image [N, 3, H, W], halved inside | features [N, C, h/2, w/2] |
| `fusion` | low [N, C, h/2, w/2], memory [N, C, h, w], valid bool [N, 1, h, w] | features |
| `memory` | image [N, 3, H, W] | memory [N, K, h, w]: what `blend` is to find again, moved |
| `blend` | image [N, 3, H, W], low [N, C, h/2, w/2], memory [N, K, h, w], valid bool | logits |
| `half` | image [N, 3, H/2, W/2], as `core.tiles.halved` makes it | what `low` gives |
| `policy` | image [N, 3, H, W] | block_logits [N, gh, gw]: the higher, the more for HIGH |

So `dense` is `head` of `high`, and a LOW frame of mode arseg is `head` of `fusion` of `low`; or,
of a branch that blends results, `blend` of `low` and `memory`. Halves are rounded up.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from seg_node.core.blocks import grid_shape
from seg_node.core.fusion import enlarge
from seg_node.core.scores import whole_blocks
from seg_node.core.tiles import halved
from seg_node.core.types import ModelError
from seg_node.export.attention import gathered_attention
from seg_node.nets.low import LowBranch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from seg_node.core.fusion import Fusion
    from seg_node.nets.build import Model
    from seg_node.nets.low import AnyBranch, ResultBranch

    Inputs = dict[str, Tensor]

PARTS = ("dense", "high", "head", "low", "half", "fusion", "memory", "blend", "policy")
"""All parts, in the order in which they are written."""

ON_REQUEST = ("half",)
"""Parts that are written only if they are named: `low` is the same, from the whole image."""

LACKS = {
    "low": "no half-resolution branch; `seg_node train segment --student low` makes one",
    "half": "no half-resolution branch; `seg_node train segment --student low` makes one",
    "fusion": "no half-resolution branch that fuses features; `seg_node train segment --student "
    "low --fusion gated` makes one",
    "memory": "no half-resolution branch that blends results; `seg_node train segment --student "
    "low --fusion blend` makes one",
    "blend": "no half-resolution branch that blends results; `seg_node train segment --student "
    "low --fusion blend` makes one",
    "policy": "no policy network; `seg_node train policy` makes one",
}
"""What a model lacks that does not have a part, and what to do about it."""


@dataclass(frozen=True)
class Part:
    """One exported network.

    Attributes:
        name: one of `PARTS`.
        module: maps the inputs, in their order, to the output; in float32 and eval mode.
        reference: what the robot runs for it.
        inputs: makes inputs by name from images, float32 or uint8 [N, 3, H, W]; planes of
            features in them are float32.
        output: name of the output.
        strides: for each input, image pixels per pixel of it; 0 if its size is fixed.

    """

    name: str
    module: nn.Module
    reference: nn.Module
    inputs: Callable[[Tensor], Inputs]
    output: str
    strides: dict[str, int]


class High(nn.Module):
    """Features of a network."""

    def __init__(self, net: nn.Module) -> None:
        """Take the network."""
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to features [N, C, h, w]."""
        features: Tensor = self.net.features(image)  # type: ignore[operator]  # features() is a method
        return features


class Head(nn.Module):
    """Last layer of a network."""

    def __init__(self, net: nn.Module) -> None:
        """Take the network."""
        super().__init__()
        self.net = net

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, C, h, w] to logits [N, classes, h, w]."""
        logits: Tensor = self.net.head(features)  # type: ignore[operator]  # head is a module or method
        return logits


class Low(nn.Module):
    """Features of an image at half resolution."""

    def __init__(self, net: nn.Module) -> None:
        """Take the network of a half-resolution branch."""
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to features [N, C, h/2, w/2]."""
        features: Tensor = self.net.features(halved(image))  # type: ignore[operator]  # features() is a method
        return features


class Fused(nn.Module):
    """Fusion of LOW features with remembered ones."""

    def __init__(self, fusion: Fusion) -> None:
        """Take the fusion."""
        super().__init__()
        self.fusion = fusion

    def forward(self, low: Tensor, memory: Tensor, valid: Tensor) -> Tensor:
        """Map [N, C, h/2, w/2], [N, C, h, w] and bool [N, 1, h, w] to features [N, C, h, w]."""
        wide = enlarge(low, (memory.shape[-2], memory.shape[-1]))
        features: Tensor = self.fusion(wide, memory, valid)
        return features


class Kept(nn.Module):
    """What a branch that blends results remembers of a frame in full resolution."""

    def __init__(self, net: nn.Module, branch: ResultBranch) -> None:
        """Take the network of full resolution and the branch."""
        super().__init__()
        self.net, self.branch = net, branch

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to [N, K, h, w]."""
        features = self.net.features(image)  # type: ignore[operator]  # features() is a method
        logits = self.net.head(features)  # type: ignore[operator]  # head is a module or method
        return self.branch.remembered(image, features, logits)


class Blended(nn.Module):
    """Blend of LOW results with remembered ones."""

    def __init__(self, branch: ResultBranch) -> None:
        """Take the branch."""
        super().__init__()
        self.branch = branch

    def forward(self, image: Tensor, low: Tensor, memory: Tensor, valid: Tensor) -> Tensor:
        """Map an image [N, 3, H, W] and what `Low` makes of it to logits [N, classes, h, w]."""
        logits = self.branch.net.head(low)  # type: ignore[operator]  # head is a module or method
        return self.branch.blended(logits, halved(image), memory, valid)


class BlockScores(nn.Module):
    """Policy network on images of one size."""

    def __init__(self, net: nn.Module, side: int, grid: tuple[int, int]) -> None:
        """Take the network, the side of a block in pixels and the blocks (gh, gw)."""
        super().__init__()
        self.net = net
        self.side = side
        self.grid = grid

    def forward(self, image: Tensor) -> Tensor:
        """Map RGB 0..255 [N, 3, H, W] to logits [N, gh, gw]."""
        # TensorRT does nothing with uint8 but convert it.
        logits: Tensor = self.net(whole_blocks(image.float(), self.side), self.grid)
        return logits


def make_parts(model: Model, names: tuple[str, ...], size: tuple[int, int]) -> list[Part]:
    """Return parts of a model.

    Args:
        model: a loaded model in float32.
        names: which of `PARTS`; none for all that the model has but `ON_REQUEST`.
        size: (H, W) of the images.

    Raises:
        ModelError: there is no such part, or the model lacks it.

    """
    makers = _makers(model, size)
    for name in names:
        if name not in PARTS:
            msg = f"part is {name!r}; choose from {', '.join(PARTS)}"
            raise ModelError(msg)
        if name not in makers:
            msg = f"model {model.manifest.name!r} has no part {name!r}: {LACKS[name]}"
            raise ModelError(msg)
    wanted = names or [name for name in makers if name not in ON_REQUEST]
    return [makers[name]() for name in PARTS if name in wanted]


def _makers(model: Model, size: tuple[int, int]) -> dict[str, Callable[[], Part]]:
    """Return what makes each part that a model has."""
    net, stride = model.net, int(model.net.stride)  # type: ignore[arg-type]  # the face of a network says int
    # Alone where it is a module of its own, so that its files hold no other weights.
    high, head = High(net), net.head if isinstance(net.head, nn.Module) else Head(net)
    makers: dict[str, Callable[[], Part]] = {
        "dense": lambda: _plain("dense", net, "logits"),
        "high": lambda: _plain("high", high, "features"),
        "head": lambda: Part(
            "head", head, head, lambda x: {"features": high(x)}, "logits", {"features": stride}
        ),
    }
    if model.low is not None:
        low, half = Low(model.low.net), High(model.low.net)
        makers["low"] = lambda: _plain("low", low, "features")
        makers["half"] = lambda: Part(
            "half", half, half, lambda x: {"image": halved(x)}, "features", {"image": 2}
        )
        makers |= _meeting(model.low, net, low)
    if model.policy is not None and model.manifest.policy is not None:
        side = model.manifest.policy.block_size
        scores = BlockScores(model.policy, side, grid_shape(*size, side))
        makers["policy"] = lambda: _plain("policy", scores, "block_logits", stride=0)
    return makers


def _meeting(branch: AnyBranch, net: nn.Module, low: Low) -> dict[str, Callable[[], Part]]:
    """Return what makes the parts in which LOW frames and memory meet."""
    stride = int(net.stride)  # type: ignore[arg-type]  # the face of a network says int
    strides = {"low": 2 * stride, "memory": stride, "valid": stride}
    if isinstance(branch, LowBranch):
        fusion, high = branch.fusion, High(net)
        plain = Fused(_exportable(fusion))
        return {
            "fusion": lambda: Part(
                "fusion",
                plain,
                Fused(fusion),
                lambda x: _to_fuse(low, high, x),
                "features",
                strides,
            )
        }
    kept, blended = Kept(net, branch), Blended(branch)
    return {
        "memory": lambda: _plain("memory", kept, "memory"),
        "blend": lambda: Part(
            "blend",
            blended,
            blended,
            lambda x: {"image": x, **_to_fuse(low, kept, x)},
            "logits",
            {"image": 1, **strides},
        ),
    }


def _plain(name: str, module: nn.Module, output: str, stride: int = 1) -> Part:
    """Return a part that sees the image alone, and is exported as it is."""
    return Part(name, module, module, lambda x: {"image": x}, output, {"image": stride})


def _exportable(fusion: Fusion) -> Fusion:
    """Return a copy of a fusion whose attention is made of plain operations."""
    plain = copy.deepcopy(fusion)
    plain.attend = gathered_attention
    return plain


def _to_fuse(low: nn.Module, kept: nn.Module, images: Tensor) -> Inputs:
    """Return LOW features, what is kept of the mirrored images as memory, and holes in it."""
    memory = kept(images.flip(-1))
    rows = torch.arange(memory.shape[-2])[:, None]
    columns = torch.arange(memory.shape[-1])
    # Bands wider than a window, so that some pixels see nothing valid.
    valid = ((rows // 3 + columns // 9) % 3 != 0).expand(len(images), 1, -1, -1).contiguous()
    return {"low": low(images), "memory": memory, "valid": valid}
