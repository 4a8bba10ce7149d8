"""Replay: every frame once, the same masks as `step`, readable files whatever happens."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.core.config import Config
from seg_node.core.types import CAMVID_CLASSES, ConfigError, DataError, Frame
from seg_node.data.bag import BagReader
from seg_node.data.bag_writer import BagWriter
from seg_node.data.compressed_images import compressed_to_rgb
from seg_node.data.datasets import BagClip, Folder, Sample, Source, StreetClip
from seg_node.data.raw_images import image_to_rgb
from seg_node.data.video import VideoReader
from seg_node.eval.outputs import letterbox, prepare_out, spread_indices
from seg_node.eval.progress import EXIT_INTERRUPTED, noted_interrupt
from seg_node.eval.replay import Extent, replay, summary
from seg_node.eval.replay_command import Request, run_replay
from seg_node.eval.result_bag import legend_json
from seg_node.eval.session import open_sessions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from seg_node.eval.session import Session

START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
SIZE = (96, 64)


@pytest.fixture(scope="module")
def config(random_models: Path) -> Config:
    """Return settings that name the random model."""
    return Config(model=str(random_models / "swiftnet18-half.json"), mode="dense")


@pytest.fixture(scope="module")
def sessions(config: Config) -> dict[str, Session]:
    """Return a session that all replays share; it keeps nothing between frames."""
    return open_sessions(config)


def make_bag(
    path: Path, count: int, bad: tuple[int, ...] = (), stamp_step_ns: int = STEP_NS
) -> Path:
    """Write a bag of the street; the frames in `bad` are of an encoding that nobody supports."""
    with BagWriter(path) as bag:
        for index, sample in enumerate(StreetClip(5, count, SIZE)):
            bag.write_image(
                "/front/image",
                sample.frame.image,
                stamp_ns=START_NS + index * stamp_step_ns,
                frame_id="front",
                receive_ns=START_NS + index * STEP_NS + 3,
                encoding="64FC9" if index in bad else None,
            )
    return path


def messages(out: Path, topic: str) -> list[tuple[int, int, Any]]:
    """Return (receive time, header stamp, message) of a topic of the result bag."""
    found = []
    with BagReader(out / "result_bag") as reader:
        for item in reader.messages([topic]):
            stamp = item.message.header.stamp if hasattr(item.message, "header") else None
            stamp_ns = stamp.sec * 10**9 + stamp.nanosec if stamp else 0
            found.append((item.receive_ns, stamp_ns, item.message))
    return found


def masks(out: Path) -> list[NDArray[np.uint8]]:
    """Return the masks of the result bag."""
    found = messages(out, "/segmentation/mask")
    return [m.data.reshape(m.height, m.width) for _, _, m in found]


def figures(out: Path) -> dict[str, Any]:
    """Return what was measured, but by a clock or a meter."""
    timed = {"ms", "stage_ms", "fps", "joules_per_frame"}
    timed |= {"speedup_vs_dense", "speedup_per_frame"}
    modes = json.loads((out / "results.json").read_text())["modes"]
    return {m: {k: v for k, v in e.items() if k not in timed} for m, e in modes.items()}


def test_masks_are_those_of_step_and_repeat(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """Law 6: same bag, same settings: bit-identical masks, twice and by `step` itself."""
    source = BagClip(make_bag(tmp_path / "bag", 4))
    for name in ("one", "two"):
        replay(source, sessions, tmp_path / name)
    expected = [sessions["dense"].segmenter.step(s.frame).labels for s in source]
    assert len({m.tobytes() for m in expected}) == 4, "the frames must differ for this to tell"
    for name in ("one", "two"):
        for mask, wanted in zip(masks(tmp_path / name), expected, strict=True):
            assert np.array_equal(mask, wanted)
    assert figures(tmp_path / "one") == figures(tmp_path / "two")


def test_result_bag_keeps_the_recorded_times(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """Mask, overlay and stats carry the image's stamp, frame and receive time."""
    source = BagClip(make_bag(tmp_path / "bag", 3))
    replay(source, sessions, tmp_path / "out")
    times = [(START_NS + i * STEP_NS + 3, START_NS + i * STEP_NS) for i in range(3)]
    for topic in ("mask", "overlay/compressed", "stats"):
        found = messages(tmp_path / "out", f"/segmentation/{topic}")
        assert [(receive, stamp) for receive, stamp, _ in found] == times
    ((_, _, first), *_) = messages(tmp_path / "out", "/segmentation/mask")
    assert (first.encoding, first.header.frame_id) == ("mono8", "front")
    ((_, _, stats), *_) = messages(tmp_path / "out", "/segmentation/stats")
    values = {item.key: item.value for item in stats.status[0].values}
    assert values["fraction_high"] == "1.000"
    assert float(values["step_ms"]) > 0
    ((_, _, legend),) = messages(tmp_path / "out", "/segmentation/legend")
    assert legend.data == legend_json(sessions["dense"].manifest.classes)
    assert json.loads(legend.data)["classes"][3]["name"] == CAMVID_CLASSES[3].name


