"""Bags that are whole: every storage and compression, split, several cameras, odd names."""

from __future__ import annotations

import sqlite3
from typing import Literal, TYPE_CHECKING

import numpy as np
import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from ruamel.yaml import YAML

from seg_node.core.types import DataError
from seg_node.data.bag import BagReader, ImageTopic, typestore
from seg_node.data.bag_writer import BagWriter
from seg_node.data.image_conversion import message_to_frame

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

StorageName = Literal["mcap", "sqlite3"]
Compression = Literal["none", "file", "message", "chunk"]

KINDS: list[tuple[StorageName, Compression]] = [
    ("mcap", "none"),
    ("mcap", "file"),
    ("mcap", "message"),
    ("mcap", "chunk"),
    ("sqlite3", "none"),
    ("sqlite3", "file"),
    ("sqlite3", "message"),
]
NAMES = ["plain", "two words", "prüfung 猫", "100% #1?", "a.b.db3", "x.mcap"]


def picture(index: int) -> NDArray[np.uint8]:
    """Return a small picture with one marked pixel and its index in the corner."""
    image = np.zeros((6, 8, 3), np.uint8)
    image[0, 0] = index
    image[2, 5] = (200, 100, 50)
    return image


def write_bag(
    path: Path,
    storage: StorageName = "mcap",
    compression: Compression = "none",
    count: int = 5,
    topic: str = "/cam/image_raw",
) -> Path:
    """Write `count` pictures, 0.1 s apart, from second 1 on."""
    with BagWriter(path, storage=storage, compression=compression) as writer:
        for index in range(count):
            stamp_ns = 1_000_000_000 + index * 100_000_000
            writer.write_image(
                topic, picture(index), stamp_ns=stamp_ns, frame_id="cam", receive_ns=stamp_ns + 7
            )
    return path


def storage_file(bag: Path) -> Path:
    """Return the only storage file of a bag folder."""
    (file,) = (x for x in bag.iterdir() if x.name != "metadata.yaml")
    return file


def read_indices(path: Path, topics: tuple[str, ...] = ("/cam/image_raw",)) -> list[int]:
    """Return the indices in the corners of the pictures of a bag that must be whole."""
    with BagReader(path) as bag:
        found = [int(x.message.data[0]) for x in bag.images(topics)]
        assert bag.shortfall() is None
        assert not bag.skipped
    return found


@pytest.mark.parametrize(("storage", "compression"), KINDS)
def test_images_survive(tmp_path: Path, storage: StorageName, compression: Compression) -> None:
    """Pixels, stamps, receive times and frame ids come back from every kind of bag."""
    path = write_bag(tmp_path / "bag", storage, compression)
    with BagReader(path) as bag:
        assert bag.image_topics == (ImageTopic("/cam/image_raw", "raw", 5),)
        items = list(bag.images(["/cam/image_raw"]))
        assert bag.promised == bag.delivered == {"/cam/image_raw": 5}
        assert bag.shortfall() is None
    frames = [message_to_frame(x.message, topic=x.topic, camera="c") for x in items]
    assert [x.stamp_ns for x in frames] == [1_000_000_000 + i * 100_000_000 for i in range(5)]
    assert [x.receive_ns for x in items] == [x.stamp_ns + 7 for x in frames]
    assert {x.frame_id for x in frames} == {"cam"}
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, picture(index))


