"""Bags that are not whole: each gives one clear error, or a count and a sentence."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from typing import Literal, TYPE_CHECKING

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from ruamel.yaml import YAML

from seg_node.core.types import DataError, ImageError
from seg_node.data.bag import BagReader, typestore
from seg_node.data.bag_writer import BagWriter
from seg_node.data.image_conversion import message_to_frame

if TYPE_CHECKING:
    from pathlib import Path

StorageName = Literal["mcap", "sqlite3"]
Compression = Literal["none", "file", "message", "chunk"]
COUNT = 12
TOPIC = "/cam"


def write_bag(
    path: Path, storage: StorageName = "mcap", compression: Compression = "none", side: int = 200
) -> Path:
    """Write COUNT noisy pictures that fill several chunks or pages."""
    rng = np.random.default_rng(1)
    with BagWriter(path, storage=storage, compression=compression) as writer:
        for index in range(COUNT):
            image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            writer.write_image(TOPIC, image, stamp_ns=1 + index, frame_id="")
    return path


def storage_file(bag: Path) -> Path:
    """Return the only storage file of a bag folder."""
    (file,) = (x for x in bag.iterdir() if x.name != "metadata.yaml")
    return file


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the bags `mcap` and `sqlite3`, to be copied and then damaged."""
    folder = tmp_path_factory.mktemp("originals")
    write_bag(folder / "mcap", "mcap")
    write_bag(folder / "sqlite3", "sqlite3")
    return folder


def change_metadata(bag: Path, **fields: object) -> None:
    """Replace fields of metadata.yaml."""
    path = bag / "metadata.yaml"
    data = YAML(typ="safe").load(path.read_text())
    data["rosbag2_bagfile_information"].update(fields)
    with path.open("w") as stream:
        YAML(typ="safe").dump(data, stream)


def refusal(path: Path) -> str:
    """Return the one-line error that opening or reading this bag must give."""
    with pytest.raises(DataError) as caught, BagReader(path) as bag:
        list(bag.images([bag.choose(None).name]))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.01, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("bare", [False, True])
def test_cut_off_files_are_refused(
    tmp_path: Path, originals: Path, storage: StorageName, kept: float, *, bare: bool
) -> None:
    """Wherever the file ends, the error names it and a fix."""
    file = storage_file(shutil.copytree(originals / storage, tmp_path / "bag"))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    text = refusal(file if bare else tmp_path / "bag")
    assert file.name in text
    assert "repair" in text or "give a rosbag2" in text


@pytest.mark.parametrize("lost", [1, 8, 20, 37, 60, 200, 400])
def test_an_mcap_that_lacks_its_last_bytes_is_refused(
    tmp_path: Path, originals: Path, lost: int
) -> None:
    """Cuts inside the footer and the index are cuts too."""
    file = storage_file(shutil.copytree(originals / "mcap", tmp_path / "bag"))
    file.write_bytes(file.read_bytes()[:-lost])
    assert "mcap.mcap" in refusal(file)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_cut_off_compressed_files_are_refused(
    tmp_path: Path, storage: StorageName, kept: float
) -> None:
    """The unpacking of a cut-off zstd file fails while reading, with the same error."""
    file = storage_file(write_bag(tmp_path / "bag", storage, "file", side=40))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    for path in (tmp_path / "bag", file):
        text = refusal(path)
        assert file.name in text
        assert "cut off" in text


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        ("mcap", "none"),
        ("mcap", "message"),
        ("mcap", "chunk"),
        ("sqlite3", "none"),
        ("sqlite3", "message"),
    ],
)
def test_damage_in_the_middle_never_goes_unnoticed(
    tmp_path: Path, storage: StorageName, compression: Compression
) -> None:
    """Overwritten bytes end in an error, a skip, a shortfall or (pixels only) other pixels."""
    file = storage_file(write_bag(tmp_path / "bag", storage, compression, side=10))
    intact = file.read_bytes()
    rng = np.random.default_rng(5)
    noticed = 0
    for _ in range(25):
        data = bytearray(intact)
        start = int(rng.integers(0, len(data) - 64))
        data[start : start + 64] = rng.bytes(64)
        file.write_bytes(data)
        noticed += damage_is_noticed(tmp_path / "bag")
    assert noticed > 2


def damage_is_noticed(path: Path) -> bool:
    """Read a bag of COUNT pictures; fail on a loss that nothing tells, or on a traceback."""
    try:
        with BagReader(path) as bag:
            images = list(bag.images([bag.choose(None).name]))
            told = bag.shortfall() is not None or bool(bag.skipped)
    except DataError:
        return True
    assert told or len(images) == COUNT
    return told


