"""Writes a rosbag2 without ROS: images, compressed images, strings and diagnostics.

The bag must stay readable when the program ends early: on an exception or Ctrl-C the context
manager finishes the file instead of dropping it (rosbags' own would), and every record is
written by one worker thread, which a KeyboardInterrupt in the main thread cannot cut in half.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import sqlite3
import struct
from typing import Any, Literal, TYPE_CHECKING

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError

from seg_node.core.closing import Closing
from seg_node.core.types import DataError
from seg_node.data.bag import typestore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from rosbags.interfaces import Connection

_NS_PER_S = 1_000_000_000
_MAX_STAMP_NS = (2**31 - 1) * _NS_PER_S
_RGB_NDIM = 3

_FOREVER = QosTime(9_223_372_036, 854_775_807)
_LATCHED = Qos(
    history=QosHistory.KEEP_LAST,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.TRANSIENT_LOCAL,
    deadline=_FOREVER,
    lifespan=_FOREVER,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=_FOREVER,
    avoid_ros_namespace_conventions=False,
)
_COMPRESSIONS = {
    "none": CompressionMode.NONE,
    "file": CompressionMode.FILE,
    "message": CompressionMode.MESSAGE,
    "chunk": CompressionMode.STORAGE,
}
_STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


class BagWriter(Closing):
    """Writes a new bag folder; use it as a context manager.

    Attributes:
        path: the folder.

    """

    def __init__(
        self,
        path: Path | str,
        *,
        storage: Literal["mcap", "sqlite3"] = "mcap",
        compression: Literal["none", "file", "message", "chunk"] = "none",
    ) -> None:
        """Create the folder and open its storage file.

        Args:
            path: folder to create; its parents are created too.
            storage: format of the storage file.
            compression: zstd of the whole file, of each message, or of the chunks inside an
                mcap file; the last is the one that viewers such as Foxglove read as well.

        Raises:
            DataError: the folder exists or cannot be written, or the combination of storage
                and compression or of storage and name is impossible.

        """
        self.path = Path(path)
        if storage == "sqlite3" and compression == "chunk":
            msg = "sqlite3 has no chunks: use compression 'message' or 'file', or storage 'mcap'"
            raise DataError(msg)
        if storage == "sqlite3" and (odd := set("#?%") & set(str(self.path))):
            # rosbags puts the path into a URI unquoted and would write to another file.
            msg = (
                f"a sqlite3 bag cannot be written to {self.path}: avoid {sorted(odd)} or use mcap"
            )
            raise DataError(msg)
        if self.path.exists():
            msg = f"{self.path} exists: choose another folder, a bag is never overwritten"
            raise DataError(msg)
        self._connections: dict[str, Connection] = {}
        self._worker: ThreadPoolExecutor | None = ThreadPoolExecutor(1, "bag_writer")
        try:
            self._writer = Writer(self.path, version=8, storage_plugin=_STORAGES[storage])
            self._writer.set_compression(_COMPRESSIONS[compression], CompressionFormat.ZSTD)
            self._run(self._writer.open)
        except BaseException:
            self._worker.shutdown()
            raise

    def write_image(  # noqa: PLR0913 - the fields of the message
        self,
        topic: str,
        image: NDArray[Any],
        *,
        stamp_ns: int,
        frame_id: str,
        receive_ns: int | None = None,
        encoding: str | None = None,
    ) -> None:
        """Write a `sensor_msgs/Image`.

        Args:
            topic: where it is published.
            image: uint8 [H, W] (mono8), uint8 [H, W, 3] (rgb8) or uint16 [H, W] (mono16); with
                `encoding` any uint8 or uint16 array [H, W] or [H, W, C].
            stamp_ns: header stamp, nanoseconds.
            frame_id: coordinate frame.
            receive_ns: receive time, nanoseconds; the stamp if None.
            encoding: encoding to state instead, such as "bgr8".

        Raises:
            DataError: the array has no encoding, a time is out of range, the topic has another
                type, or writing fails.

        """
        encoding = encoding or _encoding_of(image, topic)
        height, width = image.shape[:2]
        little = image.astype(image.dtype.newbyteorder("<"), copy=False)
        data = np.ascontiguousarray(little).view(np.uint8).reshape(-1)
        message = _new(
            "sensor_msgs/msg/Image",
            header=_header(stamp_ns, frame_id),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=data.size // height if height else 0,
            data=data,
        )
        self._write(topic, message, stamp_ns if receive_ns is None else receive_ns)

    def write_compressed(  # noqa: PLR0913 - the fields of the message
        self,
        topic: str,
        data: bytes,
        fmt: str,
        *,
        stamp_ns: int,
        frame_id: str,
        receive_ns: int | None = None,
    ) -> None:
        """Write a `sensor_msgs/CompressedImage` with these bytes and this `format`.

        Raises:
            DataError: a time is out of range, the topic has another type, or writing fails.

        """
        message = _new(
            "sensor_msgs/msg/CompressedImage",
            header=_header(stamp_ns, frame_id),
            format=fmt,
            data=np.frombuffer(data, np.uint8),
        )
        self._write(topic, message, stamp_ns if receive_ns is None else receive_ns)

    def write_string(
        self, topic: str, text: str, *, receive_ns: int, latched: bool = False
    ) -> None:
        """Write a `std_msgs/String`; a latched one reaches late subscribers in a playback too.

        Raises:
            DataError: the time is out of range, the topic has another type, or writing fails.

        """
        self._write(topic, _new("std_msgs/msg/String", data=text), receive_ns, latched=latched)

    def write_diagnostics(  # noqa: PLR0913, PLR0917 - the fields of the message
        self,
        topic: str,
        name: str,
        hardware_id: str,
        level: int,
        message: str,
        values: Mapping[str, str],
        *,
        stamp_ns: int,
        receive_ns: int | None = None,
    ) -> None:
        """Write a `diagnostic_msgs/DiagnosticArray` with one status.

        Args:
            topic: where it is published.
            name: what is diagnosed.
            hardware_id: on which hardware.
            level: 0 OK, 1 WARN, 2 ERROR, 3 STALE.
            message: summary.
            values: details.
            stamp_ns: header stamp, nanoseconds.
            receive_ns: receive time, nanoseconds; the stamp if None.

        Raises:
            DataError: a time is out of range, the topic has another type, or writing fails.

        """
        status = _new(
            "diagnostic_msgs/msg/DiagnosticStatus",
            level=level,
            name=name,
            message=message,
            hardware_id=hardware_id,
            values=[
                _new("diagnostic_msgs/msg/KeyValue", key=k, value=v) for k, v in values.items()
            ],
        )
        array = _new(
            "diagnostic_msgs/msg/DiagnosticArray", header=_header(stamp_ns, ""), status=[status]
        )
        self._write(topic, array, stamp_ns if receive_ns is None else receive_ns)

    def close(self) -> None:
        """Finish the storage file and write metadata.yaml; a second call does nothing.

        Raises:
            DataError: writing fails.

        """
        if self._worker is None:
            return
        try:
            self._run(self._writer.close)
        finally:
            self._worker.shutdown()
            self._worker = None

    def _write(self, topic: str, message: Any, receive_ns: int, *, latched: bool = False) -> None:
        if not 0 <= receive_ns < 2**63:
            msg = f"receive time {receive_ns} ns on {topic} is out of range 0..2^63-1"
            raise DataError(msg)
        msgtype: str = message.__msgtype__
        try:
            data = typestore().serialize_cdr(message, msgtype)
        except (struct.error, ValueError, OverflowError) as error:
            msg = f"a {msgtype} on {topic} has a field that does not fit: {error}"
            raise DataError(msg) from error
        self._run(lambda: self._put(topic, msgtype, receive_ns, data, latched=latched))

    def _put(
        self, topic: str, msgtype: str, receive_ns: int, data: memoryview, *, latched: bool
    ) -> None:
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(
                topic,
                msgtype,
                typestore=typestore(),
                offered_qos_profiles=[_LATCHED] if latched else [],
            )
            self._connections[topic] = connection
        if connection.msgtype != msgtype:
            msg = f"topic {topic} carries {connection.msgtype}: write {msgtype} to another topic"
            raise DataError(msg)
        self._writer.write(connection, receive_ns, data)

    def _run(self, task: Callable[[], None]) -> None:
        """Do it in the worker thread and wait.

        Raises:
            DataError: the bag is closed, or the disk or rosbags refuses.

        """
        if self._worker is None:
            msg = f"bag {self.path} is closed: nothing more can be written"
            raise DataError(msg)
        try:
            self._worker.submit(task).result()
        except (OSError, sqlite3.Error, WriterError) as error:
            msg = f"cannot write bag {self.path}: {error}"
            raise DataError(msg) from error


def _encoding_of(image: NDArray[Any], topic: str) -> str:
    if image.dtype == np.uint8 and image.ndim == _RGB_NDIM and image.shape[2] == _RGB_NDIM:
        return "rgb8"
    if image.ndim == _RGB_NDIM - 1 and image.dtype in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        return "mono8" if image.dtype == np.uint8 else "mono16"
    msg = (
        f"an image for {topic} is {image.dtype} {list(image.shape)}: expected uint8 [H, W] or "
        "[H, W, 3] or uint16 [H, W], or state an encoding"
    )
    raise DataError(msg)


def _header(stamp_ns: int, frame_id: str) -> Any:
    if not 0 <= stamp_ns <= _MAX_STAMP_NS:
        msg = f"header stamp {stamp_ns} ns is out of range 0..{_MAX_STAMP_NS}"
        raise DataError(msg)
    sec, nanosec = divmod(stamp_ns, _NS_PER_S)
    stamp = _new("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
    return _new("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def _new(msgtype: str, **fields: Any) -> Any:
    # rosbags makes its message classes at run time: nothing about their fields can be typed.
    cls: Any = typestore().types[msgtype]
    return cls(**fields)
