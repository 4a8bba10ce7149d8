"""The page of a run says what to choose and why, and shows it in a browser without a network."""

from __future__ import annotations

import re
from typing import Any, TYPE_CHECKING

import pytest

from seg_node.core.types import CAMVID_CLASSES
from seg_node.eval.advice import SweepPoint
from seg_node.eval.compare import COMPARE, compare, OldRun
from seg_node.eval.frames import read_frames
from seg_node.eval.report import write_report
from test.eval.browser import Browser
from test.eval.runs import make_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLASSES = len(CAMVID_CLASSES)


def write_page(out: Path, **changed: Any) -> Path:
    """Write the page of a made-up run."""
    points = changed.pop("points", ())
    results, worst = make_run(out, **changed)
    frames = read_frames(out / "frames.csv", CLASSES)
    return write_report(results, frames, worst, CAMVID_CLASSES, out, points)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a browser for all tests."""
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


PLOTS = """
Object.fromEntries([...document.querySelectorAll('canvas')].map((canvas) => {
  const chart = Chart.getChart(canvas);
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const inks = new Set();
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] === 255) inks.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
  }
  const ink = (color) => '#' + color.toString(16).padStart(6, '0');
  return [canvas.id, {
    lines: chart.data.datasets.map((line) => line.label),
    legend: chart.legend.legendItems.length,
    inks: [...inks].map(ink),
  }];
}))
"""


def hover(browser: Browser, plot: str, line: int, point: int) -> dict[str, Any]:
    """Point at a point of a plot and return what its tooltip says."""
    chart = f"Chart.getChart('{plot}')"
    browser.ask(f"{chart}.canvas.scrollIntoView({{block: 'center'}})")
    place = browser.ask(f"""(() => {{
        const {{ x, y }} = {chart}.getDatasetMeta({line}).data[{point}];
        const box = {chart}.canvas.getBoundingClientRect();
        return [box.left + x, box.top + y];
    }})()""")
    browser.point(*place)
    found: dict[str, Any] = browser.ask(f"""(() => {{
        const {{ opacity, title, body, footer }} = {chart}.tooltip;
        return {{ opacity, title, lines: (body || []).flatMap((b) => b.lines), footer }};
    }})()""")
    assert found["opacity"] == 1, f"{plot} shows no tooltip"
    return found


def test_a_browser_draws_every_plot(tmp_path: Path, browser: Browser) -> None:
    """Each line has ink of its own colour and a name in the legend; nothing is complained of."""
    modes = {"dense": (0.10, 40.0), "warp": (0.2, 8.0)}
    browser.open(write_page(tmp_path, modes=modes), 1280)
    plots = browser.ask(PLOTS)
    assert {name: plot["lines"] for name, plot in plots.items()} == {
        "compute": ["dense", "warp", "nothing better was tried"],
        "latency": ["dense", "warp", "nothing better was tried"],
        "histogram": ["dense", "warp"],
        "steps": ["dense", "warp"],
        "plan": ["computed in full", "at half resolution", "remembered"],
        "ages": ["oldest block", "block in the middle"],
    }
    dense, warp, remembered, oldest = "#0072b2", "#d55e00", "#58585c", "#b3261e"
    for name, plot in plots.items():
        assert plot["legend"] == len(plot["lines"]), name
        inks = {"plan": {remembered}, "ages": {oldest}}.get(name, {dense, warp})
        assert inks <= set(plot["inks"]), name
    images = browser.ask("[...document.images].map((i) => i.src.slice(0, 15) + i.naturalWidth)")
    assert images == ["data:image/jpeg440"] * (2 * 2 * 5)
    assert browser.trouble == []


def test_pointing_tells_and_buttons_choose(tmp_path: Path, browser: Browser) -> None:
    swept, _ = make_run(tmp_path / "swept", modes={"warp": (0.15, 12.0)})
    point = SweepPoint({"budget.latency_ms": 20}, swept["modes"], frozenset({"warp"}))
    modes = {"dense": (0.10, 40.0), "warp": (0.2, 8.0)}
    browser.open(write_page(tmp_path, modes=modes, points=[point]), 1280)
    found = hover(browser, "latency", 1, 1)
    assert found["title"] == ["warp with budget.latency_ms=20"]
    assert re.fullmatch(r"mIoU 0\.\d{3}", found["lines"][0])
    found = hover(browser, "plan", 0, 3)
    assert found["title"] == ["0.30 s"]
    assert found["lines"] == ["computed in full: 0%", "at half resolution: 0%", "remembered: 100%"]
    reason = " ".join(line.strip() for line in found["footer"])
    assert reason == "the newest full computation, moved to where things are now"
    assert hover(browser, "ages", 0, 3)["lines"][0] == "oldest block: 200 ms"
    button = "document.querySelector('#picker button')"
    box = browser.ask(f"(({{x, y}}) => [x + 5, y + 5])({button}.getBoundingClientRect())")
    browser.point(*box, click=True)
    assert browser.ask("document.querySelector('.mode').textContent") == "dense"
    assert hover(browser, "plan", 0, 3)["lines"][0] == "computed in full: 100%"
    assert browser.trouble == []


def test_a_phone_needs_no_scrolling_sideways(tmp_path: Path, browser: Browser) -> None:
    browser.open(write_page(tmp_path), 390)
    assert browser.ask("document.documentElement.scrollWidth") <= 390
    assert browser.ask("innerWidth") == 390
    assert browser.trouble == []


def test_nothing_is_asked_of_a_network(tmp_path: Path, browser: Browser) -> None:
    page = write_page(tmp_path)
    browser.open(page, 390)
    asked = [address for address in browser.requests if not address.startswith("data:")]
    assert asked == [page.as_uri()]


def test_nothing_is_fetched_and_data_cannot_become_markup(tmp_path: Path) -> None:
    text = write_page(tmp_path).read_text()
    own = text[: text.index("/*!\n * Chart.js")] + text[text.index("<script>// Draws") :]
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|url\(|https?://""", own)
    assert "default-src 'none'" in own
    assert "sourceMappingURL" not in text
    assert "made up &lt;&amp;&gt;" in own
    assert "made up <&>" not in own
    assert len(text) < 600_000


