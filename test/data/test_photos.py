"""BDD100K, ACDC and Mapillary Vistas: photos that do not follow each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from seg_node.core.types import ClassInfo, DataError
from seg_node.data.acdc import Acdc
from seg_node.data.bdd100k import Bdd100k
from seg_node.data.datasets import open_source
from seg_node.data.mapillary import Mapillary
from seg_node.data.sources import check, Indexed
from test.data.miniatures import id_mask, picture, write_palette, write_picture

if TYPE_CHECKING:
    from pathlib import Path


def write_bdd(root: Path, split: str = "val", marked: int = 255) -> None:
    """Write two photos with masks."""
    for name in ("a1", "b2"):
        write_picture(root / "images" / "10k" / split / f"{name}.jpg", picture(9))
        path = root / "labels" / "sem_seg" / "masks" / split / f"{name}.png"
        write_picture(path, id_mask(13, marked=marked))


def write_acdc(root: Path, condition: str, recording: str, split: str = "val") -> None:
    """Write one photo with its labels, and its fair-weather twin."""
    name = f"{recording}_frame_000010"
    folder = root / "rgb_anon" / condition
    write_picture(folder / split / recording / f"{name}_rgb_anon.png", picture(9))
    write_picture(folder / f"{split}_ref" / recording / f"{name}_rgb_ref_anon.png", picture(5))
    gt = root / "gt" / condition / split / recording / f"{name}_gt_labelTrainIds.png"
    write_picture(gt, id_mask(10, marked=255))


def write_mapillary(root: Path, *, second: bool, folder: str = "validation") -> None:
    """Write one photo with ids 1, and 2 at the marked pixel; three labels, the last one void."""
    write_picture(root / folder / "images" / "m.jpg", picture(9))
    config = {
        "labels": [
            {"name": "a--x", "readable": "X", "evaluate": True, "color": [1, 2, 3]},
            {"name": "a--y", "readable": "Y", "evaluate": True, "color": [4, 5, 6]},
            {"name": "v--u", "readable": "Unlabeled", "evaluate": False, "color": [0, 0, 0]},
        ]
    }
    if not second:
        write_palette(root / folder / "labels" / "m.png", id_mask(1, marked=2))
        (root / "config.json").write_text(json.dumps(config))
        return
    write_palette(root / folder / "v1.2" / "labels" / "m.png", id_mask(1, marked=2))
    (root / "config_v1.2.json").write_text(json.dumps(config))
    config["labels"].insert(0, {"readable": "New", "evaluate": False, "color": [7, 8, 9]})
    write_palette(root / folder / "v2.0" / "labels" / "m.png", id_mask(2, marked=0))
    (root / "config_v2.0.json").write_text(json.dumps(config))


def test_bdd100k(tmp_path: Path) -> None:
    """Train ids of the 19 classes, stamps too far apart to reuse anything, no clips."""
    write_bdd(tmp_path)
    source = open_source(f"bdd100k:{tmp_path}")
    assert isinstance(source, Indexed)
    assert len(source.classes) == 19
    first, second = source
    assert first.labels is not None
    assert (first.name, second.name) == ("a1", "b2")
    assert (first.labels[0, 0], first.labels[4, 7]) == (13, 255)
    assert second.frame.stamp_ns - first.frame.stamp_ns == 10_000_000_000
    assert source.clips() == ()
    assert all(ref.labelled for ref in source.frames())
    assert check(source) == []


def test_bdd100k_bad_files(tmp_path: Path) -> None:
    """Label 37 and a missing mask are named; test has no labels; train is not there."""
    write_bdd(tmp_path, marked=37)
    write_bdd(tmp_path, "test", marked=37)
    masks = tmp_path / "labels" / "sem_seg" / "masks"
    (masks / "val" / "b2.png").unlink()
    wrong, missing = check(Bdd100k(tmp_path, "val"), full=True)
    assert "masks/val/a1.png holds label 37 at row 4, column 7" in wrong
    assert "cannot read" in missing
    assert "masks/val/b2.png" in missing
    assert [x.labels for x in Bdd100k(tmp_path, "test")] == [None, None]
    with pytest.raises(DataError, match=r"cannot list .*images/10k/train"):
        Bdd100k(tmp_path, "train")


def test_acdc(tmp_path: Path) -> None:
    """All conditions are read; the fair-weather twins are neither samples nor neighbours."""
    write_acdc(tmp_path, "fog", "GOPR0475")
    write_acdc(tmp_path, "night", "GP010376")
    source = open_source(f"acdc:{tmp_path}")
    samples = list(source)
    assert [x.name for x in samples] == ["GOPR0475_frame_000010", "GP010376_frame_000010"]
    assert samples[0].labels is not None
    assert (samples[0].labels[0, 0], samples[0].labels[4, 7]) == (10, 255)
    assert int(samples[0].frame.image[0, 0, 0]) == 9
    assert source.clips() == ()
    with pytest.raises(DataError, match="rgb_anon has no condition with the split 'train'"):
        Acdc(tmp_path, "train")
    write_acdc(tmp_path, "rain", "GOPR0400", "test")
    assert [x.labels for x in Acdc(tmp_path, "test")] == [None]


@pytest.mark.parametrize("second", [False, True])
def test_mapillary_v1_labels_in_both_releases(tmp_path: Path, *, second: bool) -> None:
    """Palette numbers are ids; what the config does not evaluate is void."""
    write_mapillary(tmp_path, second=second)
    source = open_source(f"mapillary:{tmp_path}")
    assert source.classes == (ClassInfo("X", (1, 2, 3)), ClassInfo("Y", (4, 5, 6)))
    (sample,) = source
    assert sample.labels is not None
    assert (sample.labels[0, 0], sample.labels[4, 7]) == (1, 255)
    assert [x.name for x in Mapillary(tmp_path, "validation")] == ["m"]


def test_mapillary_v2_labels(tmp_path: Path) -> None:
    """The second release's own labels are a kind of their own; ids close the void's gap."""
    write_mapillary(tmp_path, second=True)
    source = open_source(f"mapillary2:{tmp_path}")
    assert [info.name for info in source.classes] == ["X", "Y"]
    (sample,) = source
    assert sample.labels is not None
    assert (sample.labels[0, 0], sample.labels[4, 7]) == (1, 255)


def test_mapillary_bad_files(tmp_path: Path) -> None:
    """A label beyond the config, a config that is none, and the unlabelled test photos."""
    write_mapillary(tmp_path, second=False)
    write_palette(tmp_path / "validation" / "labels" / "m.png", id_mask(0, marked=3))
    with pytest.raises(DataError, match=r"labels/m\.png holds label 3 at row 4, column 7"):
        list(Mapillary(tmp_path, "val"))
    with pytest.raises(DataError, match=r"cannot read .*config_v2\.0\.json: No such file"):
        Mapillary(tmp_path, "val", "v2.0")
    write_mapillary(tmp_path, second=False, folder="testing")
    assert [x.labels for x in Mapillary(tmp_path, "test")] == [None]
    for text in ("no json", "[]", '{"labels": [{"evaluate": true}]}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(DataError, match=r"config\.json is not a config of Mapillary Vistas"):
            Mapillary(tmp_path, "val")
