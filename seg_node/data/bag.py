"""Reads the images of a rosbag2 without ROS: sqlite3, mcap, compressed, split, bare files.

A bag from the road is often imperfect. What cannot be read at all is a `DataError` that names
the bag and the fix; a message that cannot be read is skipped and counted in `skipped`; messages
that the index promises and the file does not deliver are told by `shortfall`. Nothing is silent.

Pixels are not decoded here: `image_conversion.message_to_frame` turns a message into a Frame.
Images, strings and diagnostics have looked alike in every ROS 2 release, so messages are decoded
with rosbags' own definitions: a bag without definitions, or with broken ones, reads the same.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
from functools import lru_cache
import hashlib
from pathlib import Path
import struct
import sys
from typing import Any, Literal, TYPE_CHECKING

from rosbags.serde import SerdeError
from rosbags.typesys import get_typestore, Stores

from seg_node.core.closing import Closing
from seg_node.core.types import DataError
from seg_node.data.bag_storage import (
    find_files,
    is_compressed,
    open_storage,
    Storage,
    StoredMessage,
    TopicKey,
    ZSTD_MAGIC,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rosbags.typesys.store import Typestore

_KINDS: dict[str, Literal["raw", "compressed"]] = {
    "sensor_msgs/msg/Image": "raw",
    "sensor_msgs/msg/CompressedImage": "compressed",
}
_HASH_CHUNK = 1 << 20
"""Bytes that `fingerprint` reads at a time."""


@dataclass(frozen=True)
class ImageTopic:
    """A topic with images.

    Attributes:
        name: the topic.
        kind: "raw" for `sensor_msgs/Image`, "compressed" for `sensor_msgs/CompressedImage`.
        count: messages that the bag promises.

    """

    name: str
    kind: Literal["raw", "compressed"]
    count: int


@dataclass(frozen=True)
class BagImage:
    """One message of a bag.

    Attributes:
        topic: where it was published.
        receive_ns: when the recorder received it, in nanoseconds.
        message: the message, with the fields of its ROS type; arrays are NumPy arrays.

    """

    topic: str
    receive_ns: int
    message: Any


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Return the definitions that messages are read and written with."""
    return get_typestore(Stores.ROS2_JAZZY)