@pytest.mark.parametrize(("storage", "compression"), KINDS)
def test_a_bare_file_reads_like_its_bag(
    tmp_path: Path, storage: StorageName, compression: Compression
) -> None:
    """metadata.yaml is not needed, whatever the file is called."""
    file = storage_file(write_bag(tmp_path / "bag", storage, compression))
    assert read_indices(file) == [0, 1, 2, 3, 4]
    moved = file.rename(tmp_path / "some recording")
    assert read_indices(moved) == [0, 1, 2, 3, 4]
    assert [x.name for x in tmp_path.glob("some*")] == ["some recording"], "nothing left behind"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_names(tmp_path: Path, name: str, storage: StorageName) -> None:
    """A folder may have any name, and so may the file in it."""
    if storage == "sqlite3" and set(name) & set("#?%"):
        with pytest.raises(DataError, match="use mcap"):
            BagWriter(tmp_path / name, storage=storage)
        assert not list(tmp_path.iterdir())
        write_bag(tmp_path / "written", storage)
        storage_file(tmp_path / "written").rename(tmp_path / f"{name}.db3")
        assert read_indices(tmp_path / f"{name}.db3") == [0, 1, 2, 3, 4]
        (tmp_path / "written").rename(tmp_path / name)
        (tmp_path / f"{name}.db3").rename(tmp_path / name / "written.db3")
    else:
        write_bag(tmp_path / name, storage)
    assert read_indices(tmp_path / name) == [0, 1, 2, 3, 4]
    assert read_indices(tmp_path / name / "metadata.yaml") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("compression", ["none", "file", "message"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_split_bags(tmp_path: Path, storage: StorageName, compression: Compression) -> None:
    """The parts are read one after the other, and the counts are those of the whole."""
    write_split(tmp_path, storage, compression)
    with BagReader(tmp_path / "one") as bag:
        assert bag.choose(None).count == 7
    assert read_indices(tmp_path / "one") == [0, 1, 2, 3, 4, 0, 1]


def write_split(
    folder: Path, storage: StorageName = "mcap", compression: Compression = "none"
) -> Path:
    """Write a bag `one` of two files with 5 and 2 pictures; return the second file."""
    first = write_bag(folder / "one", storage, compression)
    second = storage_file(write_bag(folder / "two", storage, compression, count=2))
    moved = second.rename(first / second.name)
    edit_metadata(first, count=7, files=[storage_file_name(first, "one"), moved.name])
    return moved


def storage_file_name(bag: Path, stem: str) -> str:
    """Return the name of the storage file that starts with this stem."""
    return next(x.name for x in bag.iterdir() if x.name.startswith(stem))


def edit_metadata(bag: Path, *, count: int, files: list[str] | None = None) -> None:
    """State another number of messages, or other files, for a bag of one topic."""
    path = bag / "metadata.yaml"
    data = YAML(typ="safe").load(path.read_text())
    info = data["rosbag2_bagfile_information"]
    info["message_count"] = info["topics_with_message_count"][0]["message_count"] = count
    if files is not None:
        info["relative_file_paths"] = files
    with path.open("w") as stream:
        YAML(typ="safe").dump(data, stream)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_cameras_interleave_by_receive_time(tmp_path: Path, storage: StorageName) -> None:
    """Order is that of the log, not of the arguments; a subset leaves the others out."""
    with BagWriter(tmp_path / "bag", storage=storage) as writer:
        for index in range(6):
            topic = ("/left", "/right", "/rear")[index % 3]
            writer.write_image(topic, picture(index), stamp_ns=10 + index, frame_id=topic)
        writer.write_string("/legend", "{}", receive_ns=12)
    with BagReader(tmp_path / "bag") as bag:
        names = [x.topic for x in bag.images(["/rear", "/left", "/right"])]
        assert names == ["/left", "/right", "/rear"] * 2
    assert read_indices(tmp_path / "bag", ("/rear", "/left")) == [0, 2, 3, 5]


def test_out_of_order_writing_is_read_by_receive_time(tmp_path: Path) -> None:
    """A late message takes its place in time, in both storages."""
    for storage in ("mcap", "sqlite3"):
        with BagWriter(tmp_path / storage, storage=storage) as writer:
            for index in (0, 2, 1, 3):
                writer.write_image("/c", picture(index), stamp_ns=5 + index, frame_id="")
        assert read_indices(tmp_path / storage, ("/c",)) == [0, 1, 2, 3]


def test_compressed_images_and_masks(tmp_path: Path) -> None:
    """JPEG bytes, mono8 and mono16 come back as they were written."""
    depth = np.array([[1, 256], [40000, 65535]], np.uint16)
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_compressed("/c/compressed", b"\xff\xd8abc", "jpeg", stamp_ns=1, frame_id="f")
        writer.write_image("/mask", np.eye(3, dtype=np.uint8), stamp_ns=2, frame_id="f")
        writer.write_image("/age", depth, stamp_ns=3, frame_id="f")
        writer.write_image("/b", picture(1), stamp_ns=4, frame_id="f", encoding="bgr8")
        writer.write_image("/odd", picture(1)[::2, ::-2], stamp_ns=5, frame_id="f")
    with BagReader(tmp_path / "bag") as bag:
        kinds = {x.name: x.kind for x in bag.image_topics}
        messages = {x.topic: x.message for x in bag.images(list(kinds))}
    assert kinds["/c/compressed"] == "compressed"
    assert kinds["/mask"] == "raw"
    assert messages["/c/compressed"].data.tobytes() == b"\xff\xd8abc"
    assert messages["/c/compressed"].format == "jpeg"
    assert (messages["/mask"].encoding, messages["/mask"].step) == ("mono8", 3)
    assert (messages["/age"].encoding, messages["/age"].step) == ("mono16", 4)
    assert messages["/age"].data.view("<u2").tolist() == depth.ravel().tolist()
    assert messages["/b"].encoding == "bgr8"
    np.testing.assert_array_equal(messages["/odd"].data.reshape(3, 4, 3), picture(1)[::2, ::-2])


def test_strings_and_diagnostics(tmp_path: Path) -> None:
    """Other standard types are written and read; the legend is offered as latched."""
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_string("/legend", "sky", receive_ns=5, latched=True)
        writer.write_diagnostics("/stats", "seg", "gpu", 1, "slow", {"ms": "12"}, stamp_ns=6)
    with BagReader(tmp_path / "bag") as bag:
        first, second = bag.messages(["/legend", "/stats"])
    assert (first.receive_ns, first.message.data) == (5, "sky")
    (status,) = second.message.status
    assert (status.name, status.hardware_id, status.message) == ("seg", "gpu", "slow")
    assert int(status.level) == 1
    assert [(x.key, x.value) for x in status.values] == [("ms", "12")]
    with Reader(tmp_path / "bag") as reader:
        profiles = {x.topic: len(x.ext.offered_qos_profiles) for x in reader.connections}  # type: ignore[union-attr]
    assert profiles == {"/legend": 1, "/stats": 0}


@pytest.mark.parametrize(("storage", "compression"), KINDS)
def test_rosbags_reads_what_we_write(
    tmp_path: Path, storage: StorageName, compression: Compression
) -> None:
    """An independent reader finds every message."""
    with Reader(write_bag(tmp_path / "bag", storage, compression)) as reader:
        assert [x[1] for x in reader.messages()] == [
            1_000_000_007 + i * 100_000_000 for i in range(5)
        ]


@pytest.mark.parametrize(("storage", "compression"), KINDS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_bag_survives_an_exception(
    tmp_path: Path, storage: StorageName, compression: Compression, error: type[BaseException]
) -> None:
    """Whatever ends the loop, what was written can be read."""
    path = tmp_path / "bag"

    def record() -> None:
        with BagWriter(path, storage=storage, compression=compression) as writer:
            for index in range(3):
                writer.write_image("/c", picture(index), stamp_ns=1 + index, frame_id="")
            raise error

    with pytest.raises(error):
        record()
    assert read_indices(path, ("/c",)) == [0, 1, 2]


def test_writer_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    """Every refusal names the value; the bag stays usable."""
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_image("/c", picture(0), stamp_ns=1, frame_id="")
        with pytest.raises(DataError, match="float64"):
            writer.write_image("/c", np.zeros((2, 2)), stamp_ns=1, frame_id="")
        with pytest.raises(DataError, match=r"\[2, 2, 4\]"):
            writer.write_image("/c", np.zeros((2, 2, 4), np.uint8), stamp_ns=1, frame_id="")
        with pytest.raises(DataError, match="out of range"):
            writer.write_image("/c", picture(0), stamp_ns=-1, frame_id="")
        with pytest.raises(DataError, match="out of range"):
            writer.write_image("/c", picture(0), stamp_ns=1, frame_id="", receive_ns=-1)
        with pytest.raises(DataError, match="does not fit"):
            writer.write_diagnostics("/d", "n", "h", 300, "m", {}, stamp_ns=1)
        with pytest.raises(DataError, match="another topic"):
            writer.write_string("/c", "text", receive_ns=1)
    with pytest.raises(DataError, match="closed"):
        writer.write_image("/c", picture(0), stamp_ns=1, frame_id="")
    writer.close()
    assert read_indices(tmp_path / "bag", ("/c",)) == [0]
    with pytest.raises(DataError, match="exists"):
        BagWriter(tmp_path / "bag")
    with pytest.raises(DataError, match="no chunks"):
        BagWriter(tmp_path / "new", storage="sqlite3", compression="chunk")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write bag"):
        BagWriter(tmp_path / "file" / "bag")


def test_choose(tmp_path: Path) -> None:
    """Without a name the obvious topic is taken; otherwise the candidates are listed."""
    path = tmp_path / "bag"
    with BagWriter(path) as writer:
        for topic in ("/cam/image_raw", "/cam/depth/image_raw"):
            writer.write_image(topic, picture(0), stamp_ns=1, frame_id="")
        writer.write_compressed("/cam/image_raw/compressed", b"x", "jpeg", stamp_ns=1, frame_id="")
        writer.write_string("/legend", "{}", receive_ns=2)
    with BagReader(path) as bag:
        assert bag.choose(None).name == "/cam/image_raw"
        assert bag.choose("cam/depth/image_raw").name == "/cam/depth/image_raw"
        assert bag.choose("/cam/image_raw/compressed").kind == "compressed"
        for topic in ("/front", "/legend"):
            with pytest.raises(DataError, match=topic) as caught:
                bag.choose(topic)
            assert "/cam/image_raw (raw, 1 messages)" in str(caught.value)
        with pytest.raises(DataError, match="image topics"):
            bag.images(["/front"])
        with pytest.raises(DataError, match="/front"):
            bag.messages(["/front"])


def test_choose_between_cameras_is_left_to_the_user(tmp_path: Path) -> None:
    """Two cameras are no obvious choice; one camera is, also a depth one."""
    with BagWriter(tmp_path / "two") as writer:
        writer.write_image("/left", picture(0), stamp_ns=1, frame_id="")
        writer.write_image("/right", picture(0), stamp_ns=1, frame_id="")
    with (
        BagReader(tmp_path / "two") as bag,
        pytest.raises(
            DataError, match=r"one \(--topic\); image topics: /left .*, /right \(raw, 1"
        ),
    ):
        bag.choose(None)
    with BagReader(write_bag(tmp_path / "depth", topic="/c/depth/image")) as bag:
        assert bag.choose(None).name == "/c/depth/image"


def test_fingerprint_is_of_the_bytes(tmp_path: Path) -> None:
    """The same storage file has the same fingerprint, wherever it lies."""
    path = write_split(tmp_path).parent
    with BagReader(path) as bag:
        whole = bag.fingerprint()
    path.rename(tmp_path / "moved")
    with BagReader(tmp_path / "moved") as bag:
        assert bag.fingerprint() == whole
    with BagReader(tmp_path / "moved" / "one.mcap") as bag:
        assert bag.fingerprint() != whole


def test_images_are_read_lazily(tmp_path: Path) -> None:
    """The first image does not wait for the last: nothing else has been delivered."""
    with BagReader(write_bag(tmp_path / "bag")) as bag:
        images = bag.images(["/cam/image_raw"])
        next(images)
        assert bag.delivered["/cam/image_raw"] == 1
        assert bag.shortfall() is None, "stopping early is not a shortfall of the bag"
        assert len(list(bag.images(["/cam/image_raw"]))) == 5, "a second pass starts over"


def test_other_topics_do_not_matter(tmp_path: Path) -> None:
    """Custom types, types without definition and broken ones leave the images readable."""
    for plugin in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        path = tmp_path / plugin.name
        with Writer(path, version=9, storage_plugin=plugin) as writer:
            for topic, definition in (("/a", "float32 x"), ("/b", ""), ("/c", "no grammar ¿")):
                msgtype = f"my_msgs/msg/Thing{topic[1:].upper()}"
                other = writer.add_connection(topic, msgtype, msgdef=definition, rihs01="RIHS01_x")
                writer.write(other, 1, b"\0\1\0\0\xff")
            image = writer.add_connection("/i", "sensor_msgs/msg/Image", typestore=typestore())
            source = BagReader(write_bag(tmp_path / f"{plugin.name}_source", count=1))
            with source:
                message = next(source.images(["/cam/image_raw"])).message
            data = typestore().serialize_cdr(message, "sensor_msgs/msg/Image")
            writer.write(image, 2, data)
        assert read_indices(path, ("/i",)) == [0]
        with BagReader(path) as bag:
            assert bag.choose(None).name == "/i"
            with pytest.raises(DataError, match="ThingA"):
                bag.messages(["/a"])


def test_sqlite_topics_of_unknown_definition_do_not_matter(tmp_path: Path) -> None:
    """A type that rosbag2 cannot find gets the encoding 'unknown'; rosbags 0.11 fails on it."""
    path = write_bag(tmp_path / "bag", "sqlite3")
    with sqlite3.connect(path / "bag.db3") as database:
        database.execute("UPDATE message_definitions SET encoding = 'unknown'")
    database.close()
    assert read_indices(path) == [0, 1, 2, 3, 4]


def test_sqlite_log_is_read(tmp_path: Path) -> None:
    """Messages that still lie in the write-ahead log of a killed recorder are not lost."""
    file = storage_file(write_bag(tmp_path / "bag", "sqlite3"))
    recorder = sqlite3.connect(file)
    recorder.execute("PRAGMA journal_mode = WAL")
    recorder.execute("PRAGMA wal_autocheckpoint = 0")
    recorder.execute(
        "INSERT INTO messages SELECT 6, topic_id, timestamp, data FROM messages LIMIT 1"
    )
    recorder.commit()
    assert sorted(read_indices(file)) == [0, 0, 1, 2, 3, 4]
    recorder.close()


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_quality_of_service_in_metadata_does_not_matter(
    tmp_path: Path, storage: StorageName
) -> None:
    """A reindexed bag has other profiles in metadata.yaml; rosbags 0.11 then yields nothing."""
    with BagWriter(tmp_path / "bag", storage=storage) as writer:
        writer.write_string("/legend", "{}", receive_ns=2, latched=True)
    meta = tmp_path / "bag" / "metadata.yaml"
    data = YAML(typ="safe").load(meta.read_text())
    topics = data["rosbag2_bagfile_information"]["topics_with_message_count"]
    topics[0]["topic_metadata"]["offered_qos_profiles"] = ""
    with meta.open("w") as stream:
        YAML(typ="safe").dump(data, stream)
    with BagReader(tmp_path / "bag") as bag:
        assert [x.message.data for x in bag.messages(["/legend"])] == ["{}"]
        assert bag.shortfall() is None
