"""Motion that stays where frames are computed: found, joined and used without the host."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from seg_node.core.flow import AROUND, MOST_LEFT, PIXEL_REACH, work_size
from seg_node.core.matching import estimate_flow
from seg_node.core.motion import Change, MIN_CONTRAST, PART
from seg_node.core.types import Motion
from seg_node.core.warp import nearest_places, rescale, warp

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from seg_node.core.matching import Matcher
    from seg_node.core.types import Frame

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey, those of OpenCV."""


@dataclass(frozen=True)
class DeviceMotion:
    """A `Motion` whose planes lie on a device.

    Attributes:
        flow: backward flow (x, y) in pixels of this plane, float32 [h, w, 2].
        valid: where it is known, bool [h, w].
        intra: where a codec coded the content anew, bool [h, w]; None where none is involved.
        since_ns: stamp of the earlier frame.

    """

    flow: Tensor
    valid: Tensor
    intra: Tensor | None = None
    since_ns: int = 0


AnyMotion = Motion | DeviceMotion
"""A motion, wherever it lies."""


class OnDevice:
    """Measures motion on the device of the frames; the method `matching` (`core.tracking`).

    Args:
        device: where frames are computed.
        matcher: what computes the inner loops of `core.matching`.

    """

    def __init__(self, device: torch.device, matcher: Matcher) -> None:
        """Nothing was uploaded yet."""
        self._device, self._matcher = device, matcher
        self._taken: tuple[Frame, Tensor] | None = None

    def take(self, frame: Frame, image: Tensor) -> None:
        """Use the image of a frame where it was uploaded to, instead of uploading it again.

        Args:
            frame: the frame.
            image: its image, uint8 [1, 3, H, W], on the device; read until the next is taken.

        """
        self._taken = frame, image

    def see(self, frame: Frame) -> Tensor:
        """Return a frame as motion is estimated on it: grey, float32 [h, w]."""
        return self.grey(frame, work_size((frame.image.shape[0], frame.image.shape[1])))

    def grey(self, frame: Frame, size: tuple[int, int]) -> Tensor:
        """Return a frame in grey at a size (h, w), float32 [h, w], 0..255."""
        planes = self._image(frame)[0]
        # One number each: a tensor of them would have to be uploaded, and waited for.
        red, green, blue = (share * plane for share, plane in zip(LUMA, planes, strict=True))
        plane = red + green + blue
        return functional.adaptive_avg_pool2d(plane[None], size)[0]

    def colours(self, frame: Frame, size: tuple[int, int]) -> Tensor:
        """Return a frame in colour at a size (h, w), float32 [3, h, w], 0..255."""
        return functional.adaptive_avg_pool2d(self._image(frame)[0].float(), size)

    def _image(self, frame: Frame) -> Tensor:
        if self._taken is not None and self._taken[0] is frame:
            return self._taken[1]
        return torch.from_numpy(frame.image.copy()).permute(2, 0, 1)[None].to(self._device)

    def still(self, picture: Tensor, since_ns: int) -> DeviceMotion:
        """Return no motion, known everywhere."""
        flow = picture.new_zeros((*picture.shape, 2))
        return DeviceMotion(flow, torch.ones_like(picture, dtype=torch.bool), None, since_ns)

    def fitted(self, motion: Motion, picture: Tensor) -> DeviceMotion:
        """Return the motion that a frame carries, of the size of a picture."""
        size = (picture.shape[0], picture.shape[1])
        flow = rescale(torch.from_numpy(motion.flow).to(self._device)[None], size)[0]
        masks = (
            None if mask is None else _nearest(torch.from_numpy(mask).to(self._device), size)
            for mask in (motion.valid, motion.intra)
        )
        valid, intra = masks
        assert valid is not None
        return DeviceMotion(flow, valid, intra, motion.since_ns)

    def estimate(
        self, before: Tensor, image: Tensor, since_ns: int, start: DeviceMotion | None
    ) -> DeviceMotion:
        """Estimate the motion between two pictures; see `FlowEstimator.estimate`."""
        known = None if start is None else start.flow
        flow = estimate_flow(before, image, self._matcher, known)
        return DeviceMotion(flow, _inside(flow, PIXEL_REACH), None, since_ns)

    def refine(self, before: Tensor, image: Tensor, motion: DeviceMotion) -> DeviceMotion:
        """Take a better motion where there is one; see `FlowEstimator.refine`."""
        found = estimate_flow(before, image, self._matcher, motion.flow)
        return replace(motion, flow=_better(before, image, motion.flow, found))

    def compose(self, later: DeviceMotion, earlier: DeviceMotion) -> DeviceMotion:
        """Join two motions of one size into one; see `core.motion.compose`."""
        flow = later.flow + _pulled(earlier.flow.permute(2, 0, 1), later.flow).permute(1, 2, 0)
        valid = later.valid & _pulled_mask(earlier.valid, later.flow)
        intra = later.intra
        if earlier.intra is not None:
            moved = _pulled_mask(earlier.intra, later.flow)
            intra = moved if intra is None else intra | moved
        return DeviceMotion(flow, valid, intra, earlier.since_ns)

    def change(self, before: Tensor, image: Tensor, motion: DeviceMotion) -> Change:
        """Return how much a picture differs from the one before.

        The host waits for both numbers at once.
        """
        moved = _pulled(before[None], motion.flow)[0]
        found = _unlike(image, moved), _explained(image, before, moved)
        return Change(*map(float, found))  # the second is ready when the first one is

    def settle(self, before: Tensor, image: Tensor, motion: DeviceMotion) -> DeviceMotion:
        """Let only what explains more than noise move; see `FlowEstimator.settle`."""
        none = torch.zeros_like(motion.flow)
        flow = _better(before, image, none, motion.flow, MOST_LEFT)
        return replace(motion, flow=flow, valid=_inside(flow, PIXEL_REACH))

    def correct(
        self, moved: NDArray[np.uint8], image: NDArray[np.uint8], most_left: float = 1.0
    ) -> NDArray[np.float32]:
        """Return what is left of motion; see `FlowEstimator.correct`.

        Both pictures and the result lie on the host, as `core.tile_pictures` does.
        """
        was, now = (torch.from_numpy(x).to(self._device).float() for x in (moved, image))
        found = estimate_flow(was, now, self._matcher)
        better = _better(was, now, torch.zeros_like(found), found, most_left)
        flow: NDArray[np.float32] = better.cpu().numpy()
        return flow

    def step_at(
        self, motion: DeviceMotion, size: tuple[int, int]
    ) -> tuple[NDArray[np.float32], Tensor]:
        """Return a motion at a size (h, w): its flow [h, w, 2] on the host, and where it is valid.

        The host waits for the flow.
        """
        flow: NDArray[np.float32] = rescale(motion.flow[None], size)[0].cpu().numpy()
        return flow, _nearest(motion.valid, size)


