"""The demo: how it judges and plans, and short real ones over DDS in their own processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any, TYPE_CHECKING
import zlib

import numpy as np
import pytest

from seg_node.core.config import Config
from seg_node.core.types import CAMVID_CLASSES, Frame, SegNodeError
from seg_node.data.bag import BagReader
from seg_node.data.datasets import Sample, StreetClip
from seg_node.data.video import VideoReader, VideoWriter
from seg_node.demo.clip import plan_clip
from seg_node.demo.judge import mask_fault, problems
from seg_node.demo.page import render_page
from seg_node.demo.process import node_environment, NodeDiedError, NodeProcess
from seg_node.demo.run import fitting_scale, node_parameters, run_demo, Wishes
from seg_node.nets.manifest import Manifest
from seg_node.ros.domain import choose_domain, domain_is_free, private_environment
from seg_node.ros.recorded import RecordedMask
from seg_node.ros.transport import local_environment, VARIABLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXTURED = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8)
PLAIN = np.full((12, 16, 3), 77, np.uint8)
TWO_CLASSES = np.repeat(np.array([[0], [3]], np.uint8), 6, 0).repeat(16, 1)


def recorded(labels: NDArray[np.uint8], **changed: Any) -> RecordedMask:
    """Return a mask as it would arrive."""
    height, width = labels.shape
    fields = {"received_ns": 1, "height": height, "width": width, "encoding": "mono8"}
    return RecordedMask(**{**fields, "packed": zlib.compress(labels.tobytes()), **changed})


def sample_of(height: int, width: int) -> Sample:
    """Return a black sample of this size."""
    return Sample("0", Frame(np.zeros((height, width, 3), np.uint8)), None)


# Judging ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (recorded(TWO_CLASSES), None),
        (recorded(TWO_CLASSES, width=0, height=0, packed=zlib.compress(b"")), "no pixels (0x0)"),
        (recorded(TWO_CLASSES, packed=zlib.compress(b"\1" * 191)), "no pixels (16x12)"),
        (recorded(TWO_CLASSES[:6]), "16x6 for an image of 16x12"),
        (recorded(TWO_CLASSES, encoding="rgb8"), "encoding 'rgb8' instead of mono8"),
        (recorded(np.where(TWO_CLASSES == 3, np.uint8(11), TWO_CLASSES)), "id 11, but"),
        (recorded(np.where(TWO_CLASSES == 3, np.uint8(10), TWO_CLASSES)), None),
        (recorded(np.zeros((12, 16), np.uint8)), "only class 0, although"),
    ],
)
def test_empty_masks_are_told(mask: RecordedMask, fault: str | None) -> None:
    """Each kind of empty mask has its own words; a good one has none."""
    found = mask_fault(TEXTURED, mask, len(CAMVID_CLASSES))
    assert (found is None) == (fault is None), found
    assert fault is None or str(found).startswith(fault)


def test_one_class_over_a_plain_image_is_fine() -> None:
    """Fog is all sky."""
    assert mask_fault(PLAIN, recorded(np.zeros((12, 16), np.uint8)), 11) is None


def test_one_frame_decides() -> None:
    """Ninety of a hundred frames pass, one less fails."""
    assert problems(100, 90, [], 0) == []
    (problem,) = problems(100, 89, [], 0)
    assert problem.startswith("only 89 of 100 frames came back (89.0%, needed 90%)")


def test_one_empty_mask_fails() -> None:
    """All frames back, but one of them is empty."""
    assert problems(100, 100, ["frame 7: no pixels (0x0)"], 0) == [
        "1 empty masks, first: frame 7: no pixels (0x0)"
    ]


def test_no_frame_or_a_crash_at_the_end_fails() -> None:
    """Nothing played is no success, and a node must end well."""
    assert problems(0, 0, [], 0) == ["no frame was played"]
    assert "exit status -9" in problems(10, 10, [], -9)[0]


# Planning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((15.0, 150, 0.030, 12.0, None), (15.0, 1, 180)),  # 20 Hz would do: as recorded
        ((15.0, 150, 0.100, 12.0, None), (5.0, 3, 60)),  # 6 Hz are sustained: one in three
        ((30.0, 900, 9.000, 12.0, None), (0.5, 60, 6)),  # never slower than 0.5 Hz
        ((10.0, 150, 0.100, 3.0, 10.0), (10.0, 1, 30)),  # as the user wants it
        ((30.0, 150, 0.100, 3.0, 10.0), (10.0, 3, 30)),  # in about real time
        ((10.0, 150, 0.100, 3.0, 60.0), (60.0, 1, 180)),  # faster than recorded
    ],
)
def test_clip_plan(
    asked: tuple[float, int, float, float, float | None], expected: tuple[float, int, int]
) -> None:
    """The clip fills 60% of the node's time and plays in about real time."""
    clip = plan_clip(*asked)
    assert (clip.rate_hz, clip.stride, clip.count) == expected