def test_metadata_that_promises_more_is_told(tmp_path: Path) -> None:
    """Both storages, also when files are compressed; the messages that exist are delivered."""
    for storage, compression in (("mcap", "none"), ("sqlite3", "message"), ("mcap", "file")):
        path = write_bag(tmp_path / f"{storage}_{compression}", storage, compression, side=4)  # type: ignore[arg-type]
        data = YAML(typ="safe").load((path / "metadata.yaml").read_text())
        topics = data["rosbag2_bagfile_information"]["topics_with_message_count"]
        topics[0]["message_count"] = COUNT + 5
        change_metadata(path, topics_with_message_count=topics)
        with BagReader(path) as bag:
            assert bag.shortfall() is None, "nothing has been read yet"
            assert len(list(bag.images([TOPIC]))) == COUNT
            assert bag.promised[TOPIC] == COUNT + 5
            assert f"/cam delivered {COUNT} of {COUNT + 5}" in (bag.shortfall() or "")


def test_an_mcap_without_message_index_is_told(tmp_path: Path) -> None:
    """Chunks that no message index describes are silently skipped by rosbags."""
    file = storage_file(write_bag(tmp_path / "bag"))
    data = bytearray(file.read_bytes())
    summary = struct.unpack("<Q", data[-28:-20])[0]
    emptied = 0
    while data[summary] != 0x0B:
        opcode, length = struct.unpack("<BQ", data[summary : summary + 9])
        if opcode == 0x08:
            # Channel 1 of the chunk's message index offsets becomes an unknown channel.
            data[summary + 9 + 36 : summary + 9 + 38] = struct.pack("<H", 77)
            emptied += 1
        summary += 9 + length
    assert emptied > 1
    file.write_bytes(data)
    with BagReader(file) as bag:
        assert not list(bag.images([TOPIC]))
        assert f"/cam delivered 0 of {COUNT} promised" in (bag.shortfall() or "")


def test_a_damaged_part_of_a_split_bag_costs_only_itself(tmp_path: Path) -> None:
    """The other parts are read, and the sentence names the damaged file."""
    path = write_bag(tmp_path / "one", compression="file", side=30)
    second = storage_file(write_bag(tmp_path / "two", compression="file", side=30))
    second = second.rename(path / second.name)
    change_metadata(path, relative_file_paths=["two.mcap.zstd", "one.mcap.zstd"])
    second.write_bytes(second.read_bytes()[:-100])
    with BagReader(path) as bag:
        assert len(list(bag.images([TOPIC]))) == COUNT
        assert "two.mcap.zstd" in (bag.shortfall() or "")
        assert len(bag.damage) == 1


def test_metadata_problems(tmp_path: Path) -> None:
    """Missing, unreadable and incomplete metadata each name the fix."""
    path = write_bag(tmp_path / "bag", side=4)
    meta = path / "metadata.yaml"
    text = meta.read_text()
    change_metadata(path, relative_file_paths=["bag.mcap", "lost.mcap"])
    assert "lists 'lost.mcap', which is missing" in refusal(path)
    for broken in (
        "",
        "{",
        "just text",
        "rosbag2_bagfile_information: 3",
        text.replace("name", "nome"),
    ):
        meta.write_text(broken)
        assert "ros2 bag reindex" in refusal(path)
    meta.write_bytes(b"\xff\xfe\x00")
    assert "metadata.yaml" in refusal(path)
    meta.unlink()
    assert "metadata.yaml is missing" in refusal(path)
    assert "give one of its files instead (bag.mcap)" in refusal(path)


def test_things_that_are_no_bag(tmp_path: Path) -> None:
    """Nothing, an empty folder, an empty file and a text file are told apart."""
    assert "does not exist" in refusal(tmp_path / "gone")
    (tmp_path / "folder").mkdir()
    assert "holds no bag file" in refusal(tmp_path / "folder")
    (tmp_path / "empty.mcap").write_bytes(b"")
    assert "is empty (0 bytes)" in refusal(tmp_path / "empty.mcap")
    (tmp_path / "notes.db3").write_text("not a database, but long enough to look like one")
    assert "neither an mcap nor a sqlite3" in refusal(tmp_path / "notes.db3")
    with sqlite3.connect(tmp_path / "other.db3") as database:
        database.execute("CREATE TABLE messages(id INTEGER)")
    database.close()
    assert "other.db3" in refusal(tmp_path / "other.db3")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compression", ["none", "file", "message"])
def test_an_empty_bag(tmp_path: Path, storage: StorageName, compression: Compression) -> None:
    """A recording of nothing can be opened, and then there is nothing to choose."""
    with BagWriter(tmp_path / "bag", storage=storage, compression=compression):
        pass
    assert "it holds no image topic, only: nothing" in refusal(tmp_path / "bag")


