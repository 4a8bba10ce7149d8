"""Bytes to the device and back, beside what the device and the host do meanwhile.

Memory on the host is pinned and comes from torch's cache of such memory, which does not hand out
again what a copy still reads: so the bytes of the next frame never wait for those of this one, and
no two frames share any. On a CPU nothing is copied.
"""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class Uploads:
    """The way of images to a device, on a stream of its own.

    Args:
        device: where they go.

    """

    def __init__(self, device: torch.device) -> None:
        """Open the stream where the device has some."""
        self._device = device
        self._ahead: tuple[NDArray[np.uint8], Tensor] | None = None
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's stub

    @property
    def beside(self) -> bool:
        """Whether images travel while the host goes on."""
        return self._stream is not None

    def send(self, image: NDArray[np.uint8]) -> Tensor:
        """Return an image [H, W, 3] as uint8 [1, 3, H, W], channels_last, on the device.

        The host goes on before it is there; what is launched next on the device waits for it.
        """
        ahead, self._ahead = self._ahead, None
        landed = ahead[1] if ahead is not None and ahead[0] is image else self._copied(image)
        if self._stream is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_stream(self._stream)
            landed.record_stream(here)  # its memory is that stream's: it must not go back early
        return landed.permute(2, 0, 1)[None]

    def send_ahead(self, image: NDArray[np.uint8]) -> None:
        """Start sending the image that the next `send` will be asked for; the device works on.

        Args:
            image: [H, W, 3]; it stays as it is until then.

        """
        self._ahead = image, self._copied(image)

    def _copied(self, image: NDArray[np.uint8]) -> Tensor:
        """Return an image on its way to the device."""
        if self._stream is None:
            # A view on a message's buffer is read-only, which torch.from_numpy only warns about.
            usable = image.flags.c_contiguous and image.flags.writeable
            return torch.from_numpy(image if usable else image.copy())
        staged = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
        staged.numpy()[:] = image
        with torch.cuda.stream(self._stream):
            return staged.to(self._device, non_blocking=True)


def to_device(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Return an array or a tensor as a tensor of a device, without waiting for the device.

    Memory of the host that is not pinned would be: the driver waits for what was launched before.
    On a CPU the tensor shares its memory with the array.
    """
    there = torch.as_tensor(values)
    if device.type != "cuda" or there.is_cuda:
        return there.to(device)
    return there.pin_memory().to(device, non_blocking=True)


def to_host(*planes: Tensor) -> tuple[NDArray[Any], ...]:
    """Return tensors of one device as arrays, waiting for the device once.

    On a CPU they share their memory with the tensors.
    """
    device = planes[0].device
    if device.type != "cuda":
        return tuple(plane.numpy() for plane in planes)
    landed = [torch.empty(plane.shape, dtype=plane.dtype, pin_memory=True) for plane in planes]
    for there, plane in zip(landed, planes, strict=True):
        there.copy_(plane, non_blocking=True)
    torch.cuda.current_stream(device).synchronize()
    return tuple(there.numpy() for there in landed)