class BagReader(Closing):
    """Reads a rosbag2 given as a folder or as a single .mcap, .db3 or .zstd file.

    Attributes:
        path: the bag.
        image_topics: topics with images, in the bag's order.
        topics: every readable topic and its type, in the bag's order.
        promised: messages per topic that metadata.yaml or the files' own index state.
        delivered: messages per topic that came out of the file in the latest read of it, the
            undecodable ones included.
        skipped: reason -> number of messages that came out of the file but cannot be decoded.
        damage: reasons why a file could not be read to its end.

    """

    def __init__(self, path: Path | str) -> None:
        """Open the bag and read its index; messages are read later, one by one.

        Raises:
            DataError: there is no bag, or it is empty, cut off, damaged, of ROS 1 or of
                another mcap profile.

        """
        self.path = Path(path)
        found = find_files(self.path)
        self._files = found.files
        self.delivered: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.damage: list[str] = []
        self._finished: set[str] = set()
        self._others: dict[str, str] = {}
        self._stored: Counter[TopicKey] = Counter()
        self._open: dict[Path, Storage] = {}
        with ExitStack() as on_error:
            on_error.callback(self.close)
            for file in self._files:
                # A compressed file is unpacked when its turn comes: one at a time on the disk.
                if not found.counts or not is_compressed(file):
                    self._open[file] = open_storage(file)
                    self._note_contents(self._open[file])
            on_error.pop_all()
        counts = {x: max(found.counts[x], self._stored[x]) for x in found.counts}
        self._counts = {**self._stored, **counts}
        self.promised: Counter[str] = Counter()
        for key, count in self._counts.items():
            self.promised[key.name] += count
        self.topics = tuple(x for x in self._counts if x.name not in self._others)
        self.image_topics = tuple(
            ImageTopic(x.name, _KINDS[x.msgtype], self._counts[x])
            for x in self.topics
            if x.msgtype in _KINDS
        )

    def choose(self, topic: str | None, besides: str | None = None) -> ImageTopic:
        """Return the image topic of this name, or the obvious one.

        Without a name it is the only topic with images. A camera that was recorded both raw
        and compressed counts once, as raw; depth pictures do not count next to others.

        Args:
            topic: name with or without its leading slash; None to choose.
            besides: name of an image topic that is not to be chosen, such as that of the masks.

        Raises:
            DataError: there is no such topic, it is empty, or the choice is not obvious; the
                text lists the candidates.

        """
        if topic is not None:
            wanted = "/" + topic.lstrip("/")
            chosen = next((x for x in self.image_topics if x.name in {topic, wanted}), None)
            if chosen is None:
                msg = f"bag {self.path} has no image topic {topic!r}; {self._candidates()}"
                raise DataError(msg)
            if chosen.count == 0:
                msg = f"topic {chosen.name} of bag {self.path} is empty; {self._candidates()}"
                raise DataError(msg)
            return chosen
        filled = [x for x in self.image_topics if x.count and x.name != besides]
        filled = [x for x in filled if not _is_depth(x.name)] or filled
        raw = {x.name for x in filled if x.kind == "raw"}
        cameras = [x for x in filled if x.kind == "raw" or x.name.rpartition("/")[0] not in raw]
        if len(cameras) != 1:
            why = (
                "has several image topics: choose one (--topic)"
                if cameras
                else "has no images to choose"
            )
            msg = f"bag {self.path} {why}; {self._candidates()}"
            raise DataError(msg)
        return cameras[0]

    def images(self, topics: Sequence[str], from_ns: int | None = None) -> Iterator[BagImage]:
        """Read image topics in the order of the recording. See `messages`.

        Args:
            topics: names as in `image_topics`.
            from_ns: leave out, unread, what was received before, in nanoseconds; `delivered`
                and `shortfall` then tell of the rest alone.

        Raises:
            DataError: a topic is not an image topic of this bag, or see `messages`.

        """
        known = {x.name for x in self.image_topics}
        for topic in topics:
            if topic not in known:
                msg = f"bag {self.path} has no image topic {topic!r}; {self._candidates()}"
                raise DataError(msg)
        keys = [x for x in self.topics if x.name in topics and x.msgtype in _KINDS]
        return self._read(keys, from_ns)

    def messages(self, topics: Sequence[str]) -> Iterator[BagImage]:
        """Read topics of any standard type, file after file, by receive time within a file.

        An undecodable message is counted in `skipped`. Damage on the way ends that file, is
        kept in `damage` and told by `shortfall`; the next file of a split bag is still read.

        Args:
            topics: names as in `topics`.

        Raises:
            DataError: a topic is missing or of an unknown type, or (while reading) damage left
                no message at all.

        """
        for topic in topics:
            types = {x.msgtype for x in self.topics if x.name == topic}
            if not types:
                msg = f"bag {self.path} has no topic {topic!r}; {self._candidates()}"
                raise DataError(msg)
            if unknown := types - typestore().fielddefs.keys():
                msg = f"topic {topic} of bag {self.path} has unknown type {sorted(unknown)}"
                raise DataError(msg)
        return self._read([x for x in self.topics if x.name in topics])

    def shortfall(self) -> str | None:
        """Tell what the bag promised and did not deliver, for topics read to the end."""
        reasons = [
            f"{name} delivered {self.delivered[name]} of {self.promised[name]} promised messages"
            for name in sorted(self._finished)
            if self.delivered[name] < self.promised[name]
        ]
        reasons += self.damage
        reasons += [x.note for x in self._open.values() if x.note]
        return f"bag {self.path}: {'; '.join(reasons)}" if reasons else None

    def fingerprint(self) -> str:
        """Return the SHA-256 over the bytes of the storage files, in hexadecimal.

        Raises:
            DataError: a file cannot be read.

        """
        digest = hashlib.sha256()
        try:
            for file in self._files:
                with file.open("rb") as stream:
                    while chunk := stream.read(_HASH_CHUNK):
                        digest.update(chunk)
        except OSError as error:
            msg = f"cannot read bag {self.path}: {error}"
            raise DataError(msg) from error
        return digest.hexdigest()

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def _note_contents(self, storage: Storage) -> None:
        self._stored.update(storage.counts)
        self._others.update(storage.others)

    def _candidates(self) -> str:
        if self.image_topics:
            listed = (f"{x.name} ({x.kind}, {x.count} messages)" for x in self.image_topics)
            return f"image topics: {', '.join(listed)}"
        others = [f"{x.name} ({x.msgtype})" for x in self.topics]
        others += [f"{name} (serialised as {how})" for name, how in self._others.items()]
        return f"it holds no image topic, only: {', '.join(others) or 'nothing'}"

    def _read(self, keys: Sequence[TopicKey], from_ns: int | None = None) -> Iterator[BagImage]:
        names = {x.name for x in keys}
        for name in names:
            self.delivered[name] = 0
        self._finished -= names
        damage_before = len(self.damage)
        for file in self._files:
            yield from self._read_file(file, keys, from_ns)
        self._finished |= names
        if len(self.damage) > damage_before and not any(self.delivered[x] for x in names):
            raise DataError(self.damage[damage_before])

    def _read_file(
        self, file: Path, keys: Sequence[TopicKey], from_ns: int | None
    ) -> Iterator[BagImage]:
        try:
            with self._storage(file) as storage:
                yield from self._decode_all(storage.messages(keys, from_ns))
        except DataError as error:
            self.damage.append(str(error))

    @contextmanager
    def _storage(self, file: Path) -> Iterator[Storage]:
        if file in self._open:
            yield self._open[file]
            return
        storage = open_storage(file)
        try:
            yield storage
        finally:
            storage.close()

    def _decode_all(self, stored: Iterable[StoredMessage]) -> Iterator[BagImage]:
        for item in stored:
            name = item.key.name
            self.delivered[name] += 1
            try:
                message = _decode(item)
            except _UNDECODABLE as error:
                self.skipped[f"undecodable message on {name} ({type(error).__name__})"] += 1
                continue
            yield BagImage(name, item.receive_ns, message)


def _is_depth(topic: str) -> bool:
    return "/depth/" in topic or topic.endswith("/compressedDepth")


_UNDECODABLE = (
    # rosbags wraps what it foresees in SerdeError; the others escape on hostile bytes.
    SerdeError,
    zstd.ZstdError,
    struct.error,
    ValueError,
    LookupError,
    AssertionError,
    MemoryError,
    OverflowError,
)


def _decode(item: StoredMessage) -> Any:
    data = item.data
    # Told by content, not by metadata.yaml: a bare file has none. CDR never starts like this.
    if data.startswith(ZSTD_MAGIC):
        data = zstd.decompress(data)
    return typestore().deserialize_cdr(data, item.key.msgtype)