def test_an_empty_topic(tmp_path: Path) -> None:
    """A topic that was recorded without a message says so."""
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection(TOPIC, "sensor_msgs/msg/Image", typestore=typestore())
    with BagReader(tmp_path / "bag") as bag:
        with pytest.raises(DataError, match=r"no images to choose.*/cam \(raw, 0 messages\)"):
            bag.choose(None)
        with pytest.raises(DataError, match=r"topic /cam of bag .* is empty"):
            bag.choose(TOPIC)


def test_a_bag_without_images_lists_what_it_holds(tmp_path: Path) -> None:
    """The user sees that this is the wrong bag."""
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_string("/chatter", "hello", receive_ns=1)
    assert "only: /chatter (std_msgs/msg/String)" in refusal(tmp_path / "bag")


def mcap_of(profile: str, schema_encoding: str = "", message_encoding: str = "") -> bytes:
    """Return a minimal mcap file with one channel and no message."""

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value)) + value.encode()

    def record(opcode: int, body: bytes) -> bytes:
        return struct.pack("<BQ", opcode, len(body)) + body

    schema = struct.pack("<H", 1) + text("foxglove.Image") + text(schema_encoding) + text("x")
    channel = struct.pack("<HH", 1, 1) + text(TOPIC) + text(message_encoding) + text("")
    records = record(1, text(profile) + text("test"))
    if schema_encoding or message_encoding:
        records += record(3, schema) + record(4, channel)
    magic = b"\x89MCAP0\r\n"
    return magic + records + record(15, bytes(4)) + record(2, bytes(20)) + magic


def test_an_mcap_of_another_profile(tmp_path: Path) -> None:
    """ROS 1, Foxglove and unnamed profiles are named and refused."""
    for profile in ("ros1", "", "x-jsonschema"):
        path = tmp_path / "other.mcap"
        path.write_bytes(mcap_of(profile))
        assert f"profile {profile!r}, not 'ros2'" in refusal(path)
    path.write_bytes(mcap_of("ros2", "protobuf", "protobuf"))
    assert "schema encoding 'protobuf'" in refusal(path)
    path.write_bytes(mcap_of("ros2", "ros2msg", "json"))
    assert "only: /cam (serialised as json)" in refusal(path)


def test_a_ros1_bag(tmp_path: Path) -> None:
    """The error names the converter, for the file and for a folder of such files."""
    store = get_typestore(Stores.ROS1_NOETIC)
    (tmp_path / "old").mkdir()
    path = tmp_path / "old" / "old.bag"
    with Ros1Writer(path) as writer:
        connection = writer.add_connection("/s", "std_msgs/msg/String", typestore=store)
        message = store.types["std_msgs/msg/String"](data="x")
        data = store.serialize_ros1(message, "std_msgs/msg/String")
        writer.write(connection, 1, data)
    assert "rosbags-convert --src" in refusal(path)
    assert "old.bag is a ROS 1 bag" in refusal(tmp_path / "old")


def test_malformed_messages_are_counted(tmp_path: Path) -> None:
    """Broken CDR and broken zstd frames are skips with a reason; the rest is delivered."""
    with BagReader(write_bag(tmp_path / "source", side=4)) as source:
        message = next(source.images([TOPIC])).message
    good = bytes(typestore().serialize_cdr(message, "sensor_msgs/msg/Image"))
    broken = [
        b"",
        b"\0\1",
        b"\x07\x07\0\0" + good[4:],
        good[:20],
        good[:-8],
        good + bytes(50),
        good[:4] + b"\xff" * (len(good) - 4),
        b"\x28\xb5\x2f\xfdnot zstd",
    ]
    for plugin in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        path = tmp_path / plugin.name
        with Writer(path, version=9, storage_plugin=plugin) as writer:
            topic = writer.add_connection(TOPIC, "sensor_msgs/msg/Image", typestore=typestore())
            for index, data in enumerate([good, *broken, good]):
                writer.write(topic, index, data)
        with BagReader(path) as bag:
            assert [x.receive_ns for x in bag.images([TOPIC])] == [0, len(broken) + 1]
            assert bag.skipped.total() == len(broken)
            assert all(TOPIC in reason for reason in bag.skipped)
            assert bag.shortfall() is None, "the file delivered what it promised"


def test_malformed_images_reach_the_conversion(tmp_path: Path) -> None:
    """An image that lies about itself is decodable here, and an ImageError there."""
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_image(
            TOPIC, np.zeros((4, 4), np.uint8), stamp_ns=1, frame_id="", encoding="rgb8"
        )
    with BagReader(tmp_path / "bag") as bag:
        (item,) = bag.images([TOPIC])
    with pytest.raises(ImageError, match="/cam"):
        message_to_frame(item.message, topic=item.topic)
