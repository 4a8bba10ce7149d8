"""The bench: which frames run and count, in which size, and what is told of them."""

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
from seg_node.core.types import ConfigError, DataError
from seg_node.data.datasets import StreetClip
from seg_node.data.sources import Source
from seg_node.eval.bench import bench, notes_of, open_input, WARM_UP, Workload
from seg_node.eval.machine import describe_machine
from seg_node.eval.session import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from seg_node.core.types import Frame, StepResult
    from seg_node.data.datasets import Sample
    from seg_node.eval.session import Session

SIZE = (96, 64)


@pytest.fixture
def sessions(random_models: Path) -> dict[str, Session]:
    """Return dense and a mode of half resolution."""
    config = Config(model=str(random_models / "swiftnet18-half.json"), device="cpu")
    half = config.updated({"input.scale": 0.5})
    return {"dense": open_session(config), "half": open_session(half)}


@pytest.fixture(scope="module")
def clip() -> tuple[Sample, ...]:
    """Return some frames of the street."""
    return tuple(StreetClip(1, WARM_UP + 4, SIZE))


class Given(Source):
    """Samples that a test has made up; Ctrl-C is pressed before sample `cut` of the real pass."""

    def __init__(self, samples: Sequence[Sample], cut: int | None = None) -> None:
        """Take the samples."""
        self.spec, self.skipped, self.samples = "street:1", Counter[str](), samples
        self.cut, self.passes = cut, 0

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


def watch(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.uint8]]:
    """Return the images that a session is going to see, but for warming up on black ones."""
    seen: list[NDArray[np.uint8]] = []
    step = session.segmenter.step

    def noted(frame: Frame) -> StepResult:
        if frame.image.any():
            seen.append(frame.image)
        return step(frame)

    monkeypatch.setattr(session.segmenter, "step", noted)
    return seen


