"""Motion vectors of H.264 and MPEG-4 streams as backward flow.

libavcodec exports, where `flags2` has `export_mvs`, one vector per 16x16, 16x8, 8x16 or 8x8 block
(of smaller partitions the first of each 8x8), skipped blocks included. A block of a P picture
without a vector is therefore intra. What it does not export is which reference a vector points
into: only `source`, -1 for the past. An encoder that may use one reference (refs=1, as hardware
encoders for low delay do) always means the picture before. Where more are allowed, vectors into
older pictures are found by looking: half-size luma of the older pictures explains the block much
better than the one before.

B pictures refer to pictures that are shown later, and P pictures next to them to pictures further
back, so a stream with B pictures is refused by name: its frames carry no motion.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any, TYPE_CHECKING

from av.sidedata.motionvectors import MotionVectors
from av.video.frame import PictureType
import cv2
import numpy as np

from seg_node.core.types import Motion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import av
    from numpy.typing import NDArray

EXPORT = {"flags2": "+export_mvs"}
"""Decoder options that make libavcodec export vectors."""

CODECS = ("h264", "mpeg4")
"""Decoders whose vectors are known to be right; libavcodec's `hevc` exports none."""

_CELL = 8
"""Smallest block of a vector, in pixels."""

_MACROBLOCK = 16
_OLDER = 2
"""Pictures before the previous one that vectors are tried on."""

_POOR = 2.5
"""Mean difference of a cell, of 255, below which the previous picture explains it well enough."""

_MUCH_BETTER = 0.7
"""Share of that difference which an older picture must reach to be the reference."""


def motion_of(picture: av.VideoFrame, since_ns: int = 0) -> Motion | None:
    """Return the motion that the vectors of a decoded picture state.

    The decoder must have been opened with `EXPORT`. Every vector is taken to refer to the
    previous picture; `VectorTrack` knows when that is wrong.

    Args:
        picture: a picture of one of `CODECS`.
        since_ns: stamp of the previous picture.

    Returns:
        Flow [H, W, 2] at the picture's size. Blocks without a vector are intra, all of them in an
        I picture; a flow that points outside the previous picture is invalid. None for a picture
        that is neither I nor P, or is interlaced.

    """
    if picture.pict_type not in {PictureType.I, PictureType.P} or picture.interlaced_frame:
        return None
    height, width = picture.height, picture.width
    cells, known = _cells(picture)
    inside = _inside(cells, height, width)
    known = _spread(known, height, width)
    return Motion(_spread(cells, height, width), known & inside, ~known, since_ns)


class VectorTrack:
    """Gives each picture of one stream, in the order of display, its motion since the one before.

    Attributes:
        references: pictures that the stream allows as references; with more than one, vectors
            into older pictures are looked for.

    """

    def __init__(self, codec: str, note: Callable[[str], None], *, references: int = 1) -> None:
        """Begin before the first picture.

        Args:
            codec: libavcodec's name of the decoder, such as `h264`.
            note: told, once, why a stream's vectors are not used.
            references: see the attribute.

        """
        self.references = references
        self._note = note
        self._refusal = "" if codec in CODECS else f"libavcodec exports no vectors of {codec}"
        self._told = False
        self._since_ns: int | None = None
        self._size = (0, 0)
        self._lumas: deque[NDArray[np.uint8]] = deque(maxlen=1 + _OLDER)

    def follow(
        self, picture: av.VideoFrame, stamp_ns: int, *, connected: bool = True
    ) -> Motion | None:
        """Return the motion since the picture of the call before.

        Args:
            picture: the next picture.
            stamp_ns: its stamp.
            connected: False where its vectors refer to another picture than that of the call
                before.

        Returns:
            As `motion_of`, with vectors into older pictures invalid and scaled to one picture
            distance. None for the first picture, the first after `lost`, after a change of size,
            or where this stream's vectors are not used.

        """
        if not self._refusal:
            self._refusal = _refusal(picture)
        if self._refusal:
            if not self._told:
                self._told = True
                self._note(f"frames carry no codec motion: {self._refusal}")
            return None
        if self._size != (picture.height, picture.width):
            self.lost()
        self._size = (picture.height, picture.width)
        motion = None
        if connected and self._since_ns is not None:
            motion = motion_of(picture, self._since_ns)
        if self.references > 1:
            now = _half_luma(picture)
            if motion is not None:
                motion = _without_older(motion, now, self._lumas)
            self._lumas.appendleft(now)
        self._since_ns = stamp_ns
        return motion

    def lost(self) -> None:
        """Note that pictures are missing between the last one and the next."""
        self._since_ns = None
        self._lumas.clear()


def turned(motion: Motion, quarters: int) -> Motion:
    """Return the motion of an image that `np.rot90(image, quarters)` has turned."""
    flow, valid, intra = motion.flow, motion.valid, motion.intra
    for _ in range(quarters % 4):
        # A quarter turn against the clock: what was x runs up, what was y runs to the right.
        flow = np.rot90(np.stack([flow[..., 1], -flow[..., 0]], axis=-1))
        valid = np.rot90(valid)
        intra = None if intra is None else np.rot90(intra)
    return Motion(
        np.ascontiguousarray(flow),
        np.ascontiguousarray(valid),
        None if intra is None else np.ascontiguousarray(intra),
        motion.since_ns,
    )


