"""The page about performance says what the committed outputs say, and how to get them again."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest

from benchmarks import performance_tables
from benchmarks.performance_tables import (
    command_of,
    cut,
    main,
    PAGE,
    raised,
    refreshed,
    RESULTS,
    TABLES,
)
from seg_node.cli import build_parser
from seg_node.core.config import Config, options


def test_every_table_is_what_its_file_says() -> None:
    """If this fails: run python -m benchmarks.performance_tables and look at what has changed."""
    assert refreshed(PAGE.read_text()) == PAGE.read_text()


def test_every_table_is_shown() -> None:
    assert set(re.findall(r"<!-- table: (\S+) -->", PAGE.read_text())) == set(TABLES)


def test_a_changed_output_and_a_changed_page_are_found(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "performance.md"
    page.write_text(PAGE.read_text().replace("| 4 |", "| 3 |"))
    monkeypatch.setattr(performance_tables, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["performance_tables", "--check"])
    assert main() == 1
    assert "run without --check" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["performance_tables"])
    assert main() == 0
    assert page.read_text() == PAGE.read_text()
    results = tmp_path / "results"
    results.mkdir()
    for file in RESULTS.glob("*.json"):
        (results / file.name).write_text(file.read_text())
    file = results / "latency_budget.json"
    content = json.loads(file.read_text())
    content["budgets"][0]["mean_of_budget"] += 0.5
    file.write_text(json.dumps(content))
    monkeypatch.setattr(performance_tables, "RESULTS", results)
    assert refreshed(PAGE.read_text()) != PAGE.read_text()


def test_numbers_are_cut_off() -> None:
    assert cut(0.6599, 2) == "0.65"
    assert cut(0.82, 1, 100) == "82.0"
    assert cut(-0.001, 2) == "-0.01"
    assert cut(None, 2) == "-"


def test_costs_are_rounded_up() -> None:
    assert raised(0.00461, 2, 100) == "0.47"
    assert raised(0.0050, 1, 100) == "0.5"


@pytest.mark.parametrize(
    "name",
    ["bench_adaptive_960x720_swiftnet18.json", "bench_stmg_swiftnet18-half.json",
     "evaluate_camvid_val_adaptive_swiftnet18.json"],
)  # fmt: skip
def test_what_is_to_be_typed_has_the_settings_of_the_output(name: str) -> None:
    """The command is read by the real parser, and asks for what the file holds."""
    content = json.loads((RESULTS / name).read_text())
    command = command_of(content)
    assert "/" not in command, "nobody else has our folders"
    args = build_parser().parse_args(shlex.split(command)[1:])
    asked = {option.name: str(option.value) for option in options(Config())}
    asked |= dict(pair.split("=", 1) for pair in args.set)
    asked |= {"mode": args.mode, "model": args.model}
    for key, value in content["config"].items():
        assert asked[key] == str(tuple(value) if isinstance(value, list) else value), key