def test_it_has_every_figure_and_what_was_run(tmp_path: Path) -> None:
    text = write_page(tmp_path).read_text()
    for expected in (
        "Choose warp: 95 of 100 frames take at most",
        "It computes 10% of what dense does (0.1 of 1 GMAC a frame).",
        "In 95 of 100 frames nothing shown is older than 200 ms.",
        "Only 12 frames were scored",
        "frames.csv",
        "ab" * 32,
        "cd" * 32,
        "budget.latency_ms",
        "version of torch",
        "frame 000",
        "Bicyclist",
    ):
        assert expected in text, expected
    assert "J a frame" not in text, "a column that nobody fills is left out"


def test_modes_are_listed_as_they_were_asked_for(tmp_path: Path) -> None:
    text = write_page(tmp_path, modes={"warp": (0.1, 8.0), "dense": (0.1, 40.0)}).read_text()
    assert '"timeline": {"warp": ' in text
    assert text.index("</i>warp</th>") < text.index("</i>dense</th>")


def test_without_labels_dense_is_the_reference(tmp_path: Path) -> None:
    text = write_page(tmp_path, labelled=False).read_text()
    assert "of the pixels get the same class" in text
    assert "a pixel that differs from dense may be the right one" in text
    assert '<table id="classes">' not in text
    assert "differ most from computing everything" in text


def test_points_of_a_sweep_are_shown_with_their_settings(tmp_path: Path) -> None:
    results, _ = make_run(tmp_path, modes={"adaptive": (0.1, 20.0)})
    point = SweepPoint({"budget.latency_ms": 20}, results["modes"], frozenset())
    text = write_page(tmp_path, points=[point]).read_text()
    assert "adaptive with budget.latency_ms=20" in text
    assert "small ones with the settings of the sweep" in text


def test_changes_since_an_earlier_run_are_told(tmp_path: Path) -> None:
    old, _ = make_run(tmp_path / "old", modes={"dense": (0.10, 40.0), "warp": (0.3, 8.0)})
    new, worst = make_run(tmp_path / "new", modes={"dense": (0.10, 60.0), "warp": (0.1, 8.0)})
    frames = read_frames(tmp_path / "new" / "frames.csv", CLASSES)
    table = read_frames(tmp_path / "old" / "frames.csv", CLASSES)
    new[COMPARE] = compare(OldRun(tmp_path / "old" / "results.json", old, table), new, frames)
    page = write_report(new, frames, worst, CAMVID_CLASSES, tmp_path / "new")
    rows = re.findall(r"<tr>.*?</tr>", page.read_text(), re.DOTALL)
    told = {
        (row[0], row[1]): row[-1]
        for row in (re.findall(r">([^<>]+)</t[hd]>", text) for text in rows)
        if row[-1] in {"better", "worse", "no difference seen"}
    }
    assert told["warp", "mIoU"] == "better"
    assert told["dense", "mIoU"] == "no difference seen"
    assert told["dense", "step, mean"] == "worse"


def test_a_run_that_hardly_began_has_a_page_too(tmp_path: Path, browser: Browser) -> None:
    browser.open(write_page(tmp_path, count=0), 390)
    assert browser.trouble == []
