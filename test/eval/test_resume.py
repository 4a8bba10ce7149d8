"""A replay that Ctrl-C has ended goes on to the same masks and figures as one that was whole."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import count
import json
import signal
from typing import TYPE_CHECKING

import pytest

from seg_node.core.config import Config
from seg_node.core.types import CAMVID_CLASSES, DataError
from seg_node.data.bag import BagReader
from seg_node.data.clips import StreetClip
from seg_node.data.sources import Source
from seg_node.data.video import VideoReader
from seg_node.eval.clocks import EveryFrame
from seg_node.eval.replay import Extent, follow
from seg_node.eval.session import build_session, open_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from seg_node.data.sources import Sample
    from seg_node.eval.session import Session
    from seg_node.nets.build import Model

MODES = ("dense", "warp", "adaptive", "segblocks")
FRAMES = 7
TIMED = {"ms", "stage_ms", "fps", "speedup_vs_dense", "speedup_per_frame"}
TIMED_COLUMNS = {"step_ms", "stage_ms"}


@pytest.fixture(scope="module")
def config(random_models: Path) -> Config:
    """Return settings under which all modes do different things on few frames."""
    return Config(
        model=str(random_models / "swiftnet18-half.json"),
        device="cpu",
        block_size=64,
        keyframe_interval=4,
    ).updated({"policy.score": "middle", "policy.high_fraction": 0.5, "budget.compute": 0.3})


@pytest.fixture(scope="module")
def model(config: Config) -> Model:
    """Return the random model."""
    return open_model(config)


class Pressed(Source):
    """A clip during which somebody presses Ctrl-C, before one frame of a later pass.

    Frames 1 and 4 have no labels.
    """

    classes = CAMVID_CLASSES

    def __init__(self, at: int | None) -> None:
        """Prepare; None for nobody."""
        self.clip = StreetClip(5, FRAMES, (128, 64))
        self.spec, self.skipped = "street:5", self.clip.skipped
        self.at, self.passes = at, 0

    def __len__(self) -> int:
        """Return the frames of the whole clip."""
        return len(self.clip)

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield frames; the first pass only estimates the rate."""
        self.passes += 1
        for index, sample in enumerate(self.clip.every(stride)):
            if index == self.at and self.passes == 2:
                signal.raise_signal(signal.SIGINT)
            yield replace(sample, labels=None) if index % 3 == 1 else sample


def open_modes(model: Model, config: Config) -> dict[str, Session]:
    """Build the pipelines of all modes, each with a clock that ticks when it is read."""
    return {
        mode: build_session(
            model, config.updated({"mode": mode}), clock=count(0, 1_000_000).__next__
        )
        for mode in MODES
    }


def run(model: Model, config: Config, out: Path, at: int | None, *, resume: bool = False) -> Any:
    """Replay in all modes, with pipelines that remember nothing of other runs."""
    course = EveryFrame(open_modes(model, config))
    return follow(Pressed(at), course, out, Extent(samples=3), resume=resume)


def masks(out: Path, mode: str) -> list[bytes]:
    """Return the masks of a mode's result bag."""
    with BagReader(out / "modes" / mode / "result_bag") as reader:
        return [bytes(m.message.data) for m in reader.messages(["/segmentation/mask"])]


def untimed(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results without what a clock has measured."""
    modes = {
        mode: {key: value for key, value in entry.items() if key not in TIMED}
        for mode, entry in results["modes"].items()
    }
    return {**results, "modes": modes}


def table(out: Path) -> list[dict[str, str]]:
    """Return the table of frames without times."""
    with (out / "frames.csv").open(newline="") as file:
        return [
            {k: v for k, v in r.items() if k not in TIMED_COLUMNS} for r in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def whole(model: Model, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a replay that nobody has interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(model, config, out, None)
    assert not (out / "resume.json").exists()
    return out


def worst(out: Path) -> str:
    """Return the worst frames of all modes as the page shows them, pictures included."""
    page = (out / "report.html").read_text()
    return page[page.index("<h2>The worst frames") : page.index("<h2>What was run")]


def check_equal(out: Path, whole: Path) -> None:
    """Refuse a difference in masks, figures, table of frames, worst frames or files."""
    for mode in MODES:
        assert masks(out, mode) == masks(whole, mode)
        with VideoReader(out / "modes" / mode / "preview.mp4") as video:
            assert sum(1 for _ in video.frames()) == FRAMES
    found, wanted = (json.loads((x / "results.json").read_text()) for x in (out, whole))
    assert untimed(found) == untimed(wanted)
    assert found["modes"]["dense"]["frames"] == FRAMES
    assert table(out) == table(whole)
    assert worst(whole).count("<img") > 5 * len(MODES)
    assert worst(out) == worst(whole)
    assert len(table(out)) == len(MODES) * FRAMES
    costs = json.loads((out / "costs.json").read_text())["modes"]
    assert [[row[0] for row in costs[mode]] for mode in MODES] == [[*range(FRAMES)]] * len(MODES)
    assert sorted(x.name for x in out.iterdir()) == sorted(x.name for x in whole.iterdir())


def test_a_resumed_replay_ends_like_a_whole_one(
    tmp_path: Path, model: Model, config: Config, whole: Path
) -> None:
    """Cut twice, the second time while the files of the first part are written anew."""
    out = tmp_path / "out"
    cut = run(model, config, out, 4)
    assert (cut["interrupted"], cut["modes"]["warp"]["frames"]) == (True, 5)
    assert len(masks(out, "warp")) == 5
    again = run(model, config, out, 1, resume=True)
    assert (again["interrupted"], again["modes"]["warp"]["frames"]) == (True, 5)
    assert len(masks(out, "warp")) == 5, "what was there is there again"
    assert run(model, config, out, None, resume=True)["interrupted"] is False
    check_equal(out, whole)


def test_modes_without_memory_are_not_computed_again(
    tmp_path: Path, model: Model, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(model, config, out, 4)
    sessions = open_modes(model, config)
    seen: dict[str, list[int]] = {mode: [] for mode in MODES}
    for mode, session in sessions.items():
        step = session.segmenter.step

        def noted(frame: Any, mode: str = mode, step: Any = step) -> Any:
            seen[mode].append(frame.stamp_ns)
            return step(frame)

        monkeypatch.setattr(session.segmenter, "step", noted)
        monkeypatch.setattr(session.segmenter, "warm_up", lambda *_: None)
    follow(Pressed(None), EveryFrame(sessions), out, Extent(samples=3), resume=True)
    assert {mode: len(stamps) for mode, stamps in seen.items()} == {
        "dense": FRAMES - 5,
        "segblocks": FRAMES - 5,
        "warp": FRAMES,
        "adaptive": FRAMES,
    }


def test_only_the_same_run_is_resumed(tmp_path: Path, model: Model, config: Config) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="holds no interrupted replay to resume"):
        run(model, config, out, None, resume=True)
    run(model, config, out, 2)
    other = config.updated({"keyframe_interval": 7})
    with pytest.raises(DataError, match="holds a replay with keyframe_interval 4, not 7: resume"):
        run(model, other, out, None, resume=True)
    (out / "resume.json").write_text("[")
    with pytest.raises(DataError, match=r"resume\.json cannot be read"):
        run(model, config, out, None, resume=True)