def test_clip_says_how_it_differs() -> None:
    """Thinning and cutting are told, a whole clip at its own rate says nothing."""
    assert plan_clip(15.0, 150, 0.02, 12.0, None).notes == ()
    thinned, cut = plan_clip(30.0, 900, 0.1, 10.0, None).notes
    assert thinned.startswith("a frame takes 100 ms here, so one in 5 of the source's 30 frames/s")
    assert cut == "10 s of its 30 s are played (--seconds)"


def test_clip_plays_every_nth_frame() -> None:
    """One in three of the source, at most as many as planned, the same in every pass."""
    clip = plan_clip(15.0, 20, 0.1, 0.8, None)
    names = ["000000", "000003", "000006", "000009"]
    source = StreetClip(1, 20, (32, 32))
    assert [s.name for s in clip.samples(source)] == names
    assert [s.name for s in clip.samples(source)] == names


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(360, 480, 1.0), (100, 100, 1.0), (720, 960, 0.5), (1080, 1920, 0.29), (9000, 16000, 0.05)],
)
def test_input_scale_fits_the_training_size(
    random_models: Path, height: int, width: int, scale: float
) -> None:
    """The network sees about as many pixels as in training, never more than there are."""
    manifest = Manifest.read(random_models / "swiftnet18-half.json")
    trained = Manifest(**{**vars(manifest), "training_size": (480, 360)})
    assert fitting_scale(sample_of(height, width), trained) == scale


def test_only_changed_parameters_are_given() -> None:
    """The node's command line shows what differs from its defaults."""
    config = Config().updated({"model": "other", "input.scale": 0.5})
    assert node_parameters(config) == {"model": "other", "input.scale": 0.5}


def test_nonsense_wishes_are_refused(tmp_path: Path) -> None:
    """A clip without length or rate is refused before anything starts."""
    pytest.importorskip("rclpy")
    out = tmp_path / "out"
    with pytest.raises(SegNodeError, match=r"--seconds is 0\.0: use a number above 0"):
        run_demo(Wishes("street:1", out, seconds=0.0))
    with pytest.raises(SegNodeError, match="--rate is nan: use a number above 0"):
        run_demo(Wishes("street:1", out, rate_hz=float("nan")))
    assert not out.exists()


def test_without_ros_the_demo_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear sentence where rclpy is missing."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SegNodeError, match=r"no rclpy: run it as 'make demo'.*setup.bash"):
        run_demo(Wishes("street:1", tmp_path / "out"))


# Environment --------------------------------------------------------------------------------


def test_environment_is_private() -> None:
    """Nothing leaves the machine; a domain and a transport that somebody chose are kept."""
    made = private_environment({}, 5)
    assert domain_is_free(int(made["ROS_DOMAIN_ID"]))
    assert made.items() >= local_environment({}).items()
    chosen = {"ROS_DOMAIN_ID": "42", VARIABLE: "UDPv4"}
    assert private_environment(chosen, 5)["ROS_DOMAIN_ID"] == "42"
    assert VARIABLE not in private_environment(chosen, 5)
    assert 1 <= choose_domain(250) <= 100


