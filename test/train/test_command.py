"""`train segment` and `label` from named data to files, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from seg_node.core.types import ConfigError, DataError, ModelError
from seg_node.data.bag_writer import BagWriter
from seg_node.data.compressed_images import encode_png
from seg_node.data.datasets import open_source
from seg_node.nets.build import load_model
from seg_node.nets.manifest import Manifest
from seg_node.train.command import train_segment
from seg_node.train.labelled import common_classes, open_labelled
from seg_node.train.request import command_line, SegmentRequest
from test.train.samples import halves, TINY

if TYPE_CHECKING:
    from pathlib import Path


def write_folder(root: Path, names: tuple[str, ...] = ("dark", "bright"), count: int = 3) -> str:
    """Write labelled pictures of two classes and return the data's name."""
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("\n".join(names))
    for index, picture in enumerate(halves(count)):
        (root / "images" / f"{index}.png").write_bytes(encode_png(picture.image))
        (root / "labels" / f"{index}.png").write_bytes(encode_png(picture.labels))
    return f"folder:{root}"


def request_for(tmp_path: Path, data: str) -> SegmentRequest:
    return SegmentRequest((data,), tmp_path / "run", settings=replace(TINY, steps=2))


@pytest.mark.slow
def test_a_folder_becomes_a_model_that_knows_its_classes(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    request = replace(request_for(tmp_path, data), validation=data, name="mine")
    (manifest,) = train_segment(request)
    assert manifest == Manifest.read(tmp_path / "run" / "mine.json")
    model = load_model(str(tmp_path / "run" / "mine.json"))
    assert [c.name for c in model.manifest.classes] == ["dark", "bright"]
    assert model.manifest.training_size == (96, 80)
    assert model.net(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 2, 16, 16)
    expected = "seg_node train segment --data folder:DIR --model swiftnet18-half --steps 2"
    assert manifest.command.startswith(expected)
    assert str(tmp_path) not in manifest.command
    with pytest.raises(ConfigError, match="add --resume to continue it"):
        train_segment(request)


@pytest.mark.slow
def test_a_bag_with_masks_is_trained_on(tmp_path: Path) -> None:
    bag = tmp_path / "drive"
    with BagWriter(bag) as writer:
        for index, picture in enumerate(halves(3)):
            now = index * 10**8
            pictures = {"/camera": picture.image, "/mask": picture.labels}
            for topic, pixels in pictures.items():
                if topic == "/camera" or index < 2:  # the last image has no mask
                    writer.write_image(
                        topic, pixels, stamp_ns=now, frame_id="front", receive_ns=now
                    )
    (bag / "classes.txt").write_text("dark\nbright\n")
    request = request_for(tmp_path, f"bag:{bag}")
    (manifest,) = train_segment(replace(request, topic="/camera", mask_topic="/mask"))
    assert [c.name for c in manifest.classes] == ["dark", "bright"]
    with pytest.raises(DataError, match=r"/camera.*/mask"):
        train_segment(replace(request, out=tmp_path / "other"))


def test_a_command_line_gives_the_settings_back(tmp_path: Path) -> None:
    request = replace(
        request_for(tmp_path, "street:3"), unlabelled=("video:/x/y.mp4",), teachers=("big",)
    )
    line = command_line(request)
    assert "--data street:3 " in line
    assert "--unlabelled video:DIR --teacher big " in line
    assert "--batch 2" in line
    assert "--jaccard" not in line


@pytest.mark.slow
def test_two_resolutions_give_two_models_and_a_teacher_teaches(
    tmp_path: Path, trained: str
) -> None:
    settings = replace(TINY, steps=2, low_share=0.5, low_norms=True, street_share=0.5, streets=1)
    request = SegmentRequest(("street:3",), tmp_path, teachers=(trained,), settings=settings)
    frames = open_source("street:3")
    frames.count = 2  # type: ignore[attr-defined]  # a clip of the street
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seg_node.train.labelled.open_source", lambda *_, **__: frames)
        made = train_segment(request)
    assert [m.name for m in made] == ["swiftnet18-half", "swiftnet18-half-low"]
    assert len(list((tmp_path / "soft").glob("*.npy"))) == 2
    assert made[0].sha256 != made[1].sha256


def test_other_classes_than_the_teachers_are_refused(tmp_path: Path, trained: str) -> None:
    request = request_for(tmp_path, write_folder(tmp_path / "data"))
    text = r"teacher swiftnet18-half has 11 \(Sky.*\), the data have 2 \(dark, bright\)"
    with pytest.raises(ModelError, match=text):
        train_segment(replace(request, teachers=(trained,)))


def test_data_of_different_classes_are_refused(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "a")
    other = write_folder(tmp_path / "b", ("dark", "light"))
    request = replace(request_for(tmp_path, first), data=(first, other))
    with pytest.raises(DataError, match=r"2 \(dark, bright\), .*2 \(dark, light\)"):
        train_segment(request)


def test_classes_are_told_by_their_names_and_not_their_colours(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "a")
    second = write_folder(tmp_path / "b")
    (tmp_path / "b" / "classes.txt").unlink()
    table = "id,name,r,g,b\n0,dark,0,0,0\n1,bright,1,1,1\n"
    (tmp_path / "b" / "classes.csv").write_text(table)
    request = replace(request_for(tmp_path, first), data=(first, second))
    assert [c.name for c in common_classes(open_labelled(request))] == ["dark", "bright"]


def test_a_name_that_is_a_path_is_refused_at_the_start(tmp_path: Path) -> None:
    request = replace(request_for(tmp_path, write_folder(tmp_path / "data")), name="a/b")
    with pytest.raises(ConfigError, match=r"--name is 'a/b'; give a name without /"):
        train_segment(request)


def test_streets_are_refused_for_other_classes(tmp_path: Path) -> None:
    request = request_for(tmp_path, write_folder(tmp_path / "data"))
    mixed = replace(request, settings=replace(TINY, street_share=0.2))
    with pytest.raises(ConfigError, match=r"the data 2 \(dark, bright\): use --street-share 0"):
        train_segment(mixed)


def test_a_wrong_file_is_named_before_training_starts(tmp_path: Path) -> None:
    request = request_for(tmp_path, write_folder(tmp_path / "data"))
    (tmp_path / "data" / "labels" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png has no label file"):
        train_segment(request)


def test_a_label_out_of_range_is_named(tmp_path: Path) -> None:
    request = request_for(tmp_path, write_folder(tmp_path / "data"))
    labels = np.full((80, 96), 37, np.uint8)
    (tmp_path / "data" / "labels" / "1.png").write_bytes(encode_png(labels))
    with pytest.raises(DataError, match=r"labels.1\.png .*37"):
        train_segment(request)


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="holds no picture"):
        train_segment(request_for(tmp_path / "x", f"folder:{tmp_path}"))


def test_unlabelled_data_without_a_teacher_are_refused(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    request = replace(request_for(tmp_path, data), unlabelled=(data,))
    with pytest.raises(ConfigError, match="name one with --teacher"):
        train_segment(request)
