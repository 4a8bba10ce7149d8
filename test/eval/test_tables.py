"""Tables are readable as plain text, and drawn with lines on a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from seg_node.eval.tables import cost_tables, plain, score_tables, show, Table


@pytest.fixture
def results() -> dict[str, Any]:
    """Return results of two modes and two classes, with some figures that do not apply."""
    entry = {
        "miou": 0.61234, "image_miou": 0.5, "pixel_accuracy": 0.9, "boundary_f": None,
        "temporal_consistency": 0.75, "ece": 0.0125, "labelled_frames": 3, "frames": 4,
        "gmac_per_frame": 2.268, "gmac_saving": 0.0, "agreement": None, "speedup_vs_dense": 1.0,
        "speedup_per_frame": {"p25": 1.0, "p50": 1.0, "p75": 1.0},
        "fractions": {"high": 1.0, "low": 0.0, "reuse": 0.0, "gated": None},
        "ms": {"p50": 10.0, "p95": 12.0, "p99": 13.0, "max": 14.0, "mean": 10.5},
        "stage_ms": {"prepare": 0.5, "execute": 9.0},
        "class_iou": [0.25, None], "class_boundary_f": None, "class_share": [1.0, 0.0],
    }  # fmt: skip
    nothing = dict.fromkeys(entry) | {"labelled_frames": 0, "frames": 0}
    nothing["fractions"] = dict.fromkeys(("high", "low", "reuse", "gated"))
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
    accuracy, cost, compared, stages, classes = score_tables(results)
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
    nothing = ("warp", *["-"] * 9)
    own = ("dense", "0.0%", "1.00x", "1.00..1.00", "-", "-", "100.0%", "0.0%", "0.0%", "-")
    assert compared.rows == (own, nothing)
    header = ("IoU dense", "IoU warp", "boundary F dense", "boundary F warp", "true share")
    assert classes.header == ("class", *header)
    assert classes.rows[0] == ("Road", "0.250", "-", "-", "-", "1.0000")
    assert classes.rows[1] == ("Bicyclist", "-", "-", "-", "-", "0.0000")


def test_a_mode_is_compared_with_dense(results: dict[str, Any]) -> None:
    results["modes"]["warp"] |= {
        "gmac_saving": 0.6123, "speedup_vs_dense": 1.518,
        "agreement": {"pixel": 0.987, "miou": 0.9},
        "speedup_per_frame": {"p25": 1.4, "p50": 1.5, "p75": 1.666},
        "fractions": {"high": 0.3, "low": 0.7, "reuse": 0.0, "gated": 0.25},
    }  # fmt: skip
    compared = cost_tables(results)[1]
    assert dict(zip(compared.header, compared.rows[1], strict=True)) == {
        "mode": "warp", "MACs saved": "61.2%", "speed-up": "1.52x", "quartiles": "1.40..1.67",
        "same pixels": "98.7%", "mIoU to it": "0.9000",
        "high": "30.0%", "low": "70.0%", "reuse": "0.0%", "gated": "25.0%",
    }  # fmt: skip


def test_dense_alone_is_compared_with_nothing(results: dict[str, Any]) -> None:
    del results["modes"]["warp"]
    assert [table.title for table in cost_tables(results)] == [
        "Cost of a step (ms)",
        "Stages of a step (mean ms)",
    ]
    assert score_tables(results)[-1].header == ("class", "IoU", "boundary F", "true share")


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_are_drawn_on_terminals_alone(
    results: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    monkeypatch.setenv("COLUMNS", "120")
    show(results, score_tables(results), ["a note [bold] brackets"])
    text = capsys.readouterr().out
    assert ("─" in text) == terminal
    for part in ("folder:a[bold]b", "0.6123", "Bicyclist", "a note [bold] brackets"):
        assert part in text