def test_every_frame_is_another_one_and_the_first_ones_do_not_count(
    clip: tuple[Sample, ...], sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {mode: watch(session, monkeypatch) for mode, session in sessions.items()}
    results = bench(Given(clip), sessions, Workload(3))
    for images in seen.values():
        assert len(images) == WARM_UP + 3
        for image, sample in zip(images, clip, strict=False):
            assert np.array_equal(image, sample.frame.image)
    for entry in results["modes"].values():
        assert (entry["frames"], entry["labelled_frames"], entry["miou"]) == (3, 0, None)


def test_results_follow_the_contract_and_compare_with_dense(
    clip: tuple[Sample, ...], sessions: dict[str, Session]
) -> None:
    results = bench(Given(clip), sessions, Workload(4))
    half, dense = results["modes"]["half"], results["modes"]["dense"]
    assert (results["command"], results["interrupted"]) == ("bench", False)
    assert results["config"]["mode"] == "dense,half"
    assert "cpu float32, " in results["device"]
    assert results["input"] == {"width": 96, "height": 64, "warm_up": WARM_UP}
    assert results["machine"] == describe_machine()
    assert results["load_before"] >= 0
    assert set(half["ms"]) == {"p50", "p95", "p99", "max", "mean"}
    ratio = dense["ms"]["mean"] / half["ms"]["mean"]
    assert half["speedup_vs_dense"] == pytest.approx(ratio)
    assert set(half["speedup_per_frame"]) == {"p25", "p50", "p75"}
    assert set(half["stage_ms"]) == set(dense["stage_ms"])
    assert 0 < half["agreement"]["pixel"] < 1


def test_images_are_brought_to_the_size_and_lose_their_labels(
    clip: tuple[Sample, ...], sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(sessions["half"], monkeypatch)
    bench(Given(clip), sessions, Workload(1, (40, 32)))
    expected = cv2.resize(clip[0].frame.image, (40, 32), interpolation=cv2.INTER_AREA)
    assert np.array_equal(seen[0], expected)
    assert {image.shape for image in seen} == {(32, 40, 3)}


def test_a_street_is_drawn_at_the_size_and_as_long_as_needed() -> None:
    street = open_input("street:4", Workload(300, (64, 48)))
    assert len(street) == WARM_UP + 300
    assert street.spec == "street:4"
    image = next(iter(street)).frame.image
    assert np.array_equal(image, next(iter(StreetClip(4, 1, (64, 48)))).frame.image)
    assert next(iter(open_input("street:1", Workload(1)))).frame.image.shape == (720, 960, 3)


def test_one_picture_again_and_again_is_refused(
    tmp_path: Path, clip: tuple[Sample, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(WARM_UP + 2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), clip[0].frame.image)
    assert main(["bench", "--data", str(tmp_path), "--device", "cpu"]) == 1
    text = "shows one picture 7 times: modes that reuse the past would seem free on it"
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(("busy", "told"), [(0.5, False), (0.51, True), (None, False)])
def test_a_busy_machine_is_told(
    clip: tuple[Sample, ...],
    sessions: dict[str, Session],
    monkeypatch: pytest.MonkeyPatch,
    busy: float | None,
    told: bool,  # noqa: FBT001 - a case's field
) -> None:
    monkeypatch.setattr("seg_node.eval.bench.load", lambda: busy)
    results = bench(Given(clip), sessions, Workload(1))
    notes = " ".join(notes_of(results, Workload(1)))
    assert ("times are not to be quoted" in notes) is told


def test_several_sizes_need_a_common_one(
    clip: tuple[Sample, ...], sessions: dict[str, Session]
) -> None:
    low = replace(clip[2].frame, image=clip[2].frame.image[:32])
    mixed = Given([*clip[:2], replace(clip[2], frame=low), *clip[3:]])
    text = "street:1, frame 000002: 96x32 pixels, the frames before have 96x64; give a --size"
    with pytest.raises(DataError, match=text):
        bench(mixed, sessions, Workload(2))
    results = bench(mixed, sessions, Workload(2, (64, 64)))
    assert results["modes"]["dense"]["frames"] == 2


def test_data_that_end_too_early(clip: tuple[Sample, ...], sessions: dict[str, Session]) -> None:
    with pytest.raises(DataError, match="street:1 has 5 frames; bench needs more than 5"):
        bench(Given(clip[:WARM_UP]), sessions, Workload(2))
    results = bench(Given(clip[: WARM_UP + 1]), sessions, Workload(2))
    assert results["modes"]["half"]["frames"] == 1


def test_interrupt_keeps_what_was_measured(
    clip: tuple[Sample, ...], sessions: dict[str, Session]
) -> None:
    results = bench(Given(clip, cut=WARM_UP + 1), sessions, Workload(4))
    assert results["interrupted"] is True
    assert results["modes"]["half"]["frames"] == 2
    early = bench(Given(clip, cut=0), sessions, Workload(4))
    assert early["modes"]["half"]["ms"] is None


@pytest.mark.parametrize("size", [(0, 720), (960, 15), (8193, 16), (999999999, 999999999)])
def test_a_size_out_of_range_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"size is {size[0]}x{size[1]}; each side may be 16 to"):
        Workload(1, size)
    with pytest.raises(ConfigError, match="frames is 0; use 1 or more"):
        Workload(0)


def test_the_command_prints_times_and_writes_its_file(
    tmp_path: Path,
    clip: tuple[Sample, ...],
    random_models: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for sample in clip[: WARM_UP + 2]:
        bgr = cv2.cvtColor(sample.frame.image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(tmp_path / f"{sample.name}.png"), bgr)
    file = tmp_path / "bench.json"
    arguments = ["bench", "--model", str(random_models / "swiftnet18-half.json")]
    arguments += ["--device", "cpu", "--data", str(tmp_path), "--frames", "3"]
    assert main([*arguments, "--size", "64x48", "--json", str(file)]) == 0
    entry = json.loads(file.read_text())["modes"]["dense"]
    assert (entry["frames"], entry["speedup_vs_dense"]) == (2, 1.0)
    text = capsys.readouterr().out
    assert f"{entry['ms']['p50']:.1f}" in text
    assert "Stages of a step" in text
    assert "Accuracy" not in text
    assert "2 frames of 64x48 after 5 to warm up" in text
    assert "the data ended before the 3 frames that were asked for" in text
    assert main([*arguments, "--size", "64"]) == 1
    assert "size is '64'; expected WIDTHxHEIGHT" in capsys.readouterr().err


def test_several_models_are_measured_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["swiftnet18-half", "swiftnet18"]
    file = tmp_path / "bench.json"
    arguments = ["bench", "--device", "cpu", "--frames", "3", "--size", "64x48"]
    arguments += ["--mode", "dense,warp", "--json", str(file)]
    assert main([*arguments, "--model", ",".join(names)]) == 0
    found = json.loads(file.read_text())["models"]
    assert list(found) == names
    half, full = (found[name]["modes"] for name in names)
    for entries in (half, full):
        assert {mode: entry["frames"] for mode, entry in entries.items()} == {
            "dense": 3,
            "warp": 3,
        }
        assert entries["dense"]["gmac_saving"] == 0
        assert entries["warp"]["agreement"]["miou"] > 0
    assert full["dense"]["gmac_per_frame"] > 3 * half["dense"]["gmac_per_frame"]
    text = capsys.readouterr().out
    assert all(f"  {name}  " in text for name in names)
    assert main([*arguments, "--model", f"{names[0]},{names[0]}"]) == 1
    assert "name each once" in capsys.readouterr().err
