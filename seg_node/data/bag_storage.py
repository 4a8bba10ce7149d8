"""The files of a rosbag2: finds them, and reads sqlite3, mcap and zstd ones message by message.

mcap goes through rosbags. sqlite3 goes through Python's own driver, because the reader of
rosbags 0.11 (a) fails on a bag with a topic of unknown definition (KeyError 'unknown'), (b)
ignores messages that still lie in the write-ahead log, (c) opens another file if the name holds
`#`, `?` or `%`. Its folder reader matches topics by quality of service too and silently yields
nothing when metadata.yaml and storage disagree there, hence `metadata.yaml` is read here.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePath
import shutil
import sqlite3
import struct
import sys
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol, TYPE_CHECKING, TypeVar

from rosbags.interfaces import ConnectionExtRosbag2
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.storage_mcap import McapReader
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from seg_node.core.types import DataError
from seg_node.data import sqlite_remains
from seg_node.data.mcap_remains import describe_remains

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

_Item = TypeVar("_Item")

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MCAP_MAGIC = b"\x89MCAP0\r\n"
_SQLITE_MAGIC = b"SQLite format 3\0"
_ROS1_MAGIC = b"#ROSBAG V"
_METADATA = "metadata.yaml"
_MAX_PROFILE = 1000
"""Longest believable profile name in bytes; more means that the header is damaged."""

_REPAIR = "repair it with `mcap recover` or `sqlite3 FILE .recover`, or use another copy"

_DAMAGE = (
    # What rosbags, sqlite and the decompressors raise on bytes that are not what they claim.
    ReaderError,
    sqlite3.Error,
    zstd.ZstdError,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    RuntimeError,  # lz4
)


class TopicKey(NamedTuple):
    """A topic and the type of its messages, such as `sensor_msgs/msg/Image`."""

    name: str
    msgtype: str


class StoredMessage(NamedTuple):
    """One message as it lies in the file.

    Attributes:
        key: its topic and type.
        receive_ns: when the recorder received it, in nanoseconds.
        data: serialised message, possibly compressed with zstd.

    """

    key: TopicKey
    receive_ns: int
    data: bytes


class Storage(Protocol):
    """One open storage file.

    Attributes:
        counts: messages per topic, as the file's own index states them; CDR topics only.
        others: topics that are not in CDR, with their serialisation.
        note: what of the file cannot be reached, or "".

    """

    counts: Mapping[TopicKey, int]
    others: Mapping[str, str]
    note: str

    def messages(
        self, keys: Collection[TopicKey], from_ns: int | None = None
    ) -> Iterator[StoredMessage]:
        """Yield the messages of these topics by receive time, from `from_ns` on.

        Raises:
            DataError: the file is damaged from here on.

        """

    def close(self) -> None:
        """Close the file."""


@dataclass(frozen=True)
class BagFiles:
    """Where a bag's messages lie.

    Attributes:
        files: storage files in the order of recording.
        counts: messages per topic that metadata.yaml promises; empty without one.

    """

    files: tuple[Path, ...]
    counts: Mapping[TopicKey, int] = field(default_factory=dict)


def find_files(path: Path) -> BagFiles:
    """List the storage files of a bag given as a folder, its metadata.yaml, or a single file.

    Raises:
        DataError: there is no bag, or its metadata.yaml is missing, damaged, or lists files
            that do not exist.

    """
    if path.name == _METADATA:
        path = path.parent
    if not path.exists():
        msg = f"bag {path} does not exist: check the path"
        raise DataError(msg)
    if path.is_file():
        return BagFiles((path,))
    if not (path / _METADATA).is_file():
        msg = f"{_METADATA} is missing from bag {path}: {_advice_without_metadata(path)}"
        raise DataError(msg)
    return _read_metadata(path)


def _advice_without_metadata(folder: Path) -> str:
    with _readable(folder):
        names = sorted(x.name for x in folder.iterdir())
    found = [x for x in names if PurePath(x).suffix in {".mcap", ".db3", ".zstd"}]
    if found:
        return f"give one of its files instead ({', '.join(found)}) or run `ros2 bag reindex`"
    ros1 = [x for x in names if PurePath(x).suffix == ".bag"]
    if ros1:
        return f"{ros1[0]} is a ROS 1 bag: convert it with `rosbags-convert`"
    return "the folder holds no bag file either"


def _read_metadata(folder: Path) -> BagFiles:
    path = folder / _METADATA
    try:
        # Through Any: every field of a foreign file is checked by using it.
        info = YAML(typ="safe").load(path.read_text(encoding="utf-8"))[
            "rosbag2_bagfile_information"
        ]
        names = [PurePath(x).name for x in info["relative_file_paths"]]
        counts: Counter[TopicKey] = Counter()
        for topic in info["topics_with_message_count"]:
            data = topic["topic_metadata"]
            counts[TopicKey(str(data["name"]), str(data["type"]))] += int(topic["message_count"])
    except (YAMLError, OSError, LookupError, TypeError, ValueError) as error:
        msg = f"cannot read {path}: {_brief(error)}; rebuild it with `ros2 bag reindex {folder}`"
        raise DataError(msg) from error
    files = []
    for name in names:
        # Some recorders list file-compressed storage without its .zstd.
        candidates = [folder / name, folder / f"{name}.zstd"]
        found = next((x for x in candidates if x.is_file()), None)
        if found is None:
            msg = f"{path} lists {name!r}, which is missing: copy it next to {_METADATA}"
            raise DataError(msg)
        files.append(found)
    return BagFiles(tuple(files), counts)


def is_compressed(path: Path) -> bool:
    """Tell whether a whole storage file is compressed with zstd.

    Raises:
        DataError: it cannot be read.

    """
    return _head(path).startswith(ZSTD_MAGIC)


def open_storage(path: Path) -> Storage:
    """Open one storage file, whatever its name; a zstd file is unpacked into a temporary one.

    Raises:
        DataError: it is empty, cut off, damaged, or not the storage of a ROS 2 bag.

    """
    head = _head(path)
    if head.startswith(_MCAP_MAGIC):
        return McapStorage(path)
    if head.startswith(_SQLITE_MAGIC):
        return SqliteStorage(path)
    if head.startswith(ZSTD_MAGIC):
        return _UnpackedStorage(path)
    if head.startswith(_ROS1_MAGIC):
        msg = f"{path} is a ROS 1 bag: convert it with `rosbags-convert --src {path} --dst FOLDER`"
        raise DataError(msg)
    what = "is empty (0 bytes)" if not head else "is neither an mcap nor a sqlite3 bag file"
    msg = f"{path} {what}: give a rosbag2 folder, .mcap or .db3 file"
    raise DataError(msg)


class SqliteStorage:
    """A `.db3` file, read without touching it. See `Storage` for the face."""

    def __init__(self, path: Path) -> None:
        """Open it and count its messages.

        Raises:
            DataError: it is cut off, damaged or lacks rosbag2's tables.

        """
        self._path = path
        self.note = ""
        real = path.resolve()
        log = real.with_name(f"{real.name}-wal")
        # `immutable` never writes next to the bag, but also never looks into the log.
        uri = f"{real.as_uri()}?mode=ro"
        if log.is_file() and log.stat().st_size > 0:
            try:
                self._open(uri)
            except DataError:
                self.note = f"messages in {log} are out of reach (is its folder writable?)"
            else:
                return
        _check_length(path)
        self._open(f"{uri}&immutable=1")

    def _open(self, uri: str) -> None:
        with _readable(self._path), ExitStack() as on_error:
            connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            on_error.callback(connection.close)
            rows = connection.execute(
                "SELECT id, name, type, serialization_format FROM topics ORDER BY id"
            ).fetchall()
            per_id: dict[int, int] = dict(
                connection.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id")
            )
            on_error.pop_all()
        self._connection = connection
        self._keys = {row[0]: TopicKey(row[1], row[2]) for row in rows if row[3] == "cdr"}
        self.others: Mapping[str, str] = {row[1]: str(row[3]) for row in rows if row[3] != "cdr"}
        counts: Counter[TopicKey] = Counter()
        for topic_id, key in self._keys.items():
            counts[key] += per_id.get(topic_id, 0)
        self.counts: Mapping[TopicKey, int] = counts

    def messages(
        self, keys: Collection[TopicKey], from_ns: int | None = None
    ) -> Iterator[StoredMessage]:
        """Yield the messages of these topics by receive time. See `Storage`."""
        ids = [topic_id for topic_id, key in self._keys.items() if key in keys]
        marks = ", ".join("?" for _ in ids)
        query = (
            "SELECT topic_id, timestamp, data FROM messages "  # noqa: S608 - only `?` marks vary
            f"WHERE topic_id IN ({marks}) AND timestamp >= ? ORDER BY timestamp, id"
        )
        start_ns = -(2**63) if from_ns is None else from_ns
        with _readable(self._path):
            cursor = self._connection.execute(query, [*ids, start_ns])
        for topic_id, receive_ns, data in _guarded(self._path, cursor):
            yield StoredMessage(self._keys[topic_id], int(receive_ns), bytes(data))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class McapStorage:
    """A `.mcap` file with ROS 2's profile, read through rosbags. See `Storage` for the face."""

    def __init__(self, path: Path) -> None:
        """Open it and read its index.

        Raises:
            DataError: it is cut off, damaged, or has another profile than ros2.

        """
        self._path = path
        self.note = ""
        _check_profile(path)
        self._reader = McapReader(path)
        try:
            with _readable(path):
                self._reader.open()
        except DataError as error:
            if isinstance(error.__cause__, KeyError):
                # The one way in which an undamaged file of this profile can fail.
                msg = (
                    f"{path} has a channel with schema encoding {error.__cause__}, which is not "
                    "ROS 2's: filter it out, or record with rosbag2"
                )
                raise DataError(msg) from error
            with _readable(path):
                msg = f"{error}; {describe_remains(path)}"
            raise DataError(msg) from error
        counts: Counter[TopicKey] = Counter()
        others: dict[str, str] = {}
        self._connections = []
        for connection in self._reader.connections:
            extension = connection.ext
            assert isinstance(extension, ConnectionExtRosbag2)
            if extension.serialization_format == "cdr":
                counts[TopicKey(connection.topic, connection.msgtype)] += connection.msgcount
                self._connections.append(connection)
            else:
                others[connection.topic] = extension.serialization_format
        self.others: Mapping[str, str] = others
        self.counts: Mapping[TopicKey, int] = counts

    def messages(
        self, keys: Collection[TopicKey], from_ns: int | None = None
    ) -> Iterator[StoredMessage]:
        """Yield the messages of these topics by receive time. See `Storage`."""
        wanted = [x for x in self._connections if (x.topic, x.msgtype) in keys]
        stored = self._reader.messages(wanted, start=from_ns)
        for connection, receive_ns, data in _guarded(self._path, stored):
            yield StoredMessage(TopicKey(connection.topic, connection.msgtype), receive_ns, data)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class _UnpackedStorage:
    """A zstd-compressed storage file, unpacked until closed. See `Storage` for the face."""

    def __init__(self, path: Path) -> None:
        with ExitStack() as on_error, _readable(path):
            folder = on_error.enter_context(TemporaryDirectory(prefix="seg_node_bag_"))
            unpacked = Path(folder, path.name.removesuffix(".zstd"))
            with zstd.open(path, "rb") as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target)
            if is_compressed(unpacked):
                msg = f"{path} is compressed twice: unpack it once with `unzstd`"
                raise DataError(msg)
            self._inner = open_storage(unpacked)
            on_error.callback(self._inner.close)
            self._stack = on_error.pop_all()
        self.counts = self._inner.counts
        self.others = self._inner.others
        self.note = self._inner.note

    def messages(
        self, keys: Collection[TopicKey], from_ns: int | None = None
    ) -> Iterator[StoredMessage]:
        yield from self._inner.messages(keys, from_ns)

    def close(self) -> None:
        self._stack.close()


