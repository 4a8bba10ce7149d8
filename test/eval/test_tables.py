"""Tables are readable as plain text, and drawn with lines on a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from seg_node.eval.tables import plain, score_tables, show, Table


@pytest.fixture
def results() -> dict[str, Any]:
    """Return results of two modes and two classes, with some figures that do not apply."""
    entry = {
        "miou": 0.61234, "image_miou": 0.5, "pixel_accuracy": 0.9, "boundary_f": None,
        "temporal_consistency": 0.75, "ece": 0.0125, "labelled_frames": 3, "frames": 4,
        "gmac_per_frame": 2.268,
        "ms": {"p50": 10.0, "p95": 12.0, "p99": 13.0, "max": 14.0, "mean": 10.5},
        "stage_ms": {"prepare": 0.5, "execute": 9.0},
        "class_iou": [0.25, None], "class_boundary_f": None, "class_share": [1.0, 0.0],
    }  # fmt: skip
    nothing = dict.fromkeys(entry) | {"labelled_frames": 0, "frames": 0}
    return {
        "data": "folder:a[bold]b",
        "model": {"name": "net"},
        "device": "cpu",
        "classes": ["Road", "Bicyclist"],
        "modes": {"dense": entry, "warp": nothing},
    }


def test_columns_are_aligned() -> None:
    table = Table("Title", ("name", "a", "long"), (("x", "1.00", "2"), ("longer", "3", "4")))
    assert plain(table).splitlines() == [
        "Title",
        "name       a  long",
        "x       1.00     2",
        "longer     3     4",
    ]


def test_every_figure_has_its_place(results: dict[str, Any]) -> None:
    accuracy, cost, stages, classes, none = score_tables(results)
    assert accuracy.rows[0] == (
        "dense",
        "0.6123",
        "0.5000",
        "0.9000",
        "-",
        "0.7500",
        "0.0125",
        "3",
    )
    assert cost.rows[0] == ("dense", "2.27", "10.0", "12.0", "13.0", "14.0", "10.5", "4")
    assert cost.header[2:7] == ("p50", "p95", "p99", "max", "mean")
    assert stages.rows == (("dense", "0.50", "9.00"), ("warp", "-", "-"))
    assert classes.rows == (("Road", "0.250", "-", "1.0000"), ("Bicyclist", "-", "-", "0.0000"))
    assert none.rows[0] == ("Road", "-", "-", "-")


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_are_drawn_on_terminals_alone(
    results: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    monkeypatch.setenv("COLUMNS", "120")
    show(results, ["a note [bold] brackets"])
    text = capsys.readouterr().out
    assert ("─" in text) == terminal
    for part in ("folder:a[bold]b", "0.6123", "Bicyclist", "a note [bold] brackets"):
        assert part in text