def test_used_domains_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search wraps around, and says so when there is none."""
    monkeypatch.setattr("seg_node.ros.domain.domain_is_free", lambda domain: domain == 3)
    assert choose_domain(98) == 3
    monkeypatch.setattr("seg_node.ros.domain.domain_is_free", lambda _: False)
    with pytest.raises(SegNodeError, match="all 100 DDS domains are in use"):
        choose_domain(0)


def test_node_keeps_the_library_path() -> None:
    """ROS from the package index finds its libraries by LD_LIBRARY_PATH, in children too."""
    made = node_environment({"LD_LIBRARY_PATH": "/somewhere", "ROS_DOMAIN_ID": "9"})
    assert (made["LD_LIBRARY_PATH"], made["ROS_DOMAIN_ID"]) == ("/somewhere", "9")
    assert made.keys() >= os.environ.keys()


# The page -----------------------------------------------------------------------------------


def results_of_nothing() -> dict[str, Any]:
    """Return results in which every figure that may be missing is missing."""
    entry = dict.fromkeys(
        ("miou", "class_iou", "pixel_accuracy", "ms", "gmac_per_frame", "gmac_saving")
    )
    return {
        "data": "folder:<b>&",
        "model": {"name": "m", "sha256": "0" * 64},
        "classes": [c.name for c in CAMVID_CLASSES],
        "device": "",
        "versions": {"middleware": "rmw"},
        "config": {"mode": "dense"},
        "interrupted": True,
        "modes": {"dense": {**entry, "dropped": 3, "frames": 0, "labelled_frames": 0}},
        "source": {"skipped_reasons": {"a <reason>": 2}, "shortfall": "short", "sha256": None},
        "demo": {
            **dict.fromkeys(("played_hz", "returned_hz", "latency_ms")),
            "played": 3, "returned": 0, "notes": ["a note"], "problems": ["all lost"],
            "empty_masks": [], "health": {"input": {"worst": 2, "last": "stale"}},
            "converter": "", "node_command": ["-m", "x"],
        },
    }  # fmt: skip


def test_page_stands_alone_and_escapes() -> None:
    """The page names nothing outside its folder, and what it quotes cannot become markup."""
    page = render_page(results_of_nothing(), CAMVID_CLASSES, [{"mask": b"jpeg"}])
    assert "http" not in page
    assert "folder:&lt;b&gt;&amp;" in page
    assert "a &lt;reason&gt;" in page
    for text in ("Failed: all lost", "Interrupted", "a note", "short", "error", "Pedestrian"):
        assert text in page
    assert 'src="preview.mp4"' in page
    assert "data:image/jpeg;base64,anBlZw==" in page
    assert 'name="viewport"' in page


def test_page_shows_and_explains_plan_and_age_beside_the_mask() -> None:
    """Three pictures a frame, each said to be what it is; savings and ages in the figures."""
    results = results_of_nothing()
    milliseconds = {"p50": 12.0, "p95": 345.0, "max": 678.0, "mean": 20.0}
    entry = {
        **results["modes"].pop("dense"),
        "ms": milliseconds, "age_ms": milliseconds, "gmac_per_frame": 1.5, "gmac_saving": 0.834,
        "fractions": {"high": 0.125, "low": 0.0, "reuse": 0.875, "gated": None},
    }  # fmt: skip
    results["modes"] = {"adaptive": entry}
    frames = [{"mask": b"jpeg", "plan": b"plan", "age": b"age"}] * 2
    page = render_page(results, CAMVID_CLASSES, frames)
    for name, data in (("mask", "anBlZw=="), ("plan", "cGxhbg=="), ("age", "YWdl")):
        assert page.count(f'src="data:image/jpeg;base64,{data}" alt="{name}: ') == 2
        assert page.count(f"<b>{name}</b>: ") == 1
    text = " ".join(page.split())
    assert "<b>83%</b> <span></span><div>of the computation saved" in text
    assert "mode adaptive: 83.4 % less than dense" in text
    assert "12.5 % HIGH, 0.0 % LOW, 87.5 % REUSE</td>" in text
    assert "max 678 ms" in text


# Real demos ---------------------------------------------------------------------------------


def run_real(models: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `seg_node demo` in a process of its own, at a rate that any machine keeps up with."""
    return subprocess.run(
        [sys.executable, "-m", "seg_node.cli", "demo", *args],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "SEG_NODE_MODELS": str(models)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def demo_results(out: Path) -> dict[str, Any]:
    """Return the written results."""
    content: dict[str, Any] = json.loads((out / "results.json").read_text())
    return content


@pytest.mark.ros
@pytest.mark.slow
def test_demo_of_the_street(tmp_path: Path, random_models: Path) -> None:
    """The street goes through the real node and back, is scored, and can be looked at."""
    pytest.importorskip("rclpy")
    out = tmp_path / "demo"
    asked = ("--source", "street:1", "--seconds", "4", "--rate", "2.5", "--mode", "adaptive")
    ran = run_real(random_models, *asked, "--out", str(out))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = demo_results(out)
    assert results["demo"]["played"] == 10
    assert results["demo"]["returned"] >= 9
    assert results["demo"]["problems"] == []
    assert results["demo"]["node_status"] == 0
    assert results["demo"]["latency_ms"]["p50"] > results["modes"]["adaptive"]["ms"]["p50"] > 0
    assert 0 <= results["modes"]["adaptive"]["miou"] <= 1
    assert results["config"]["input.scale"] < 1, "random models are trained on 128x96"
    assert "input.scale:=" in " ".join(results["demo"]["node_command"])
    assert "active: images from /image" in (out / "node.log").read_text()
    check_files(out, results["demo"]["returned"])
    page = (out / "index.html").read_text()
    assert page.count('alt="plan: ') == page.count('alt="age: ') == page.count('alt="mask: ') > 1
    # The bag has the street's own stamps again: one in 6 of its 15 frames/s.
    with BagReader(out / "result_bag") as reader:
        stamps = [
            m.message.header.stamp.sec * 10**9 + m.message.header.stamp.nanosec
            for m in reader.messages(["/segmentation/mask"])
        ]
    assert stamps == sorted(stamps)
    assert set(stamps) <= {400_000_000 * index for index in range(10)}


def check_files(out: Path, frames: int) -> None:
    """Everything that a person opens is there and whole."""
    with VideoReader(out / "preview.mp4") as video:
        assert sum(1 for _ in video.frames()) == frames
    assert (out / "contact_sheet.png").stat().st_size > 1000
    assert "<video" in (out / "index.html").read_text()
    with BagReader(out / "result_bag") as reader:
        counts = {topic.name: reader.promised[topic.name] for topic in reader.topics}
    assert counts == {
        "/image/compressed": frames,
        "/segmentation/legend": 1,
        "/segmentation/mask": frames,
        "/segmentation/overlay/compressed": frames,
        "/segmentation/plan": frames,
        "/segmentation/plan/image/compressed": frames,
        "/segmentation/stats": frames,
    }


@pytest.mark.ros
@pytest.mark.slow
def test_demo_of_a_video(tmp_path: Path, random_models: Path) -> None:
    """A user's own file works by its bare path; without labels there is no score."""
    pytest.importorskip("rclpy")
    movie = tmp_path / "my own.mp4"
    with VideoWriter(movie, 10.0) as video:
        for sample in StreetClip(2, 30, (128, 96)):
            video.write(sample.frame.image)
    out = tmp_path / "demo"
    ran = run_real(
        random_models, "--source", str(movie), "--rate", "2", "--mode", "dense", "--out", str(out)
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    results = demo_results(out)
    assert results["data"] == f"video:{movie}"
    assert results["demo"]["played"] == 6
    assert results["modes"]["dense"]["miou"] is None
    check_files(out, results["demo"]["returned"])


@pytest.mark.ros
@pytest.mark.slow
def test_node_that_dies_early_is_told_with_its_log(tmp_path: Path, random_models: Path) -> None:
    """The error has the end of the node's log, and results.json has the error."""
    pytest.importorskip("rclpy")
    broken = tmp_path / "models"
    broken.mkdir()
    for path in random_models.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "swiftnet18-half.safetensors").write_bytes(b"damaged")
    ran = run_real(broken, "--seconds", "1", "--out", str(tmp_path / "demo"))
    assert ran.returncode not in {0, 130}
    assert "Traceback" not in ran.stderr
    assert "the node ended early with exit status 1" in ran.stdout + ran.stderr
    assert "restore the file" in ran.stdout + ran.stderr
    assert "restore the file" in demo_results(tmp_path / "demo")["error"]


def test_process_that_ends_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` raises once the process is gone; `stop` then returns its status."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with NodeProcess({}, tmp_path / "node.log", {}) as node:
        node._process.wait(60)
        with pytest.raises(
            NodeDiedError, match=r"exit status 1; .*node\.log ends with:\n\(nothing"
        ):
            node.check()
        assert node.stop() == 1


def test_process_is_ended_by_sigint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters reach the command line as YAML; a process that obeys is not killed."""
    script = tmp_path / "node.py"
    # Not a shell: it could not trap SIGINT where the tests run in the background, which ignore it.
    script.write_text(
        f"#!{sys.executable} -S\nimport signal, sys\n"
        "signal.signal(signal.SIGINT, lambda *_: (print('bye'), sys.exit(0)))\n"
        "print(*sys.argv[1:], flush=True)\nsignal.pause()\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    log = tmp_path / "node.log"
    with NodeProcess({"model": "a b", "input.scale": 1.0}, log, {}) as node:
        while "\n" not in log.read_text():
            node.check()
        assert node.stop() == 0
    assert log.read_text().splitlines() == [
        '-m seg_node.ros.node --ros-args -p model:="a b" -p input.scale:=1.0',
        "bye",
    ]
