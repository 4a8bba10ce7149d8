"""The page of a sweep shows every point with its settings and says which to take."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from seg_node.core.types import CAMVID_CLASSES, DataError
from seg_node.eval.require import judge, parse_rules
from seg_node.eval.sweep_report import write_sweep_report
from test.eval.runs import make_run

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


def test_every_point_is_there(tmp_path: Path) -> None:
    rows = []
    for key, limit, wrong in (("a", 10, 0.3), ("b", 20, 0.1)):
        folder = tmp_path / "points" / key
        results, _ = make_run(folder, modes={"dense": (0.1, 40.0), "adaptive": (wrong, limit)})
        (folder / "results.json").write_text(json.dumps(results))
        row = {
            "point": key,
            "settings": {"budget.latency_ms": limit},
            "pareto": [],
            "verdicts": [],
        }
        rows += [{**row, "mode": "dense"}, {**row, "mode": "adaptive", "pareto": ["gmac"]}]
    page = write_sweep_report(rows, tmp_path / "points", CAMVID_CLASSES, tmp_path).read_text()
    assert "Choose adaptive with budget.latency_ms=20: 95 of 100 frames" in page
    assert '<a href="points/a/report.html">adaptive with budget.latency_ms=10</a>' in page
    assert "dense with budget" not in page, "it knows no budget"
    assert page.count(">dense</a>") == 1
    assert "<code>swept</code>" in page
    points = json.loads(page.split('id="data">')[1].split("</script>")[0])["points"]
    assert [(p["mode"], p["pareto"], p["swept"]) for p in points] == [
        ("dense", False, False), ("adaptive", True, True), ("adaptive", True, True),
    ]  # fmt: skip
    assert 'id="steps"' not in page, "a sweep has no time line"
    assert 'id="rules"' not in page, "nobody gave any"
    (tmp_path / "points" / "b" / "results.json").unlink()
    with pytest.raises(DataError, match=r"a point of the sweep, .*results\.json"):
        write_sweep_report(rows, tmp_path / "points", CAMVID_CLASSES, tmp_path)


def test_which_points_keep_the_rules_is_told(tmp_path: Path) -> None:
    """10 ms is fast enough but wrong too often, 20 ms the other way round, 15 ms is fine."""
    rules = parse_rules("miou_drop<=5,p95_ms<=18")
    rows = []
    for key, limit, wrong in (("a", 10, 0.3), ("b", 15, 0.12), ("c", 20, 0.1)):
        folder = tmp_path / "points" / key
        results, _ = make_run(folder, modes={"dense": (0.1, 40.0), "adaptive": (wrong, limit)})
        results["reference"] = None
        (folder / "results.json").write_text(json.dumps(results))
        row: dict[str, Any] = {"point": key, "pareto": []}
        row["settings"] = {"budget.latency_ms": limit}
        verdicts = [verdict.entry() for verdict in judge(rules, results)]
        rows += [{**row, "mode": "dense", "verdicts": []}]
        rows += [{**row, "mode": "adaptive", "verdicts": verdicts}]
    page = write_sweep_report(rows, tmp_path / "points", CAMVID_CLASSES, tmp_path).read_text()
    assert "1 of 3 keep all rules." in page
    table = page[page.index('<table id="rules">') : page.index("What each mode came to")]
    head, *lines = [re.findall(r">([^<>]+)</t[hd]>", row) for row in table.split("</tr>")[:-1]]
    assert head == ["mode", "all rules", "miou_drop&lt;=5", "p95_ms&lt;=18"]
    assert [(line[0], line[1]) for line in lines] == [
        ("adaptive with budget.latency_ms=10", "BROKEN"),
        ("adaptive with budget.latency_ms=15", "kept"),
        ("adaptive with budget.latency_ms=20", "BROKEN"),
    ]
    assert re.findall(r'<td class="(good|bad)">', table) == [
        "bad", "bad", "good", "good", "good", "good", "bad", "good", "bad",
    ]  # fmt: skip
    assert "Choose adaptive with budget.latency_ms=15: " in page


def test_dense_is_shown_at_every_point_where_it_differs(tmp_path: Path) -> None:
    rows = []
    for key, scale in (("a", 0.5), ("b", 1.0)):
        folder = tmp_path / "points" / key
        results, _ = make_run(folder)
        (folder / "results.json").write_text(json.dumps(results))
        row = {"point": key, "settings": {"input.scale": scale}, "pareto": [], "verdicts": []}
        rows += [{**row, "mode": "dense"}, {**row, "mode": "warp"}]
    page = write_sweep_report(rows, tmp_path / "points", CAMVID_CLASSES, tmp_path).read_text()
    assert ">dense with input.scale=0.5</a>" in page
    assert ">dense with input.scale=1.0</a>" in page


def test_dense_is_shown_as_in_the_middle_of_its_runs(tmp_path: Path) -> None:
    rows = []
    for key, ms in (("a", 90.0), ("b", 30.0), ("c", 60.0)):
        folder = tmp_path / "points" / key
        results, _ = make_run(folder, modes={"dense": (0.1, ms), "warp": (0.1, 9.0)})
        (folder / "results.json").write_text(json.dumps(results))
        row = {"point": key, "settings": {"max_age_ms": ms}, "pareto": [], "verdicts": []}
        rows += [{**row, "mode": "dense"}, {**row, "mode": "warp"}]
    page = write_sweep_report(rows, tmp_path / "points", CAMVID_CLASSES, tmp_path).read_text()
    assert '<a href="points/c/report.html">dense</a>' in page
