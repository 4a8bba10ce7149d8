"""The verb replay: what it refuses, simulated time from end to end, rules and references."""

from __future__ import annotations

import gc
import html
import json
import resource
import shutil
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.cli import main
from seg_node.data.bag import BagReader
from seg_node.data.bag_writer import BagWriter
from seg_node.data.clips import StreetClip
from seg_node.data.compressed_images import encode_png

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
SIZE = (192, 128)
STAMPS = [START_NS + 100 * MS * index for index in range(8)]


@pytest.fixture(autouse=True)
def _models(random_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEG_NODE_MODELS", str(random_models))


def write_bag(
    path: Path,
    stamps: Sequence[int],
    *,
    same: bool = False,
    encoding: str | None = None,
    labels: bool = False,
) -> Path:
    """Write a bag of the street with these stamps; `same` repeats its first picture."""
    samples = list(StreetClip(5, 1 if same else len(stamps), SIZE))
    with BagWriter(path) as bag:
        for index, stamp_ns in enumerate(stamps):
            sample = samples[0 if same else index]
            times = {"stamp_ns": stamp_ns, "receive_ns": START_NS + 100 * MS * index + 3}
            bag.write_image("/image", sample.frame.image, frame_id="c", encoding=encoding, **times)
            if labels:
                assert sample.labels is not None
                png = encode_png(sample.labels)
                bag.write_compressed("/truth", png, "mono8; png", frame_id="c", **times)
    return path


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a labelled bag of eight frames, 100 ms apart."""
    return write_bag(tmp_path_factory.mktemp("bag") / "bag", STAMPS, labels=True)


def replay(source: Path | str, out: Path, *options: str) -> int:
    """Run the command on the CPU."""
    settings = ["--topic", "/image", "--device", "cpu", "--set", "block_size=64"]
    return main(["replay", str(source), *settings, "--out", str(out), *options])


def results(out: Path) -> Any:
    """Return the written results."""
    return json.loads((out / "results.json").read_text())


# Refusals -----------------------------------------------------------------------------------


def refusal(capsys: pytest.CaptureFixture[str], source: Path, out: Path, *options: str) -> str:
    """Return the one sentence with which a replay ends that must be refused."""
    assert replay(source, out, *options) == 1
    error = capsys.readouterr().err
    assert error.startswith("seg_node: ")
    assert error.count("\n") == 1
    assert not (out / "result_bag").exists()
    return error


@pytest.mark.parametrize(
    ("stamps", "same", "encoding", "text"),
    [
        ([0, 0, 0], False, None, "frame 000000 on /image: header stamp is 0 ns: the driver does"),
        ([*STAMPS[:2], 0], False, None, "frame 000002 on /image: header stamp is 0 ns"),
        (
            [*STAMPS[:3], STAMPS[1]],
            False,
            None,
            "frame 000003 on /image: header stamp 17000000001",
        ),
        (STAMPS[:1], False, None, "holds a single picture: modes that reuse the past would seem"),
        (STAMPS[:4], True, None, "shows one picture 4 times: modes that reuse the past would"),
        (STAMPS[:2], False, "64FC9", "can be used: 2 x image on /image (encoding '64FC9'"),
    ],
)
def test_recordings_that_settle_nothing_are_refused(  # noqa: PLR0913, PLR0917 - a case's fields
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stamps: list[int],
    same: bool,  # noqa: FBT001 - a case's field
    encoding: str | None,
    text: str,
) -> None:
    source = write_bag(tmp_path / "bag", stamps, same=same, encoding=encoding)
    assert text in refusal(capsys, source, tmp_path / "out")


def test_no_topic_and_a_half_written_bag_are_refused(
    tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    text = refusal(capsys, bag, out, "--topic", "/left")
    assert "has no image topic '/left'; image topics: /image (raw, 8 messages), /truth" in text
    half = tmp_path / "half.mcap"
    half.write_bytes((bag / "bag.mcap").read_bytes()[:-900])
    text = refusal(capsys, half, out)
    assert "cut off, damaged or unreadable" in text
    assert text.endswith("16 messages of its first 0.7 s are whole\n")


def test_labels_of_another_size_or_class_set_are_refused(
    tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    cv2.imwrite(str(labels / "0.png"), np.zeros((8, 8), np.uint8))
    options = ("--reference", f"labels:{labels}")
    assert "0.png is 8x8 for an image of 192x128" in refusal(capsys, bag, tmp_path / "a", *options)
    cv2.imwrite(str(labels / "0.png"), np.full(SIZE[::-1], 11, np.uint8))
    assert replay(bag, tmp_path / "b", *options) == 1
    assert "frame 000000: label 11 is not in 0..10" in capsys.readouterr().err
    (labels / "classes.txt").write_text("road\nrest\n")
    assert "has 2 classes, the model has 11" in refusal(capsys, bag, tmp_path / "c", *options)


def test_a_full_disk_is_told(
    tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """/dev/full takes nothing: one file of a replay after the other is a link to it."""
    out = tmp_path / "out"
    for name in ("results.json.partial", "costs.json.partial"):
        out.mkdir(exist_ok=True)
        (out / name).symlink_to("/dev/full")
        (out / "results.json").write_text('{"command": "replay"}')
        assert replay(bag, out, "--limit", "2") == 1
        error = capsys.readouterr().err
        assert "No space left on device" in error
        assert error.count("\n") == 1
        shutil.rmtree(out)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("limit", [400, 30_000])
def test_a_disk_that_fills_on_the_way_is_told(
    tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    """No file may grow beyond the limit: the table of frames, the video or the bag fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        assert replay(bag, tmp_path / "out") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        gc.collect()  # rosbags leaves a file open that it cannot finish
    error = capsys.readouterr().err
    assert error.startswith("seg_node: cannot ")
    assert "File too large" in error
    assert error.count("\n") == 1


def test_a_full_disk_is_told_of_a_sweep_too(
    tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page of a point is one of the largest files without pictures."""
    options = ("--limit", "2", "--mode", "dense", "--sweep", "max_age_ms=100")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        assert replay(bag, tmp_path / "out", *options) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert error.endswith("report.html: File too large\n")
    assert error.count("\n") == 1


def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, text in (
        (("--costs", "x"), "--costs says what steps cost in --clock virtual, not in every-frame"),
        (("--clock", "virtual", "--resume"), "--resume goes with --clock every-frame"),
        (("--limit", "0"), "limit is 0; use 1 or more"),
        (("--require", "speed>1"), "--require names 'speed'; known: miou"),
        (("--reference", "best"), "--reference 'best': give dense, labels:DIR"),
        (("--sweep", "mode=dense,warp"), "--sweep cannot vary mode: modes are compared by --mode"),
        (("--sweep", "input.scale=2"), "input.scale is 2.0; allowed are"),
        (("--sweep", "speed=2"), "--sweep 'speed=2': expected NAME=VALUE with NAME one of"),
        (("--sweep", "max_age_ms=1", "--resume"), "does not go with --resume: it goes on by"),
    ):
        assert text in refusal(capsys, bag, tmp_path / "out", *options)


# Simulated time -----------------------------------------------------------------------------


def costs_file(path: Path, step_ms: float) -> Path:
    """Write costs by which every frame takes so many ms, whatever its plan."""
    row = [10**6, 6, 6, 0, round(step_ms * MS), None]
    small = [10**6 + 1, 6, 0, 0, round(step_ms * MS), None]
    columns = ["index", "blocks", "high", "low", "step_ns", "overhead_ns"]
    modes = {"dense": [row], "warp": [row, small], "adaptive": [row, small]}
    path.write_text(json.dumps({"columns": columns, "modes": modes}))
    return path


def files(out: Path) -> dict[str, bytes]:
    """Return the content of the files that hold masks and figures."""
    with_masks = {
        str(path.relative_to(out)): path.read_bytes()
        for name in ("*.json", "*.csv", "modes/*/result_bag/*.mcap")
        for path in out.glob(name)
    }
    assert len(with_masks) == 5
    return with_masks


def test_two_virtual_runs_from_one_cost_file_are_equal_to_the_byte(
    tmp_path: Path, bag: Path
) -> None:
    costs = costs_file(tmp_path / "costs.json", 250)
    options = ("--mask-topic", "/truth", "--clock", "virtual", "--costs", str(costs))
    modes = ("--mode", "adaptive,warp", "--set", "budget.latency_ms=180", "--reference", "dense")
    out = tmp_path / "out"
    assert replay(bag, out, *options, *modes) == 0
    first = files(out)
    assert replay(bag, out, *options, *modes) == 0
    assert files(out) == first
    assert results(out)["reference"]["ms"] is None, "it ran outside of simulated time"


def test_a_dropped_frame_has_no_mask_and_is_scored_by_the_one_before(
    tmp_path: Path, bag: Path
) -> None:
    """250 ms a frame: of eight frames 0, 2, 4 and 7 are processed."""
    costs = costs_file(tmp_path / "costs.json", 250)
    out = tmp_path / "out"
    options = ("--mask-topic", "/truth", "--clock", "virtual", "--costs", str(costs))
    assert replay(bag, out, *options, "--mode", "dense", "--reference", "dense") == 0
    found = results(out)
    entry = found["modes"]["dense"]
    assert found["clock"] == "virtual"
    assert (entry["frames"], entry["dropped"], entry["labelled_frames"]) == (4, 4, 8)
    assert entry["lateness_ms"]["max"] == 350.0
    assert entry["processed_only"]["labelled_frames"] == 4
    assert entry["agreement"]["pixel"] < entry["processed_only"]["agreement"]["pixel"] == 1.0
    assert found["reference"]["frames"] == 8
    with BagReader(out / "result_bag") as reader:
        masks = list(reader.messages(["/segmentation/mask"]))
    stamps = [m.message.header.stamp.nanosec // (100 * MS) for m in masks]
    assert stamps == [0, 2, 4, 7]
    done = [(m.receive_ns - START_NS) // MS for m in masks]
    assert done == [250, 500, 750, 1000], "results come when they are done"


def test_the_costs_of_a_run_bring_its_drops_back(tmp_path: Path, bag: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    recorded = costs_file(tmp_path / "costs.json", 130)
    virtual = ("--clock", "virtual", "--mode", "warp", "--costs")
    assert replay(bag, out, *virtual, str(recorded)) == 0
    assert replay(bag, again, *virtual, str(out / "costs.json")) == 0
    assert (out / "frames.csv").read_bytes() == (again / "frames.csv").read_bytes()
    assert results(out)["modes"] == results(again)["modes"]
    assert results(out)["modes"]["warp"]["dropped"] > 0


# References and rules -----------------------------------------------------------------------


def test_dense_runs_beside_where_it_is_the_reference(tmp_path: Path, bag: Path) -> None:
    out = tmp_path / "out"
    options = ("--mask-topic", "/truth", "--mode", "warp", "--reference", "dense")
    rules = "agreement_pixel>0.2,frames>=8,miou_drop<=100"
    assert replay(bag, out, *options, "--samples", "0", "--require", rules) == 0
    found = results(out)["modes"]
    assert list(found) == ["warp", "dense"]
    assert 0 < found["warp"]["agreement"]["pixel"] < 1
    assert found["warp"]["speedup_vs_dense"] > 0


def test_a_broken_rule_is_one_sentence_and_exit_status_1(
    tmp_path: Path, bag: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rules = "frames>=8,dropped>0,miou>=0"
    options = ("--mode", "dense", "--samples", "0", "--require", rules)
    assert replay(bag, tmp_path / "out", *options) == 1
    told = [x for x in caplog.messages if x.startswith(("passed", "FAILED"))]
    assert told[0] == "passed dense: frames>=8, measured 8"
    assert told[1] == "FAILED dense: dropped>0, measured 0"
    assert told[2].startswith("FAILED dense: miou>=0, but miou was not measured")
    verdicts = results(tmp_path / "out")["verdicts"]
    assert [verdict["text"] for verdict in verdicts] == told
    assert [verdict["passed"] for verdict in verdicts] == [True, False, False]
    assert (verdicts[0]["mode"], verdicts[0]["rule"], verdicts[0]["value"]) == (
        "dense", "frames>=8", 8.0,
    )  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text()
    for text, style in zip(told, ("good", "bad", "bad"), strict=True):
        assert f'<li class="{style}">{html.escape(text)}</li>' in page
    assert page.index('<ul id="rules">') < page.index("What each mode came to")
