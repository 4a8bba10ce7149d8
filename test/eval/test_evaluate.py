"""Evaluation from end to end: every score, files, selections, refusals and Ctrl-C."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
import json
import signal
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from seg_node.cli import main
from seg_node.core.config import Config
from seg_node.core.types import CAMVID_CLASSES, ClassInfo, ConfigError, DataError, Motion
from seg_node.data.datasets import StreetClip
from seg_node.data.resizing import resized
from seg_node.data.sources import Source
from seg_node.eval.boundary import BoundaryScore
from seg_node.eval.calibration import Calibration
from seg_node.eval.evaluate import evaluate, run_evaluate, Selection
from seg_node.eval.frames import FrameWriter, read_frames
from seg_node.eval.metrics import ConfusionMatrix
from seg_node.eval.replay import replay
from seg_node.eval.session import open_sessions
from seg_node.eval.temporal import TemporalConsistency

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from seg_node.data.datasets import Sample
    from seg_node.eval.session import Session

SIZE = (96, 64)
FRAMES = 4


@pytest.fixture(scope="module")
def config(random_models: Path) -> Config:
    """Return settings that name the random model."""
    return Config(model=str(random_models / "swiftnet18-half.json"), device="cpu", mode="dense")


@pytest.fixture(scope="module")
def sessions(config: Config) -> dict[str, Session]:
    """Return a session that all evaluations share."""
    return open_sessions(config)


@pytest.fixture(scope="module")
def clip() -> StreetClip:
    """Return a short clip of the street."""
    return StreetClip(1, FRAMES, SIZE)


@pytest.fixture(scope="module")
def dense(clip: StreetClip, sessions: dict[str, Session]) -> dict[str, Any]:
    """Return the results of the whole clip."""
    return evaluate(clip, sessions)


class Given(Source):
    """Samples that a test has made up; Ctrl-C is pressed before sample `cut` of the real pass."""

    def __init__(self, samples: Sequence[Sample], cut: int | None = None) -> None:
        """Take the samples."""
        self.spec, self.skipped, self.classes = "street:1", Counter(), CAMVID_CLASSES
        self.samples, self.cut, self.passes = samples, cut, 0

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def every(self, stride: int) -> Iterator[Sample]:
        """Yield samples; the first pass only estimates the rate."""
        self.passes += 1
        for index, sample in enumerate(self.samples[::stride]):
            if index == self.cut and self.passes > 1:
                signal.raise_signal(signal.SIGINT)
            yield sample


def test_scores_are_those_of_the_masks(
    clip: StreetClip, sessions: dict[str, Session], dense: dict[str, Any]
) -> None:
    matrix, boundary, temporal = ConfusionMatrix(11), BoundaryScore(11), TemporalConsistency(11)
    calibration = Calibration()
    images = []
    for sample, truth in zip(clip, clip.street.frames(FRAMES), strict=True):
        result = sessions["dense"].segmenter.step(sample.frame)
        labels = result.labels
        calibration.update(truth.labels, labels, result.confidence)
        images.append(matrix.update(truth.labels, labels))
        boundary.update(truth.labels, labels)
        motion = Motion(truth.flow, ~truth.occluded)
        temporal.update(sample.frame, labels, motion)
    entry = dense["modes"]["dense"]
    assert entry["miou"] == matrix.dataset_miou()
    assert entry["image_miou"] == matrix.image_miou()
    assert entry["class_iou"] == matrix.class_iou()
    assert entry["boundary_f"] == boundary.mean_f()
    assert entry["class_boundary_f"] == boundary.class_f()
    assert entry["temporal_consistency"] == temporal.consistency()
    assert entry["temporal"]["pairs"] == {"exact": FRAMES - 1, "estimated": 0}
    assert entry["ece"] == calibration.error()
    assert entry["reliability"] == calibration.table()
    names = [sample.name for sample in clip]
    expected = sorted(zip(names, images, strict=True), key=lambda x: x[1] or 0.0)
    assert [(w["frame"], w["score"]) for w in dense["worst"]["dense"]] == expected


def test_times_are_those_of_the_stages(dense: dict[str, Any]) -> None:
    entry = dense["modes"]["dense"]
    assert entry["frames"] == entry["labelled_frames"] == FRAMES
    assert list(entry["stage_ms"]) == ["prepare", "motion", "plan", "execute", "decide", "finish"]
    assert 0.5 * entry["ms"]["mean"] < sum(entry["stage_ms"].values()) <= entry["ms"]["mean"]
    assert entry["gmac_per_frame"] > 0


def test_a_selection_is_obeyed_and_recorded(
    tmp_path: Path, clip: StreetClip, sessions: dict[str, Session]
) -> None:
    with FrameWriter(tmp_path / "frames.csv") as table:
        results = evaluate(clip, sessions, Selection(stride=2, limit=5), table=table)
    frames = read_frames(tmp_path / "frames.csv", len(CAMVID_CLASSES))["dense"]
    assert frames.index.tolist() == [0, 2], "numbers in the source, so that runs can be paired"
    assert {w["frame"] for w in results["worst"]["dense"]} == {"000000", "000002"}
    assert results["selection"] == {"stride": 2, "limit": 5, "size": None}
    pairs = results["modes"]["dense"]["temporal"]["pairs"]
    assert pairs == {"exact": 0, "estimated": 1}, "the street knows single steps only"
    limited = evaluate(clip, sessions, Selection(limit=3))
    assert limited["modes"]["dense"]["frames"] == 3


def test_frames_are_scored_in_the_size_that_was_asked_for(
    clip: StreetClip, sessions: dict[str, Session], dense: dict[str, Any]
) -> None:
    """Labels, too; a street is drawn in that size, so its motion is exact there."""
    results = evaluate(clip, sessions, Selection(size=(128, 96)))
    entry, other = results["modes"]["dense"], dense["modes"]["dense"]
    assert results["selection"]["size"] == (128, 96)
    assert entry["gmac_per_frame"] > 1.5 * other["gmac_per_frame"]
    assert entry["temporal"]["pairs"] == {"exact": FRAMES - 1, "estimated": 0}
    samples = list(clip)
    entry = evaluate(Given(samples), sessions, Selection(size=(128, 96)))["modes"]["dense"]
    matrix = ConfusionMatrix(11)
    for sample in (resized(sample, (128, 96)) for sample in samples):
        assert sample.labels is not None
        matrix.update(sample.labels, sessions["dense"].segmenter.step(sample.frame).labels)
    assert entry["miou"] == matrix.dataset_miou()
    with pytest.raises(ConfigError, match="size is 5x96; each side may be 16"):
        Selection(size=(5, 96))


def test_unlabelled_frames_run_but_do_not_score_or_fill_the_limit(
    clip: StreetClip, sessions: dict[str, Session]
) -> None:
    samples = list(clip)
    given = Given([replace(samples[0], labels=None), *samples[1:]])
    entry = evaluate(given, sessions, Selection(limit=2))["modes"]["dense"]
    assert (entry["frames"], entry["labelled_frames"]) == (3, 2)
    assert entry["temporal"]["pairs"]["estimated"] == 2
    with pytest.raises(DataError, match="has no labels to score; use 'seg_node replay'"):
        evaluate(Given([replace(s, labels=None) for s in samples]), sessions)


@pytest.mark.parametrize(
    ("selection", "text"), [((0, None), "stride is 0; use 1"), ((1, -3), "limit is -3; use 1")]
)
def test_a_selection_of_nothing_is_refused(selection: tuple[int, int | None], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Selection(*selection)


def test_other_classes_are_refused_with_both_named(
    clip: StreetClip, sessions: dict[str, Session], dense: dict[str, Any]
) -> None:
    given = Given(list(clip))
    given.classes = (*CAMVID_CLASSES, ClassInfo("Void", (0, 0, 0)))
    with pytest.raises(DataError, match="street:1 has 12 classes, the model has 11"):
        evaluate(given, sessions)
    given.classes = (ClassInfo("Moon", (0, 0, 0)), *CAMVID_CLASSES[1:])
    with pytest.raises(DataError, match=r"class 0 is 'Moon' in street:1 and 'Sky' in the model"):
        evaluate(given, sessions)
    for same in ((), tuple(ClassInfo(c.name.upper(), (0, 0, 0)) for c in CAMVID_CLASSES)):
        given.classes = same
        entry = evaluate(given, sessions)["modes"]["dense"]
        assert entry["miou"] == dense["modes"]["dense"]["miou"]


def test_a_label_out_of_range_names_the_frame(
    clip: StreetClip, sessions: dict[str, Session]
) -> None:
    samples = list(clip)
    samples[2] = replace(samples[2], labels=np.full(SIZE[::-1], 37, np.uint8))
    with pytest.raises(DataError, match=r"street:1, frame 000002: label 37 is not in 0\.\.10"):
        evaluate(Given(samples), sessions)


def test_the_command_prints_tables_and_writes_its_files(
    tmp_path: Path,
    clip: StreetClip,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("seg_node.eval.evaluate.open_source", lambda *_, **__: clip)
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    arguments = ["evaluate", "street:1", "--model", config.model, "--device", "cpu"]
    arguments += ["--json", str(copy), "--out", str(out)]
    assert main(arguments) == 0
    results = json.loads((out / "results.json").read_text())
    assert results == json.loads(copy.read_text())
    assert (results["command"], results["interrupted"]) == ("evaluate", False)
    assert (results["data"], results["split"]) == ("street:1", "val")
    text = capsys.readouterr().out
    assert f"{results['modes']['dense']['miou']:.4f}" in text
    assert "Bicyclist" in text
    assert f"written to {out}: frames.csv, report.html, results.json, worst.png" in text
    picture = cv2.imread(str(out / "worst.png"))
    assert picture is not None
    # Heading 22, gaps of 6, a legend of 22; the plan's own legend makes a row higher than 320.
    row = (picture.shape[0] - 22 - 6 - 22) / FRAMES - 6
    assert row.is_integer()
    assert 320 < row < 420
    assert picture.shape[1] == 5 * 486 + 6
    frames = read_frames(out / "frames.csv", len(CAMVID_CLASSES))
    miou = results["modes"]["dense"]["miou"]
    assert frames["dense"].miou() == pytest.approx(miou), "frames add up to the run"
    assert f"{miou:.3f}" in (out / "report.html").read_text()
    assert main(arguments) == 0, "an earlier evaluation is replaced"
    (out / "results.json").write_text('{"command": "replay"}')
    assert main(arguments) == 1, "an earlier replay is not"
    assert "holds no earlier evaluate" in capsys.readouterr().err


def test_a_mistaken_model_leaves_earlier_results_alone(
    tmp_path: Path, clip: StreetClip, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Given(list(clip))
    monkeypatch.setattr("seg_node.eval.evaluate.open_source", lambda *_, **__: given)
    run_evaluate("street:1", config, out=tmp_path / "out", selection=Selection(limit=1))
    before = (tmp_path / "out" / "results.json").read_text()
    given.classes = CAMVID_CLASSES[:3]
    with pytest.raises(DataError, match="has 3 classes"):
        run_evaluate("street:1", config, out=tmp_path / "out")
    assert (tmp_path / "out" / "results.json").read_text() == before
    assert (tmp_path / "out" / "worst.png").exists()


def test_interrupt_writes_what_was_measured(
    tmp_path: Path,
    clip: StreetClip,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = Given(list(clip), cut=1)
    monkeypatch.setattr("seg_node.eval.evaluate.open_source", lambda *_, **__: given)
    before = signal.getsignal(signal.SIGINT)
    assert run_evaluate("street:1", config, out=tmp_path) == 130
    assert signal.getsignal(signal.SIGINT) is before
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["interrupted"] is True
    assert results["modes"]["dense"]["labelled_frames"] == 2
    assert (tmp_path / "worst.png").exists()
    assert "interrupted by Ctrl-C" in capsys.readouterr().out


def test_interrupt_before_any_label_still_writes(
    tmp_path: Path, clip: StreetClip, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Given([replace(s, labels=None) for s in clip], cut=0)
    monkeypatch.setattr("seg_node.eval.evaluate.open_source", lambda *_, **__: given)
    assert run_evaluate("street:1", config, json_path=tmp_path / "some.json") == 130
    entry = json.loads((tmp_path / "some.json").read_text())["modes"]["dense"]
    assert (entry["frames"], entry["miou"], entry["boundary_f"], entry["ece"]) == (1, *[None] * 3)


def test_replay_leaves_out_what_is_slow_and_keeps_the_rest(
    tmp_path: Path, clip: StreetClip, sessions: dict[str, Session], dense: dict[str, Any]
) -> None:
    entry = replay(clip, sessions, tmp_path / "out", samples=0)["modes"]["dense"]
    expected = dense["modes"]["dense"]
    for key in ("miou", "image_miou", "class_share", "ece", "reliability"):
        assert entry[key] == expected[key]
    for key in ("boundary_f", "class_boundary_f", "temporal_consistency", "temporal"):
        assert entry[key] is None
