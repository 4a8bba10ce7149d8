"""Several modes in one run: scores, comparison and files of each, from one pass over the data.

The second mode is made here, of the same network at half the resolution.
"""

from __future__ import annotations

from collections import Counter
import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.core.config import Config
from seg_node.core.types import CAMVID_CLASSES
from seg_node.data.bag import BagReader
from seg_node.data.datasets import StreetClip
from seg_node.data.sources import Source
from seg_node.data.video import VideoReader
from seg_node.eval.evaluate import evaluate, run_evaluate
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.replay import replay, summary
from seg_node.eval.session import open_session
from seg_node.eval.temporal import MotionEstimator, TemporalConsistency

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from seg_node.core.types import Frame, Motion
    from seg_node.data.datasets import Sample
    from seg_node.eval.session import Session

SIZE = (96, 64)
FRAMES = 3
UNTIMED = ("ms", "stage_ms", "fps", "speedup_vs_dense", "speedup_per_frame")


@pytest.fixture(scope="module")
def sessions(random_models: Path) -> dict[str, Session]:
    """Return dense and a mode of half resolution; the one to compare with comes last."""
    config = Config(model=str(random_models / "swiftnet18-half.json"), device="cpu", mode="dense")
    half = config.updated({"input.scale": 0.5})
    return {"half": open_session(half), "dense": open_session(config)}


@pytest.fixture(scope="module")
def clip() -> StreetClip:
    """Return a short clip of the street."""
    return StreetClip(1, FRAMES, SIZE)


@pytest.fixture(scope="module")
def both(clip: StreetClip, sessions: dict[str, Session]) -> dict[str, Any]:
    """Return the results of both modes in one run."""
    return evaluate(clip, sessions)


