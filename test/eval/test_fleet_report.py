"""The page of a fleet: pooled figures first, then what failed, then every recording."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seg_node.core.types import Action, CAMVID_CLASSES, Frame
from seg_node.data.datasets import Sample
from seg_node.eval.counts import Counts
from seg_node.eval.fleet_merge import BagResult, merge
from seg_node.eval.fleet_report import write_fleet_report
from seg_node.eval.fleet_task import BagEnd, BagTask
from seg_node.eval.replay_command import Request
from seg_node.eval.require import parse_rules
from seg_node.eval.results import count_frame, make_results, ModeRecord
from test.eval.browser import Browser
from test.eval.runs import CONFIG, MANIFEST, SIZE, step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

TRUTH = np.repeat(np.arange(4, dtype=np.uint8), SIZE[0] // 4)[:, None].repeat(SIZE[1], 1)


def task_of(out: Path, name: str) -> BagTask:
    """Return the task of a recording in a fleet."""
    return BagTask(name, Request(f"bag:/data/{name}", CONFIG, out), out, "key", "token")


def done(
    out: Path, name: str, wrong: float, *, sha256: str = "", labelled: bool = True
) -> BagResult:
    """Return a recording of twelve frames of which mode warp has this share wrong."""
    random = np.random.default_rng(len(name))
    records = {mode: ModeRecord(len(CAMVID_CLASSES)) for mode in ("dense", "warp")}
    for index in range(12):
        results = {}
        for mode, share, ms in (("dense", 0.1, 40.0), ("warp", wrong, 8.0)):
            labels = np.where(random.random(SIZE) < share, (TRUTH + 1) % 4, TRUTH)
            action = Action.HIGH if mode == "dense" else Action.REUSE
            results[mode] = step(labels.astype(np.uint8), action, ms * random.uniform(0.9, 1.1))
        frame = Frame(np.zeros((*SIZE, 3), np.uint8), index)
        count_frame(records, name, Sample("0", frame, TRUTH if labelled else None), results)
    source: dict[str, Any] = {
        "topic": "/image", "rate_hz": 10.0, "skipped_reasons": {"torn": 1}, "stamp_problems": {},
        "shortfall": None, "sha256": sha256 or name, "promised": 13, "skipped": 1,
    }  # fmt: skip
    content = make_results(f"bag:/data/{name}", MANIFEST, "cpu", CONFIG, records)
    content |= {"reference": None, "source": source, "interrupted": False}
    return BagResult(task_of(out, name), BagEnd(name, "done"), 1, content, Counts(records))


def broken(out: Path, name: str) -> BagResult:
    """Return a recording that failed."""
    end = BagEnd(name, "failed", "bag <x> is cut off")
    return BagResult(task_of(out, name), end, 1)


def write(out: Path, *bags: BagResult) -> tuple[Path, dict[str, Any]]:
    """Write the page of a fleet; returns it with the results."""
    out.mkdir(exist_ok=True)
    results = merge(bags, MANIFEST, parse_rules("p95_ms<=20"))
    return write_fleet_report(results, bags, CAMVID_CLASSES, out), results


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a browser for all tests."""
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def test_the_page_has_pooled_figures_failures_and_every_recording(
    tmp_path: Path, browser: Browser
) -> None:
    bags = [done(tmp_path, f"drive {n}", 0.1 + 0.05 * n) for n in range(5)]
    page, results = write(tmp_path, *bags, broken(tmp_path, "torn"))
    for width in (1280, 390):
        browser.open(page, width)
        assert browser.ask("document.documentElement.scrollWidth") <= width
        assert browser.trouble == []
    text = page.read_text()
    assert "<h1>5 of 6 recordings</h1>" in text
    assert "1 of 6 recordings failed. All figures are of the others." in text
    assert "bag &lt;x&gt; is cut off" in text
    assert "passed warp: p95_ms&lt;=20, measured 8." in text
    assert "Skipped 5 x: torn" in text
    tables = text.split('class="recordings"')[1:]
    assert len(tables) == 2
    links = re.findall(r'<a href="([^"]+)">([^<]+)</a>', tables[1])
    assert links[0] == ("bags/drive%204/report.html", "drive 4"), "the lowest score first"
    assert [name for _, name in links] == [f"drive {n}" for n in (4, 3, 2, 1, 0)]
    drawn = browser.ask("""Object.fromEntries([...document.querySelectorAll('canvas')].map((c) => [
        c.id, Chart.getChart(c).data.datasets.map((line) => [line.label, line.data.length])]))""")
    front = "Chart.getChart('latency').data.datasets[2].data.map((dot) => dot.point.name)"
    assert browser.ask(front) == ["warp", "dense"], "no recording alone is a choice"
    assert drawn["latency"] == [["dense", 6], ["warp", 6], ["nothing better was tried", 2]]
    assert [label for label, _ in drawn["histogram"]] == ["dense", "warp"]
    assert set(drawn) == {"compute", "latency", "histogram"}, "there is no one run to draw"
    over = {(x["mode"], x["figure"]): x for x in results["over_recordings"]}
    low, high = over["warp", "miou"]["low"], over["warp", "miou"]["high"]
    assert low < results["modes"]["warp"]["miou"] == over["warp", "miou"]["value"] < high
    assert f"{low:.4f} .. {high:.4f}" in text


def test_what_makes_the_figures_other_than_they_seem_is_told(tmp_path: Path) -> None:
    bags = [
        done(tmp_path, "a", 0.2, sha256="same"),
        done(tmp_path, "b", 0.2, sha256="same"),
        done(tmp_path, "c", 0.3, labelled=False),
    ]
    assert bags[2].results is not None
    bags[2].results["device"] = "cuda"
    bags[2].results["versions"] = {**bags[2].results["versions"], "torch": "1"}
    page, results = write(tmp_path, *bags)
    assert results["notes"] == [
        "a and b hold the same bytes and count as often",
        "times are of different devices: cpu; cuda",
        "figures are of 2 different sets of versions",
        "labels are in 2 of 3 recordings: mIoU is of those",
    ]
    for note in results["notes"]:
        assert f"Mind: {note}." in page.read_text()
    assert results["modes"]["warp"]["labelled_frames"] == 24
    points = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])["points"]
    scores = {point["name"]: point["score"] for point in points}
    assert scores["warp, a alone"] == pytest.approx(2 / 3, abs=0.05)
    assert scores["warp, c alone"] is None, "its agreement does not stand where mIoU does"


def test_an_interrupted_fleet_says_so_and_is_not_judged(tmp_path: Path) -> None:
    waiting = BagResult(task_of(tmp_path, "later"), BagEnd("later", "interrupted"), 0)
    page, results = write(tmp_path, done(tmp_path, "a", 0.2), waiting)
    assert results["interrupted"]
    assert results["verdicts"] == []
    assert "these are the recordings that were done by then" in page.read_text()
    assert 'id="over"' not in page.read_text(), "one recording tells nothing of others"