def test_overlay_shows_image_and_colours(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """The overlay is the half-and-half blend of the image and the colours of its mask."""
    source = BagClip(make_bag(tmp_path / "bag", 1))
    replay(source, sessions, tmp_path / "out")
    ((_, _, message),) = messages(tmp_path / "out", "/segmentation/overlay/compressed")
    (sample,) = source
    (mask,) = masks(tmp_path / "out")
    colors = np.array([c.color for c in sessions["dense"].manifest.classes], np.float32)[mask]
    expected = (sample.frame.image.astype(np.float32) + colors) / 2
    assert np.abs(compressed_to_rgb(message) - expected).mean() < 6


def test_samples_preview_and_results(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """The pictures are spread over the clip; labelled frames are scored."""
    results = replay(StreetClip(5, 7, SIZE), sessions, tmp_path / "out", samples=3)
    out = tmp_path / "out"
    names = ["000000.png", "000003.png", "000006.png"]
    assert sorted(p.name for p in (out / "samples").iterdir()) == names
    assert results["samples"] == [f"samples/{name}" for name in names]
    picture = cv2.imread(str(out / "samples" / "000003.png"))
    assert picture is not None
    assert picture.shape[1] == 3 * SIZE[0], "image, overlay, truth"
    assert picture.shape[0] > SIZE[1]
    with VideoReader(out / "preview.mp4") as video:
        assert sum(1 for _ in video.frames()) == 7
        assert video.rate_hz == pytest.approx(15.0, abs=0.01)
    written = json.loads((out / "results.json").read_text())
    assert written == json.loads(json.dumps(results))
    entry = written["modes"]["dense"]
    assert (written["command"], written["interrupted"]) == ("replay", False)
    assert (entry["frames"], entry["labelled_frames"]) == (7, 7)
    assert 0 <= entry["miou"] <= 1
    assert "mIoU" in summary(results, out)


def test_unlabelled_data_have_no_score(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """Without labels the score is null, not zero."""
    results = replay(BagClip(make_bag(tmp_path / "bag", 2)), sessions, tmp_path / "out")
    assert results["modes"]["dense"]["miou"] is None
    assert len(results["source"]["sha256"]) == 64
    assert results["source"]["topic"] == "/front/image"


def test_refused_images_are_counted(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """What cannot be used is left out, with the reason in the results and in the summary."""
    source = BagClip(make_bag(tmp_path / "bag", 5, bad=(1, 2)))
    results = replay(source, sessions, tmp_path / "out")
    assert results["modes"]["dense"]["frames"] == 3
    assert results["source"]["skipped"] == 2
    ((reason, count),) = results["source"]["skipped_reasons"].items()
    assert count == 2
    assert "64FC9" in reason
    assert "skipped 2 x: image on /front/image" in summary(results, tmp_path / "out")


def test_all_refused_is_an_error(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """A bag without a usable image ends with the reason, also in results.json."""
    source = BagClip(make_bag(tmp_path / "bag", 2, bad=(0, 1)))
    with pytest.raises(DataError, match=r"no image of bag:.* can be used: 2 x image on /front"):
        replay(source, sessions, tmp_path / "out")
    assert "64FC9" in json.loads((tmp_path / "out" / "results.json").read_text())["error"]


def test_stamp_problems_are_told(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """Stamps of a recording are watched; those that we make up ourselves are not."""
    source = BagClip(make_bag(tmp_path / "bag", 3, stamp_step_ns=-STEP_NS))
    results = replay(source, sessions, tmp_path / "back")
    assert results["source"]["stamp_problems"] == {"back": 2}
    results = replay(StreetClip(5, 1, SIZE), sessions, tmp_path / "street")
    assert results["source"]["stamp_problems"] == {}


def test_shortfall_is_told(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """A bag that delivers less than its metadata promises says so in the results."""
    bag = make_bag(tmp_path / "bag", 3)
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 3", "message_count: 9"))
    results = replay(BagClip(bag), sessions, tmp_path / "out")
    assert "delivered 3 of 9 promised" in results["source"]["shortfall"]
    assert "delivered 3 of 9 promised" in summary(results, tmp_path / "out")


class Cut(Source):
    """A clip during which somebody presses Ctrl-C `presses` times at frame 2."""

    def __init__(self, presses: int, at: int = 2, looks: int = 1) -> None:
        """Prepare the clip; `looks` passes come before the one that is cut."""
        self.clip = StreetClip(5, 6, SIZE)
        self.spec, self.skipped, self.presses = "street:5", self.clip.skipped, presses
        self.passes, self.at, self.looks = 0, at, looks

    def __len__(self) -> int:
        """Return the frames of the whole clip."""
        return len(self.clip)

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield frames; press before the chosen one of the chosen pass."""
        self.passes += 1
        for index, sample in enumerate(self.clip.every(stride)):
            if index == self.at and self.passes == self.looks + 1:
                for _ in range(self.presses):
                    signal.raise_signal(signal.SIGINT)
            yield sample


def test_interrupt_leaves_readable_files(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """Ctrl-C ends the replay after the frame in work; bag, video and results are whole."""
    out = tmp_path / "out"
    before = signal.getsignal(signal.SIGINT)
    results = replay(Cut(1), sessions, out)
    assert results["interrupted"] is True
    assert signal.getsignal(signal.SIGINT) is before
    assert len(masks(out)) == 3
    assert (out / "result_bag" / "metadata.yaml").exists()
    with VideoReader(out / "preview.mp4") as video:
        assert sum(1 for _ in video.frames()) == 3
    assert json.loads((out / "results.json").read_text())["modes"]["dense"]["frames"] == 3


def test_second_interrupt_ends_at_once_and_closes_the_files(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    """An impatient Ctrl-C raises as usual; what was written is still readable."""
    with pytest.raises(KeyboardInterrupt):
        replay(Cut(2), sessions, tmp_path / "out")
    assert len(masks(tmp_path / "out")) == 2
    assert json.loads((tmp_path / "out" / "results.json").read_text())["interrupted"] is True


def test_exit_status(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command returns 0, and 130 after Ctrl-C."""
    bag = str(make_bag(tmp_path / "bag", 3))
    one = Extent(limit=1)
    assert run_replay(Request(bag, config, tmp_path / "whole", extent=one)) == 0
    monkeypatch.setattr(
        "seg_node.eval.replay_command.open_source", lambda *_, **__: Cut(1, looks=2)
    )
    assert run_replay(Request(bag, config, tmp_path / "cut")) == EXIT_INTERRUPTED == 130
    with pytest.raises(ConfigError, match="samples is -1"):
        Request(bag, config, tmp_path / "none", extent=Extent(samples=-1))


def test_interrupt_is_noted_and_the_handler_put_back() -> None:
    """The first Ctrl-C raises nothing."""
    before = signal.getsignal(signal.SIGINT)
    with noted_interrupt() as interrupt:
        assert not interrupt
        signal.raise_signal(signal.SIGINT)
        assert interrupt
    assert signal.getsignal(signal.SIGINT) is before


def test_pictures_of_many_sizes_fit_one_video(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    """A camera that changes size gives masks of its sizes and a preview of the first."""
    for index, (height, width) in enumerate(((64, 96), (40, 100), (96, 64))):
        picture = np.random.default_rng(index).integers(0, 255, (height, width, 3))
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture.astype(np.uint8))
    replay(Folder(tmp_path), sessions, tmp_path / "out")
    assert [m.shape for m in masks(tmp_path / "out")] == [(64, 96), (40, 100), (96, 64)]
    with VideoReader(tmp_path / "out" / "preview.mp4") as video:
        assert sum(1 for _ in video.frames()) == 3


def test_letterbox_keeps_proportions() -> None:
    """A wide white picture lies in the middle of a square box, black above and below."""
    box = letterbox(np.full((10, 20, 3), 255, np.uint8), (40, 40))
    assert box.shape == (40, 40, 3)
    assert (box[10:30] == 255).all()
    assert (box[:10] == 0).all()
    assert (box[30:] == 0).all()


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [(9, 3, {0, 4, 8}), (2, 8, {0, 1}), (5, 1, {0}), (5, 0, set()), (0, 2, {0, 299})],
)
def test_samples_are_spread_evenly(length: int, count: int, expected: set[int]) -> None:
    """Both ends are shown; a short clip gives fewer."""
    assert spread_indices(length, count) == expected


def test_output_folder_is_never_somebody_elses(
    tmp_path: Path, sessions: dict[str, Session]
) -> None:
    """Only an earlier run of the same command is replaced, and never the data themselves."""
    source = StreetClip(5, 1, SIZE)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="is not empty and holds no earlier replay"):
        replay(source, sessions, foreign)
    assert (foreign / "thesis.txt").exists()
    out = tmp_path / "out"
    replay(source, sessions, out)
    (out / "mine.txt").write_text("a note")
    replay(source, sessions, out)
    assert len(masks(out)) == 1
    assert (out / "mine.txt").exists()
    with pytest.raises(DataError, match="holds no earlier demo"):
        prepare_out(out, "demo", None)
    with pytest.raises(DataError, match="lie in the output folder"):
        replay(BagClip(out / "result_bag", "/segmentation/mask"), sessions, out)
    assert len(masks(out)) == 1
    with pytest.raises(DataError, match="is a file"):
        replay(source, sessions, out / "mine.txt")


def test_mask_of_the_bag_is_an_image_again(tmp_path: Path, sessions: dict[str, Session]) -> None:
    """The written messages pass our own reader, as any tool would read them."""
    replay(StreetClip(5, 1, SIZE), sessions, tmp_path / "out")
    ((_, _, message),) = messages(tmp_path / "out", "/segmentation/mask")
    grey = image_to_rgb(message)
    assert grey.shape == (SIZE[1], SIZE[0], 3)
    labels = (
        sessions["dense"]
        .segmenter.step(Frame(next(iter(StreetClip(5, 1, SIZE))).frame.image))
        .labels
    )
    assert np.array_equal(grey[:, :, 0], labels)