class Once(Source):
    """A clip that counts how often it is read; it does not know its motion."""

    def __init__(self, clip: StreetClip) -> None:
        """Take the clip."""
        self.clip, self.spec, self.skipped = clip, "street:1", Counter[str]()
        self.classes, self.yielded = CAMVID_CLASSES, 0

    def __len__(self) -> int:
        """Return the frames of the clip."""
        return len(self.clip)

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield frames and count them."""
        for sample in self.clip.every(stride):
            self.yielded += 1
            yield sample


def test_each_mode_scores_as_it_does_alone(
    clip: StreetClip, sessions: dict[str, Session], both: dict[str, Any]
) -> None:
    assert list(both["modes"]) == ["half", "dense"]
    assert both["config"]["mode"] == "half,dense"
    for mode, session in sessions.items():
        alone = evaluate(clip, {mode: session})
        entry, lone = dict(both["modes"][mode]), dict(alone["modes"][mode])
        for key in (*UNTIMED, "agreement"):
            entry.pop(key), lone.pop(key)
        assert entry == lone
        assert both["worst"][mode] == alone["worst"][mode]
    assert both["modes"]["half"]["miou"] != both["modes"]["dense"]["miou"]


def test_the_comparison_with_dense_is_of_the_masks_and_times(
    clip: StreetClip, sessions: dict[str, Session], both: dict[str, Any]
) -> None:
    matrix = ConfusionMatrix(11)
    for sample in clip:
        half, dense = (sessions[m].segmenter.step(sample.frame).labels for m in sessions)
        matrix.update(dense, half)
    half, dense = both["modes"]["half"], both["modes"]["dense"]
    expected = {"pixel": matrix.pixel_accuracy(), "miou": matrix.dataset_miou()}
    assert half["agreement"] == expected
    assert 0 < half["agreement"]["pixel"] < 1, "the modes must differ for this to tell"
    ratio = dense["ms"]["mean"] / half["ms"]["mean"]
    assert half["speedup_vs_dense"] == pytest.approx(ratio)
    assert (dense["agreement"], dense["speedup_vs_dense"]) == (None, 1.0)
    lone = evaluate(clip, {"half": sessions["half"]})["modes"]["half"]
    assert (lone["agreement"], lone["speedup_vs_dense"]) == (None, None)


def test_the_data_are_read_and_their_motion_is_estimated_once_for_all_modes(
    clip: StreetClip, sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated = []
    estimate = MotionEstimator._estimate

    def noted(
        self: MotionEstimator, before: NDArray[np.uint8], image: NDArray[np.uint8]
    ) -> Motion:
        estimated.append(image)
        return estimate(self, before, image)

    monkeypatch.setattr(MotionEstimator, "_estimate", noted)
    source = Once(clip)
    results = evaluate(source, sessions)
    assert source.yielded == 2 * FRAMES, "one pass estimates the rate"
    assert len(estimated) == FRAMES - 1
    for mode, session in sessions.items():
        temporal = TemporalConsistency(11)
        for sample in clip:
            temporal.update(sample.frame, session.segmenter.step(sample.frame).labels)
        assert results["modes"][mode]["temporal_consistency"] == temporal.consistency()


def test_an_estimator_remembers_two_frames_and_no_others(clip: StreetClip) -> None:
    first, second, third = (sample.frame for sample in clip)
    estimator = MotionEstimator()

    def fresh(before: Frame, frame: Frame) -> NDArray[np.float32]:
        return MotionEstimator().motion(before, frame).flow

    assert estimator.motion(first, second) is estimator.motion(first, second)
    for before, frame in ((first, third), (second, third), (second, first)):
        assert np.array_equal(estimator.motion(before, frame).flow, fresh(before, frame))


def test_every_mode_has_a_sheet_of_its_worst_frames(
    tmp_path: Path,
    clip: StreetClip,
    sessions: dict[str, Session],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = sessions["dense"].config
    monkeypatch.setattr("seg_node.eval.evaluate.open_source", lambda *_, **__: clip)
    monkeypatch.setattr(
        "seg_node.eval.evaluate.open_sessions",
        lambda _, modes: {mode: sessions[mode] for mode in modes or ("dense",)},
    )
    assert run_evaluate("street:1", config, modes=("half", "dense"), out=tmp_path) == 0
    half, dense = (cv2.imread(str(tmp_path / "modes" / m / "worst.png")) for m in sessions)
    assert half is not None
    assert dense is not None
    assert not np.array_equal(half, dense)
    assert not (tmp_path / "worst.png").exists()
    assert "IoU half  IoU dense" in capsys.readouterr().out
    run_evaluate("street:1", config, out=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "frames.csv",
        "report.html",
        "results.json",
        "worst.png",
    ]


def masks(folder: Path) -> list[NDArray[np.uint8]]:
    """Return the masks of a result bag."""
    with BagReader(folder / "result_bag") as reader:
        found = [item.message for item in reader.messages(["/segmentation/mask"])]
    return [m.data.reshape(m.height, m.width) for m in found]


def test_replay_leaves_bag_preview_and_samples_of_each_mode(
    tmp_path: Path, clip: StreetClip, sessions: dict[str, Session]
) -> None:
    for _ in range(2):  # the second run replaces the first
        results = replay(clip, sessions, tmp_path, samples=1)
    names = ["costs.json", "frames.csv", "modes", "report.html", "results.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert results["samples"] == [f"modes/{mode}/samples/000000.png" for mode in sessions]
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    for mode, session in sessions.items():
        folder = tmp_path / "modes" / mode
        with VideoReader(folder / "preview.mp4") as video:
            assert sum(1 for _ in video.frames()) == FRAMES
        for mask, sample in zip(masks(folder), clip, strict=True):
            assert np.array_equal(mask, session.segmenter.step(sample.frame).labels)
    half, dense = summary(results, tmp_path).splitlines()[1:3]
    assert dense.startswith("dense: 3 frames, p50 ")
    assert "as dense" not in dense
    agreement = results["modes"]["half"]["agreement"]["pixel"]
    assert f"{agreement:.2%} of the pixels as dense" in half
    assert f"{results['modes']['half']['speedup_vs_dense']:.2f} x as fast as dense" in half
