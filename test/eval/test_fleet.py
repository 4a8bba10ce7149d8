"""Several recordings at once: two real workers, one of them killed, and nothing lost or doubled.

All runs but one are in simulated time with recorded costs, so that their files are equal to the
byte, times included.
"""

from __future__ import annotations

from contextlib import contextmanager
import json
import logging
import os
import shutil
import signal
from threading import Event, Thread, Timer
from typing import cast, TYPE_CHECKING

import numpy as np
import pytest

from seg_node.cli import main
from seg_node.core.config import Config
from seg_node.core.types import CAMVID_CLASSES, ConfigError
from seg_node.data.bag_writer import BagWriter
from seg_node.data.clips import StreetClip
from seg_node.data.compressed_images import encode_png
from seg_node.eval import fleet_run
from seg_node.eval.fleet_task import ATTEMPTS, BagTask, replay_bag
from seg_node.eval.frames import read_frames
from seg_node.eval.metrics import mean_of_seen
from seg_node.eval.progress import EXIT_INTERRUPTED
from seg_node.eval.replay import Extent
from seg_node.eval.replay_command import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

KilledWorker = pytest.importorskip("distributed").KilledWorker

MS = 1_000_000
FRAMES = {"long": 14, "short": 4, "other": 3}
"""Recordings, the first one long enough to be met in the middle."""
STEP_MS = 30
MODE = "warp"


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of labelled bags, 100 ms between frames."""
    folder = tmp_path_factory.mktemp("bags")
    for seed, (name, count) in enumerate(FRAMES.items()):
        with BagWriter(folder / name) as bag:
            for index, sample in enumerate(StreetClip(5 + seed, count, (192, 128))):
                assert sample.labels is not None
                at_ns = 10**18 + index * 100 * MS
                bag.write_image("/image", sample.frame.image, stamp_ns=at_ns, frame_id="c")
                png = encode_png(sample.labels)
                bag.write_compressed("/truth", png, "mono8; png", stamp_ns=at_ns, frame_id="c")
    return folder


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return costs by which every frame takes 30 ms."""
    rows = [[10**6 + high, 6, high, 0, STEP_MS * MS, None] for high in (0, 6)]
    columns = ["index", "blocks", "high", "low", "step_ns", "overhead_ns"]
    path = tmp_path_factory.mktemp("costs") / "costs.json"
    path.write_text(json.dumps({"columns": columns, "modes": {MODE: rows}}))
    return path


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Return the address of a scheduler with two workers, started as the command starts them."""
    with fleet_run.open_client(None, 2) as client:
        assert client.scheduler is not None
        yield str(client.scheduler.address)


@pytest.fixture(scope="module")
def options(random_models: Path, scheduler: str) -> tuple[str, ...]:
    """Return what all runs have in common."""
    model = str(random_models / "swiftnet18-half.json")
    given = ("--topic", "/image", "--mask-topic", "/truth", "--mode", MODE)
    settings = ("--set", "block_size=64", "--samples", "0", "--device", "cpu", "--model", model)
    return (*given, *settings, "--scheduler", scheduler)


@pytest.fixture(scope="module")
def virtual(options: tuple[str, ...], costs: Path) -> tuple[str, ...]:
    """Return the options of runs in simulated time."""
    return (*options, "--clock", "virtual", "--costs", str(costs))


@pytest.fixture(scope="module")
def whole(bags: Path, virtual: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a fleet in which nobody came to harm."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["replay", *recordings(bags), *virtual, "--out", str(out)]) == 0
    return out


def recordings(bags: Path) -> list[str]:
    """Return the recordings, the longest first."""
    return [str(bags / name) for name in FRAMES]


def results(folder: Path) -> Any:
    """Return what results.json holds."""
    return json.loads((folder / "results.json").read_text())


@contextmanager
def in_the_middle(out: Path, act: Callable[[int], None]) -> Iterator[None]:
    """Act once three frames of the long recording are written, given the process at work."""
    ended, attempts = Event(), out / ATTEMPTS / "long"

    def watch() -> None:
        while not ended.wait(0.005):
            for table in attempts.glob("*/frames.csv"):
                if len(table.read_text().splitlines()) > 3:
                    begun = table.parent.with_suffix(".begun")
                    act(json.loads(begun.read_text())["pid"])
                    return

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Killer:
    """Kills a worker of ours, which cannot clean up, and counts."""

    def __init__(self) -> None:
        """Begin with none."""
        self.killed: list[int] = []

    def __call__(self, pid: int) -> None:
        """Kill it."""
        assert pid != os.getpid()
        os.kill(pid, signal.SIGKILL)
        self.killed.append(pid)


def alike(out: Path) -> dict[str, bytes]:
    """Return all that a fleet has left that is the same however it went."""
    found = results(out)
    attempts = {entry["name"]: entry.pop("attempts") for entry in found["recordings"]}
    assert set(attempts) == set(FRAMES)
    files = {str(p.relative_to(out)): p for p in out.rglob("*") if p.is_file()}
    del files["results.json"]
    kept = {
        name: path.read_bytes()
        for name, path in files.items()
        if path.suffix in {".json", ".csv", ".mcap"} or name == "report.html"
    }
    return {**kept, "files": "\n".join(sorted(files)).encode(), "": json.dumps(found).encode()}


# Figures ------------------------------------------------------------------------------------


def test_figures_are_pooled_over_all_frames(whole: Path) -> None:
    """Recomputed from the tables of frames, which the fleet does not read."""
    found = results(whole)
    tables = [
        read_frames(whole / "bags" / name / "frames.csv", len(CAMVID_CLASSES)) for name in FRAMES
    ]
    entry = found["modes"][MODE]
    assert entry["frames"] == entry["labelled_frames"] == sum(FRAMES.values())
    hit, union = sum((table[MODE].overlaps.sum(0) for table in tables), np.zeros((11, 2))).T
    iou = [float(h / u) if u else None for h, u in zip(hit, union, strict=True)]
    assert entry["miou"] == mean_of_seen(iou)
    assert entry["class_iou"] == iou
    images = np.concatenate([table[MODE].numbers["miou"] for table in tables])
    assert entry["image_miou"] == pytest.approx(images.mean(), rel=1e-5)
    ages = np.concatenate([table[MODE].numbers["age_max_ms"] for table in tables])
    assert entry["age_ms"]["p95"] == pytest.approx(np.percentile(ages, 95), rel=1e-5)
    gmac = np.concatenate([table[MODE].numbers["gmac"] for table in tables])
    assert entry["gmac_per_frame"] == pytest.approx(gmac.mean(), rel=1e-5)
    assert [(x["name"], x["state"], x["attempts"]) for x in found["recordings"]] == [
        (name, "done", 1) for name in FRAMES
    ]
    assert {row["recordings"] for row in found["over_recordings"]} == {3}
    assert not (whole / ATTEMPTS).exists()


def test_a_recording_is_what_it_is_alone(
    tmp_path: Path, bags: Path, virtual: tuple[str, ...], whole: Path
) -> None:
    alone = [x for x in virtual if not x.startswith("tcp://") and x != "--scheduler"]
    out = tmp_path / "out"
    command = ["replay", str(bags / "other"), *alone, "--set", "threads=1", "--out", str(out)]
    assert main(command) == 0
    assert {**results(whole / "bags" / "other"), "config": 0} == {**results(out), "config": 0}
    for file in ("frames.csv", "costs.json", "result_bag/result_bag.mcap"):
        assert (whole / "bags" / "other" / file).read_bytes() == (out / file).read_bytes()


# Faults -------------------------------------------------------------------------------------


def test_a_killed_worker_changes_nothing(
    tmp_path: Path, bags: Path, virtual: tuple[str, ...], whole: Path
) -> None:
    out = tmp_path / "out"
    killer = Killer()
    with in_the_middle(out, killer):
        assert main(["replay", *recordings(bags), *virtual, "--out", str(out)]) == 0
    assert len(killer.killed) == 1
    attempts = {entry["name"]: entry["attempts"] for entry in results(out)["recordings"]}
    assert attempts == {"long": 2, "short": 1, "other": 1}
    assert alike(out) == alike(whole)


def test_a_recording_is_begun_as_often_as_retries_say(tmp_path: Path) -> None:
    """A worker takes with it what only waited there: that was not begun and costs no retry."""
    request = Request("street:1", Config(), tmp_path)
    task = BagTask("one", request, tmp_path, "key", "token")
    nobody = cast("Any", None)  # no client is asked, and no worker looked at
    run = fleet_run.FleetRun(nobody, retries=1)
    died = KilledWorker("key", nobody, 0)
    task.attempts.mkdir(parents=True)
    assert run.after(task, died) is None
    (task.attempts / "1.begun").touch()
    assert run.after(task, died) is None
    (task.attempts / "2.begun").touch()
    end = run.after(task, died)
    assert end is not None
    assert end.state == "failed"
    assert end.error == (
        "its worker died, and it was begun 2 times: too little memory, or a fault in a library; "
        "--resume tries again"
    )
    end = run.after(task, RuntimeError("no such thing"))
    assert end is not None
    assert end.error is not None
    assert end.error.startswith("RuntimeError: no such thing, and it was begun 2 times")
    (task.attempts / "2.begun").unlink()
    losses = [run.after(task, died) for _ in range(fleet_run.MOST_LOSSES)]
    assert losses[-1] is not None, "what is never begun is not lost for ever"


def press_ctrl_c(pid: int) -> None:
    """Interrupt this process while the one at work waits: else it may be done before that."""
    os.kill(pid, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGINT)
    Timer(0.5, os.kill, (pid, signal.SIGCONT)).start()


def test_ctrl_c_keeps_what_is_done_and_resume_adds_the_rest(
    tmp_path: Path, bags: Path, options: tuple[str, ...], whole: Path
) -> None:
    out = tmp_path / "out"
    command = ["replay", *recordings(bags), *options, "--out", str(out)]
    before = signal.signal(signal.SIGINT, lambda *_: None)  # should it come too late
    try:
        with in_the_middle(out, press_ctrl_c):
            assert main(command) == EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)
    assert results(out)["recordings"][0]["state"] == "interrupted"
    part = results(out / "bags" / "long")["modes"]["warp"]["frames"]
    assert 3 <= part < FRAMES["long"]
    begun = (out / "bags" / "long" / "frames.csv").read_bytes()
    assert main([*command, "--resume"]) == 0
    table = (out / "bags" / "long" / "frames.csv").read_bytes()
    assert table.startswith(begun), "its times are those of then"
    found, wanted = (results(folder)["modes"][MODE] for folder in (out, whole))
    for figure in ("miou", "class_iou", "ece", "gmac_per_frame", "frames", "age_ms"):
        assert found[figure] == wanted[figure], figure


def test_a_broken_recording_is_told_and_the_others_are_counted(
    tmp_path: Path, bags: Path, options: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    half, out = tmp_path / "half.mcap", tmp_path / "out"
    half.write_bytes((bags / "long" / "long.mcap").read_bytes()[:-900])
    sources = [str(half), str(tmp_path / "nowhere"), *recordings(bags)[1:]]
    rules = ("--require", "frames>=6,miou>=0", "--limit", "3")
    assert main(["replay", *sources, *options, *rules, "--out", str(out)]) == 1
    found = results(out)
    states = {entry["name"]: (entry["state"], entry["error"]) for entry in found["recordings"]}
    assert [state for state, _ in states.values()] == ["failed", "failed", "done", "done"]
    assert "cut off, damaged or unreadable" in states["half"][1]
    assert "does not exist; name a file, a folder" in states["nowhere"][1]
    assert "FAILED half: " in caplog.text
    assert "passed warp: frames>=6, measured 6" in caplog.text
    page = (out / "report.html").read_text()
    assert "2 of 4 recordings failed" in page
    assert 'href="bags/short/report.html"' in page
    assert (out / "bags" / "short" / "report.html").exists()
    assert not (out / "bags" / "half").exists()


def test_what_is_done_is_done_until_data_or_options_change(
    tmp_path: Path, bags: Path, random_models: Path
) -> None:
    """As a worker sees it, without Dask."""
    bag = shutil.copytree(bags / "other", tmp_path / "bag")
    model = str(random_models / "swiftnet18-half.json")
    config = Config(model=model, device="cpu", block_size=64, mode=MODE, threads=1)
    extent = Extent(samples=0, pictures=False)
    request = Request(str(bag), config, tmp_path, topic="/image", extent=extent)

    def run(key: str) -> bool:
        """Return whether it was replayed."""
        file = tmp_path / "out" / "bags" / "one" / "results.json"
        before = file.stat().st_mtime_ns if file.exists() else 0
        end = replay_bag(BagTask("one", request, tmp_path / "out", key, "token"))
        assert (end.state, end.error) == ("done", None)
        return file.stat().st_mtime_ns != before

    assert run("a")
    assert not run("a")
    assert run("b")
    with (bag / "other.mcap").open("r+b") as file:
        first = file.read().index(b"/truth")
        file.seek(first)
        file.write(b"/trutx")
    assert run("b"), "the data have changed"
    assert not run("b")


# Refusals -----------------------------------------------------------------------------------


def test_what_does_not_go_together_is_refused(
    tmp_path: Path,
    bags: Path,
    options: tuple[str, ...],
    whole: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = [x for x in options if not x.startswith("tcp://") and x != "--scheduler"]
    for extra, text in (
        (("--clock", "live"), "--clock live takes one recording: it plays in real time"),
        (("--sweep", "max_age_ms=1,2"), "--sweep takes one recording: sweep one, then replay"),
        (("--compare", "old.json"), "--compare takes one recording: compare each"),
        (("--workers", "0"), "--workers 0: give 1 or more"),
        (("--workers", "2", *options[-2:]), "--workers 2: give 1 or more, and not beside"),
        (("--retries", "-1"), "--retries -1: give 0 or more"),
        (("--resume",), "holds no replay of several recordings to resume: leave --resume out"),
        (("--resume", "--out", str(whole)), "holds replays with clock 'virtual', not 'every-fr"),
        (("--out", str(bags)), "lie in the output folder"),
        (("--out", str(bags.parent)), "lie in the output folder"),
    ):
        out = [] if "--out" in extra else ["--out", str(tmp_path / "out")]
        assert main(["replay", *recordings(bags), *alone, *out, *extra]) == 1
        error = capsys.readouterr().err
        assert text in error, text
        assert error.count("\n") == 1
    assert main(["replay", str(bags / "no*"), *alone]) == 1
    assert "no*' matches nothing: name recordings" in capsys.readouterr().err


def test_without_dask_or_its_scheduler_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"needs no_such_part: pip install 'seg_node\[fleet\]'"):
        fleet_run.check_packages(("dask", "no_such_part"))
    monkeypatch.setattr(fleet_run, "CONNECT_S", 0.2)
    nobody = "tcp://127.0.0.1:9"
    with (
        pytest.raises(ConfigError, match=f"no Dask scheduler answers at {nobody}"),
        fleet_run.open_client(nobody, 1),
    ):
        pass
