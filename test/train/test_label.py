"""Pseudo-labels: the folder that `label` writes, and what it keeps, skips and refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.cli import build_parser, main
from seg_node.core.types import ConfigError, DataError
from seg_node.data.bag_writer import BagWriter
from seg_node.data.compressed_images import encode_png
from seg_node.data.datasets import open_source
from seg_node.data.video import VideoReader, VideoWriter
from seg_node.train.arguments import label_request
from seg_node.train.label import confident_labels, label_data, LabelRequest
from test.train.samples import halves

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from seg_node.core.types import Frame

IMAGE = halves(1)[0].image


def write_pictures(root: Path, count: int = 3) -> LabelRequest:
    """Write pictures and return the request to label them."""
    (root / "data").mkdir(parents=True)
    for index in range(count):
        (root / "data" / f"{index}.png").write_bytes(encode_png(IMAGE))
    return LabelRequest(
        f"folder:{root / 'data'}", ("swiftnet18-half",), root / "out", (0.5,), confidence=0.0
    )


def write_video(path: Path, count: int) -> str:
    with VideoWriter(path, 10.0) as writer:
        for _ in range(count):
            writer.write(IMAGE)
    return f"video:{path}"


def write_bag(path: Path, first_ns: int, topic: str = "/camera") -> str:
    with BagWriter(path) as writer:
        for index in range(2):
            now = first_ns + index * 10**8
            writer.write_image(topic, IMAGE, stamp_ns=now, frame_id="front", receive_ns=now)
    return f"bag:{path}"


@pytest.mark.usefixtures("trained")
def test_pseudo_labels_make_a_folder_to_train_on(tmp_path: Path) -> None:
    request = write_pictures(tmp_path)
    done: list[int] = []
    report = label_data(request, done.append)
    assert (report.frames, report.kept, report.skipped) == (3, 0, {})
    assert done == [1, 2, 3]
    assert sum(report.shares.values()) == pytest.approx(1.0)
    assert report.shares["void"] == 0.0
    made = list(open_source(f"folder:{tmp_path / 'out'}"))
    assert made[0].labels is not None
    assert made[0].labels.shape == (80, 96)
    assert open_source(f"folder:{tmp_path / 'out'}").classes[3].name == "Road"
    (tmp_path / "out" / "labels" / "2.png").unlink()
    again = label_data(request)
    assert (again.frames, again.kept) == (1, 2)


def test_unsure_pixels_stay_void_and_sure_ones_lie_right() -> None:
    soft = np.zeros((12, 16, 3), np.uint8)
    soft[:, :8] = (230, 25, 0)
    soft[:, 8:] = (100, 20, 135)
    labels = confident_labels(soft, (45, 62), 0.8)
    assert labels.shape == (45, 62)
    assert (labels[:, :30] == 0).all()
    assert (labels[:, 34:] == 255).all()
    assert (confident_labels(soft, (45, 62), 0.5)[:, 34:] == 2).all()


@pytest.mark.usefixtures("trained")
def test_labels_of_other_classes_are_not_mixed(tmp_path: Path) -> None:
    request = write_pictures(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "classes.csv").write_text("id,name,r,g,b\n0,soil,1,2,3\n")
    with pytest.raises(DataError, match=r"classes.csv names other classes than the model"):
        label_data(request)


@pytest.mark.usefixtures("trained")
def test_a_video_is_labelled_while_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    frames = VideoReader.frames

    def counted(self: VideoReader) -> Iterator[Frame]:
        for frame in frames(self):
            decoded.append(frame.stamp_ns)
            yield frame

    monkeypatch.setattr(VideoReader, "frames", counted)
    data = write_video(tmp_path / "drive.mp4", 6)
    request = replace(write_pictures(tmp_path), data=data, stride=2)
    seen: list[int] = []
    report = label_data(request, lambda _: seen.append(len(decoded)))
    assert report.frames == 3
    assert seen == [1, 3, 5]
    assert label_data(replace(request, stride=1)).kept == 3


@pytest.mark.usefixtures("trained")
def test_what_is_labelled_is_not_read_again(tmp_path: Path) -> None:
    request = write_pictures(tmp_path)
    label_data(request)
    for path in (tmp_path / "data").iterdir():
        path.write_bytes(b"")
    again = label_data(request)
    assert (again.frames, again.kept, again.skipped) == (0, 3, {})


@pytest.mark.usefixtures("trained")
def test_a_damaged_image_is_skipped_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = write_pictures(tmp_path)
    damaged = tmp_path / "data" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    words = ["label", request.data, "--out", str(request.out), "--scales", "0.5"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert told.startswith("2 frames labelled, 0 were there")
    assert f"skipped 1 x: {damaged} is not a readable picture" in told
    assert [path.stem for path in sorted((request.out / "labels").iterdir())] == ["0", "2"]


@pytest.mark.usefixtures("trained")
def test_what_a_damaged_video_or_bag_lacks_is_told(tmp_path: Path) -> None:
    request = write_pictures(tmp_path)
    video = write_video(tmp_path / "drive.mp4", 30)
    content = (tmp_path / "drive.mp4").read_bytes()
    (tmp_path / "drive.mp4").write_bytes(content[:-20])
    report = label_data(replace(request, data=video, stride=10))
    assert report.skipped["damaged frame of the video"] >= 1
    bag = write_bag(tmp_path / "drive", 10**9)
    told = tmp_path / "drive" / "metadata.yaml"
    told.write_text(told.read_text().replace("message_count: 2", "message_count: 5"))
    report = label_data(replace(request, data=bag, out=tmp_path / "bag_out"))
    assert (report.frames, report.skipped) == (
        2,
        {f"image that {bag} promises and does not deliver": 3},
    )


@pytest.mark.usefixtures("trained")
def test_nothing_readable_is_an_error_with_the_reason(tmp_path: Path) -> None:
    request = write_pictures(tmp_path, 1)
    (tmp_path / "data" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"has no frame to label: 1 x .*0\.png"):
        label_data(request)


@pytest.mark.usefixtures("trained")
def test_frames_of_two_recordings_are_not_mixed(tmp_path: Path) -> None:
    # The same name, as recordings of two days have it, and frames of the same names.
    monday = write_bag(tmp_path / "monday" / "drive", 10**9)
    tuesday = write_bag(tmp_path / "tuesday" / "drive", 2 * 10**9)
    request = replace(write_pictures(tmp_path), data=monday)
    assert label_data(request).frames == 2
    with pytest.raises(DataError, match=r"out holds frames of 'content: .*choose another --out"):
        label_data(replace(request, data=tuesday))
    (tmp_path / "monday").rename(tmp_path / "archive")
    moved = f"bag:{tmp_path / 'archive' / 'drive'}"
    assert label_data(replace(request, data=moved, topic="/camera")).kept == 2


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scales": (1.0,)}, r"'scales: 0.5', not of 'scales: 1.0'"),
        ({"confidence": 0.5}, r"'confidence: 0.0', not of 'confidence: 0.5'"),
        ({"split": "test"}, r"'split: train', not of 'split: test'"),
    ],
)
def test_labels_made_in_another_way_are_not_mixed(
    tmp_path: Path, change: dict[str, object], text: str
) -> None:
    request = write_pictures(tmp_path, 1)
    label_data(request)
    with pytest.raises(DataError, match=text):
        label_data(replace(request, **change))  # type: ignore[arg-type]  # one field of any type


@pytest.mark.usefixtures("trained")
def test_a_users_own_folder_is_not_written_into(tmp_path: Path) -> None:
    request = write_pictures(tmp_path, 1)
    with pytest.raises(DataError, match="data is the folder of the data"):
        label_data(replace(request, out=tmp_path / "data"))
    (tmp_path / "mine" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="mine holds pictures of unknown origin"):
        label_data(replace(request, out=tmp_path / "mine"))
    assert not list((tmp_path / "mine" / "images").iterdir())


@pytest.mark.usefixtures("trained")
def test_a_topic_of_what_has_none_is_refused(tmp_path: Path) -> None:
    request = write_pictures(tmp_path, 1)
    with pytest.raises(DataError, match="has no topics"):
        label_data(replace(request, topic="/camera"))


@pytest.mark.parametrize("flag", ["--image", "--topic"])
def test_the_image_topic_has_two_flags(tmp_path: Path, flag: str) -> None:
    words = ["label", str(tmp_path), "--out", "x", flag, "/camera", "--device", "cpu"]
    request = label_request(build_parser().parse_args(words))
    assert (request.topic, request.device) == ("/camera", "cpu")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--model", ""], r"--model is \(\); expected one name or several"),
        (["--scales", "9"], r"--scales is '9'; expected 0.1..8"),
        (["--scales", "big"], r"--scales is 'big'; expected numbers"),
        (["--confidence", "2"], r"--confidence is 2.0; expected 0..1"),
        (["--stride", "0"], r"--stride is 0; expected 1 or more"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, words: list[str], text: str) -> None:
    args = build_parser().parse_args(["label", str(tmp_path), "--out", "x", *words])
    with pytest.raises(ConfigError, match=text):
        label_request(args)


@pytest.mark.usefixtures("trained")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    request = replace(write_pictures(tmp_path, 1), device="cuda:99")
    with pytest.raises(ConfigError, match="device is 'cuda:99', but torch sees"):
        label_data(request)
    assert not request.out.exists()


@pytest.mark.usefixtures("trained")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_the_gpu_labels_where_there_is_one(tmp_path: Path) -> None:
    before = torch.cuda.max_memory_allocated()
    label_data(write_pictures(tmp_path, 1))
    assert torch.cuda.max_memory_allocated() > before
