"""Reads and writes video files with PyAV.

Colours: swscale converts every frame by the range and matrix that the frame itself states, so a
full-range camera file (yuvj420p) is not stretched a second time. The written mp4 states its own
(BT.601, limited range), because players guess BT.709 for large pictures that say nothing.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from fractions import Fraction
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.stream import Disposition
from av.video.reformatter import ColorRange
import numpy as np

from seg_node.core.closing import Closing
from seg_node.core.types import DataError, Frame
from seg_node.data.codec_vectors import EXPORT, turned
from seg_node.data.stream_vectors import StreamVectors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray
    from typing_extensions import Self

LOG = logging.getLogger(__name__)

_NS_PER_S = 1_000_000_000
_FALLBACK_RATE_HZ = 30.0
"""Rate of a file that states none (a raw stream), in frames per second."""

_MAX_RATE_HZ = 1000
_MAX_QUALITY = 51
_AVCOL_SPC_SMPTE170M = 6
"""FFmpeg's number for the BT.601 matrix, which swscale uses from RGB unless told otherwise."""

_RGB_NDIM = 3
_FRAME_ID = "camera"


class VideoReader:
    """Reads the frames of the first real video stream of a file.

    Attributes:
        path: the file.
        rate_hz: average frame rate; 30 if the file states none.
        width: width of the upright picture in pixels.
        height: height of the upright picture in pixels.
        frame_count: frames that the container states, or an estimate from its duration, or
            None.
        damaged: frames of the latest pass over the file that could not be decoded.

    """

    def __init__(self, path: Path | str) -> None:
        """Open the file, decode its first frame and close it again.

        Raises:
            DataError: the file cannot be opened, has no video stream, or no frame of it can be
                decoded.

        """
        self.path = Path(path)
        self.damaged = 0
        with _open(self.path) as container:
            stream = _video_stream(container, self.path)
            rate = stream.average_rate or stream.guessed_rate
            self.rate_hz = float(rate) if rate else _FALLBACK_RATE_HZ
            self._stated_count = stream.frames
            self.frame_count = stream.frames or _estimate_count(container, stream, self.rate_hz)
            first = next(self._decode(container, stream), None)
        if first is None:
            msg = f"no frame of video {self.path} can be decoded: it is empty or damaged"
            raise DataError(msg)
        self.height, self.width = _upright(first).shape[:2]
        self.damaged = 0

    def frames(self, start_ns: int = 0, *, motion: bool = False) -> Iterator[Frame]:
        """Decode the file in display order.

        A frame's stamp is its presentation time; where that is missing or does not grow, the
        previous stamp plus one frame period. Frames that cannot be decoded are left out and
        counted in `damaged`, with those that a cut-off file lost; the decoder may conceal an
        error in the frames after it.

        Args:
            start_ns: begin at the key frame at or before this time, where the file can be
                sought in; otherwise, and for 0, at its start. The caller must look at the stamp
                of the first frame: seeking may land too late, and is exact only in files whose
                frames all carry their times.
            motion: give each frame the motion since the frame before that the stream's vectors
                state (see `codec_vectors`). It costs time: decoding keeps to one picture at a
                time. A frame after a lost one, and the first, carry none; nor do all frames of
                a stream whose vectors cannot be used, which the log says once.

        Yields:
            Frames with the file's stem as camera and `camera` as frame_id.

        Raises:
            DataError: the file has gone.

        """
        self.damaged = 0
        period_ns = round(_NS_PER_S / self.rate_hz)
        previous_ns: int | None = None
        with _open(self.path) as container:
            stream = _video_stream(container, self.path)
            if start_ns > 0:
                _seek(container, stream, start_ns)
            vectors = self._vectors(stream) if motion else None
            for picture in self._decode(container, stream, vectors):
                previous_ns = _after(previous_ns, _stamp_ns(picture), period_ns)
                moved = vectors.motion(picture, previous_ns) if vectors else None
                if moved is not None:
                    moved = turned(moved, _quarters(picture))
                yield Frame(_upright(picture), previous_ns, _FRAME_ID, self.path.stem, moved)

    def stamps_ns(self) -> tuple[int, ...]:
        """Return the stamps that `frames` will give, in nanoseconds; nothing is decoded.

        Frames that turn out to be damaged are among them. What follows damage to the container
        is not.

        Raises:
            DataError: the file has gone.

        """
        with _open(self.path) as container:
            found = list(_packet_stamps(container, _video_stream(container, self.path)))
        times = [stamp for stamp in found if stamp is not None]
        # Packets come in the order of decoding. Without times they are shown in that order.
        shown = sorted(times) if len(times) == len(found) else [None] * len(found)
        period_ns = round(_NS_PER_S / self.rate_hz)
        stamps: list[int] = []
        for stamp in shown:
            stamps.append(_after(stamps[-1] if stamps else None, stamp, period_ns))
        return tuple(stamps)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing: a file is open only while `frames` runs."""

    def _vectors(self, stream: VideoStream) -> StreamVectors:
        """Make the decoder of a stream export its vectors, and follow them."""
        context = stream.codec_context
        context.options = {**context.options, **EXPORT}
        stream.thread_type = "SLICE"  # so that an error belongs to the packet just given
        return StreamVectors(
            context.name, lambda text: LOG.warning("%s: %s", self.path, text), context.extradata
        )

    def _decode(
        self, container: InputContainer, stream: VideoStream, vectors: StreamVectors | None = None
    ) -> Iterator[VideoFrame]:
        """Yield what decodes and count in `damaged` what does not."""
        shown = hidden = errors = 0
        for pictures, hides, fails in _batches(container, stream, vectors):
            hidden += hides
            errors += fails
            for picture in pictures:
                if picture.is_corrupt:
                    errors += 1
                    if vectors:
                        vectors.lost()
                else:
                    shown += 1
                    yield picture
        if errors:
            # One bad packet can cost many frames, or the rest of the file.
            self.damaged = max(errors, self._stated_count - hidden - shown)


class VideoWriter(Closing):
    """Writes an mp4 (H.264, yuv420p) that plays while it is still loading.

    H.264 needs even sides: an odd picture gets its last row or column twice.

    Attributes:
        path: the file; an existing one is replaced.

    """

    def __init__(self, path: Path | str, rate_hz: float, *, quality: int = 20) -> None:
        """Prepare; the file is created with the first frame.

        Args:
            path: file to write, ending in `.mp4`; its folder is created.
            rate_hz: frames per second, above 0.
            quality: constant rate factor of x264, 0 (lossless) to 51.

        Raises:
            DataError: the name, the rate or the quality is out of range.

        """
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            msg = f"cannot write video {self.path}: give a name that ends in .mp4"
            raise DataError(msg)
        if not (0 < rate_hz < _MAX_RATE_HZ and 0 <= quality <= _MAX_QUALITY):
            msg = (
                f"cannot write video {self.path} at {rate_hz} Hz, quality {quality}: the rate "
                f"must be in 0..{_MAX_RATE_HZ}, the quality in 0..{_MAX_QUALITY}"
            )
            raise DataError(msg)
        self._rate = Fraction(rate_hz).limit_denominator(1001)
        self._quality = quality
        self._shape: tuple[int, ...] = ()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def write(self, rgb: NDArray[np.uint8]) -> None:
        """Append one frame, RGB uint8 [H, W, 3], of the same size as the first.

        Raises:
            DataError: the array is no such picture, or writing fails.

        """
        if rgb.ndim != _RGB_NDIM or rgb.shape[2] != _RGB_NDIM or rgb.dtype != np.uint8:
            msg = f"video {self.path}: expected uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}"
            raise DataError(msg)
        if self._shape and rgb.shape != self._shape:
            msg = (
                f"video {self.path} has {self._shape[1]}x{self._shape[0]} frames, got "
                f"{rgb.shape[1]}x{rgb.shape[0]}: resize it, or write another file"
            )
            raise DataError(msg)
        self._shape = rgb.shape
        odd = ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0))
        even = np.pad(rgb, odd, mode="edge") if rgb.shape[0] % 2 or rgb.shape[1] % 2 else rgb
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        try:
            if self._stream is None:
                self._stream = self._start(even.shape[1], even.shape[0])
            self._mux(self._stream.encode(picture))
        except (av.FFmpegError, OSError) as error:
            msg = f"cannot write video {self.path}: {error}"
            raise DataError(msg) from error

    def close(self) -> None:
        """Finish the file; without a frame there is none. A second call does nothing.

        Raises:
            DataError: writing fails.

        """
        container, stream = self._container, self._stream
        self._container = self._stream = None
        if container is None or stream is None:
            return
        try:
            with container:
                container.mux(stream.encode(None))
        except (av.FFmpegError, OSError) as error:
            msg = f"cannot finish video {self.path}: {error}"
            raise DataError(msg) from error

    def _start(self, width: int, height: int) -> VideoStream:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The index goes in front of the pictures, so that a browser can start at once.
        container = av.open(str(self.path), "w", container_options={"movflags": "faststart"})
        self._container = container
        options = {"crf": str(self._quality), "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=self._rate, options=options)
        stream.width = width
        stream.height = height
        stream.pix_fmt = "yuv420p"
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.colorspace = _AVCOL_SPC_SMPTE170M
        return stream

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        assert self._container is not None
        self._container.mux(packets)


@contextmanager
def _open(path: Path) -> Iterator[InputContainer]:
    """Open a file for reading.

    Raises:
        DataError: it cannot be opened.

    """
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        msg = (
            f"cannot open video {path} ({error.strerror}): it is missing, cut off before its "
            "index, or no video"
        )
        raise DataError(msg) from error
    with container:
        yield container


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        # The cover picture of a sound file is a video stream too.
        if not stream.disposition & Disposition.attached_pic:
            stream.thread_type = "AUTO"
            return stream
    kinds = ", ".join(sorted({x.type for x in container.streams}))
    msg = f"{path} has no video stream, only: {kinds or 'nothing'}"
    raise DataError(msg)


def _estimate_count(container: InputContainer, stream: VideoStream, rate_hz: float) -> int | None:
    if stream.duration is not None and stream.time_base is not None:
        return round(float(stream.duration * stream.time_base) * rate_hz)
    if container.duration is not None:
        return round(container.duration / av.time_base * rate_hz)
    return None


def _batches(
    container: InputContainer, stream: VideoStream, vectors: StreamVectors | None
) -> Iterator[tuple[list[VideoFrame], int, int]]:
    """Yield, packet by packet: decoded frames, frames not to be shown, errors."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            # The container is broken here; the decoder still holds a few frames.
            yield [], 0, 1
            with suppress(av.FFmpegError):
                yield stream.decode(None), 0, 0
            return
        if packet is None:
            return
        if packet.is_corrupt:
            # The last packet of a cut-off file: the decoder would make up the missing part.
            _tell(vectors, packet, shows=False)
            yield [], 0, 1
            continue
        _tell(vectors, packet, shows=not packet.is_discard)
        try:
            yield packet.decode(), int(packet.is_discard), 0
        except av.FFmpegError:
            _tell(vectors, packet, shows=False)
            yield [], 0, 1