def _refusal(picture: av.VideoFrame) -> str:
    """Return why this picture makes the vectors of its stream useless, empty if it does not."""
    if picture.interlaced_frame:
        return "the stream is interlaced; encode frames, not fields"
    if picture.pict_type not in {PictureType.I, PictureType.P}:
        kind = PictureType(picture.pict_type).name
        return f"the stream has {kind} pictures; encode without them (bframes 0)"
    return ""


def _cells(picture: av.VideoFrame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return vectors in pixels per 8x8 cell, [rows, columns, 2], and where there are any."""
    rows = -(-picture.height // _MACROBLOCK) * 2
    columns = -(-picture.width // _MACROBLOCK) * 2
    flow = np.zeros((rows, columns, 2), np.float32)
    known = np.zeros((rows, columns), np.bool_)
    for data in picture.side_data:
        if isinstance(data, MotionVectors):
            vectors = data.to_ndarray()
            _paint(vectors[vectors["source"] < 0], flow, known)
    return flow, known


def _paint(vectors: NDArray[np.void], flow: NDArray[np.float32], known: NDArray[np.bool_]) -> None:
    moved = np.stack([vectors["motion_x"], vectors["motion_y"]], axis=-1).astype(np.float32)
    moved /= vectors["motion_scale"][:, None]
    width, height = vectors["w"], vectors["h"]
    column = (vectors["dst_x"] - width // 2) // _CELL
    row = (vectors["dst_y"] - height // 2) // _CELL
    for down in (0, 1):
        for right in (0, 1):
            covers = (height > _CELL * down) & (width > _CELL * right)
            where = (row[covers] + down, column[covers] + right)
            flow[where] = moved[covers]
            known[where] = True


def _spread(cells: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Return cells [rows, columns, ...] as pixels [height, width, ...]."""
    pixels = cells.repeat(_CELL, axis=0)[:height].repeat(_CELL, axis=1)[:, :width]
    return np.ascontiguousarray(pixels)


def _inside(cells: NDArray[np.float32], height: int, width: int) -> NDArray[np.bool_]:
    """Return where the flow of 8x8 cells stays in the picture, [height, width]."""
    x = np.arange(width) + cells[..., 0].repeat(_CELL, axis=1)[:, :width]
    y = np.arange(height)[:, None] + cells[..., 1].repeat(_CELL, axis=0)[:height]
    across = (x >= 0) & (x <= width - 1)
    along = (y >= 0) & (y <= height - 1)
    across = across.repeat(_CELL, axis=0)[:height]
    return np.asarray(across & along.repeat(_CELL, axis=1)[:, :width], np.bool_)


def _half_luma(picture: av.VideoFrame) -> NDArray[np.uint8]:
    width, height = -(-picture.width // 2), -(-picture.height // 2)
    return np.asarray(picture.to_ndarray(format="gray", width=width, height=height), np.uint8)


def _without_older(
    motion: Motion, now: NDArray[np.uint8], before: Sequence[NDArray[np.uint8]]
) -> Motion:
    """Return the motion with vectors into older pictures scaled and marked invalid.

    Args:
        motion: at full size.
        now: half-size luma of this picture.
        before: that of the pictures before it, the newest first.

    """
    if len(before) < 2:  # noqa: PLR2004 - the previous picture and an older one
        return motion
    height, width = now.shape
    small = motion.flow[::2, ::2] / 2
    x = np.asarray(np.arange(width) + small[..., 0], np.float32)
    y = np.asarray(np.arange(height)[:, None] + small[..., 1], np.float32)
    errors = np.stack([_cell_errors(now, luma, x, y) for luma in before])
    best = errors[1:].argmin(axis=0)
    older = (errors[0] > _POOR) & (errors[1:].min(axis=0) < _MUCH_BETTER * errors[0])
    size = motion.valid.shape
    far = _spread(older, *size)
    distance = _spread((best + 2).astype(np.float32), *size)
    flow = motion.flow.copy()
    flow[far] /= distance[far][:, None]
    return replace(motion, flow=flow, valid=motion.valid & ~far)


def _cell_errors(
    now: NDArray[np.uint8],
    luma: NDArray[np.uint8],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the mean difference of each 8x8 cell from what the flow fetches, all at half size."""
    fetched = cv2.remap(luma, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = cv2.absdiff(now, fetched)
    side = _CELL // 2
    rest = [(0, -length % side) for length in error.shape]
    error = np.pad(error, rest, mode="edge").astype(np.float32)
    cells = (error.shape[1] // side, error.shape[0] // side)
    return np.asarray(cv2.resize(error, cells, interpolation=cv2.INTER_AREA), np.float32)