def _check_length(path: Path) -> None:
    """Compare a sqlite file with the length in its header; sqlite reads what is cut as zeros.

    Raises:
        DataError: the file is shorter.

    """
    with _readable(path), path.open("rb") as file:
        header = file.read(100)
        page_size, change, pages, valid_for = struct.unpack(">16xH6xII60xI4x", header)
        promised = pages * (65_536 if page_size == 1 else page_size)
        stated = change == valid_for  # else an old writer left the length out
    if stated and path.stat().st_size < promised:
        left = f"{path.stat().st_size} of {promised} bytes are left"
        whole = sqlite_remains.describe_remains(path)
        msg = f"{path} is cut off: {left}; {_REPAIR}; {whole}"
        raise DataError(msg)


def _check_profile(path: Path) -> None:
    with _readable(path), path.open("rb") as file:
        file.seek(len(_MCAP_MAGIC))
        _, length = struct.unpack("<B8xI", file.read(13))
        profile = file.read(min(length, _MAX_PROFILE)).decode()
    if profile != "ros2":
        msg = (
            f"{path} is an mcap file of profile {profile!r}, not 'ros2': its messages are not "
            "ROS 2 messages; record or convert it with rosbag2"
        )
        raise DataError(msg)


def _head(path: Path) -> bytes:
    with _readable(path), path.open("rb") as file:
        return file.read(16)


def _guarded(path: Path, items: Iterable[_Item]) -> Iterator[_Item]:
    """Yield the items, with damage on the way as DataError.

    Only the reading is guarded: an error of the consumer is not the bag's.
    """
    iterator = iter(items)
    while True:
        with _readable(path):
            item = next(iterator, None)
        if item is None:
            return
        yield item


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever damaged bytes raise into one sentence.

    Raises:
        DataError: the body failed on the file's content.

    """
    try:
        yield
    except _DAMAGE as error:
        msg = f"{path} is cut off, damaged or unreadable ({_brief(error)}): {_REPAIR}"
        raise DataError(msg) from error


def _brief(error: Exception) -> str:
    """Return an error as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