def _better(
    before: Tensor, image: Tensor, flow: Tensor, other: Tensor, most_left: float = 1.0
) -> Tensor:
    """Return a flow [h, w, 2], or another where it makes the earlier image more like this one.

    Of the difference at most this share must be left.
    """
    was, now = (_around((image - _pulled(before[None], x)[0]).abs()) for x in (flow, other))
    return torch.where((now < most_left * was)[..., None], other, flow)


def _unlike(image: Tensor, moved: Tensor) -> Tensor:
    """See `core.motion.unlike`."""
    contrast = torch.maximum(image.std(correction=0), moved.std(correction=0))
    return (image - moved).abs().mean() / contrast.clamp(min=MIN_CONTRAST)


def _explained(image: Tensor, before: Tensor, moved: Tensor) -> Tensor:
    """See `core.motion.explained`."""
    left, was = (
        functional.avg_pool2d((image - x).abs()[None], PART, ceil_mode=True)
        for x in (moved, before)
    )
    return (left < MOST_LEFT * was).float().mean()


def _around(difference: Tensor) -> Tensor:
    """Average over the neighbourhood of each pixel, or what there is of it."""
    mean = functional.avg_pool2d(difference[None], AROUND, 1, AROUND // 2, count_include_pad=False)
    return mean[0]


def _pulled(planes: Tensor, flow: Tensor) -> Tensor:
    """Move planes [C, h, w] by a flow [h, w, 2], bilinearly; the border is repeated outside."""
    return warp(planes[None], flow[None])[0]


def _pulled_mask(mask: Tensor, flow: Tensor) -> Tensor:
    """Move a mask [h, w] by a flow: the value nearest p + flow(p), False outside."""
    height, width = mask.shape
    x, y = (place.round().long() for place in _origin(flow))
    found = mask[y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return found & (x >= 0) & (x < width) & (y >= 0) & (y < height)


def _inside(flow: Tensor, reach: float) -> Tensor:
    """Return where a flow leads to the image, or so many pixels beyond it, bool [h, w]."""
    height, width = flow.shape[:2]
    x, y = _origin(flow)
    along = (x >= -reach) & (x <= width - 1 + reach)
    return along & (y >= -reach) & (y <= height - 1 + reach)


def _origin(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y of p + flow(p) for every pixel p, [h, w] each."""
    y, x = (torch.arange(length, device=flow.device) for length in flow.shape[:2])
    return x + flow[..., 0], y[:, None] + flow[..., 1]


def _nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a mask [h, w] to another pixel grid: each pixel takes the nearest value."""
    rows, columns = nearest_places((mask.shape[0], mask.shape[1]), size, mask.device)
    return mask[rows[:, None], columns]