def _tell(vectors: StreamVectors | None, packet: Packet[VideoStream], *, shows: bool) -> None:
    """Tell the vectors of a packet, and whether a picture of it will be shown."""
    if vectors is None:
        return
    if shows:
        vectors.expect(bytes(packet), packet.pts)
    else:
        vectors.broken()


def _packet_stamps(container: InputContainer, stream: VideoStream) -> Iterator[int | None]:
    """Yield the presentation time of each packet that will be shown, up to damage."""
    with suppress(av.FFmpegError):
        for packet in container.demux(stream):
            if packet.size and not packet.is_corrupt and not packet.is_discard:
                yield _stamp_ns(packet)


def _seek(container: InputContainer, stream: VideoStream, time_ns: int) -> None:
    """Go to the key frame at or before a time; stay where that cannot be done."""
    if stream.time_base is not None:
        with suppress(av.FFmpegError):
            container.seek(int(Fraction(time_ns, _NS_PER_S) / stream.time_base), stream=stream)


def _stamp_ns(item: VideoFrame | Packet[VideoStream]) -> int | None:
    if item.pts is None or item.time_base is None:
        return None
    return round(item.pts * item.time_base * _NS_PER_S)


def _after(previous_ns: int | None, stamp_ns: int | None, period_ns: int) -> int:
    """Return a stamp, or where it is missing or does not grow, the previous one's successor."""
    if previous_ns is None:
        return max(stamp_ns or 0, 0)
    if stamp_ns is None or stamp_ns <= previous_ns:
        return previous_ns + period_ns
    return stamp_ns


def _upright(picture: VideoFrame) -> NDArray[np.uint8]:
    """Return RGB uint8 [H, W, 3], turned as the file asks (phones film lying down)."""
    rgb = picture.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(rgb, _quarters(picture)))


def _quarters(picture: VideoFrame) -> int:
    """Return how many quarter turns against the clock the file asks for, 0 to 3."""
    return round(picture.rotation / 90) % 4
