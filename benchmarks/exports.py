"""Export the shipped models and tell how far every file is from torch; JSON out.

Each row is one `seg_node export` into a folder that is thrown away afterwards.
"""

from __future__ import annotations

import argparse
from decimal import Context, ROUND_UP
import json
from pathlib import Path
import tempfile
from typing import Any

from seg_node.export.command import run_export
from seg_node.export.settings import ExportSettings

RUNS: tuple[dict[str, Any], ...] = (
    {"model": "swiftnet18-half", "formats": ("onnx", "pt2")},
    {"model": "swiftnet18-half", "precision": "fp16"},
    {"model": "swiftnet18-half", "parts": ("dense",), "formats": ("aoti",)},
    {"model": "swiftnet18"},
    {"model": "swiftnet18", "precision": "fp16"},
)
"""What is asked of each export; the size is that of the training."""
COLUMNS = (
    *("model", "precision", "format", "part", "MB"),
    *("difference", "of range", "same precision, of range", "labels equal"),
)


def bound(difference: float) -> str:
    """Return a difference with two digits, never smaller than it is."""
    if not difference:
        return "0"
    return f"{Context(prec=2, rounding=ROUND_UP).create_decimal_from_float(difference):.1e}"


def rows(report: dict[str, Any]) -> list[list[str]]:
    """Return the table's rows of one `export.json`; shares are cut off."""
    found = []
    for entry in report["files"]:
        difference, agreement = entry["difference"], entry["difference"]["agreement"]
        found.append(
            [
                report["model"]["name"],
                report["precision"],
                entry["format"],
                entry["part"],
                f"{entry['bytes'] // 10_000 / 100:.2f}",
                bound(difference["maximum"]),
                bound(difference["share"]),
                bound(difference["alike_share"]),
                "" if agreement is None else f"{int(agreement * 10_000) / 10_000:.4f}",
            ]
        )
    return found


def table(reports: list[dict[str, Any]]) -> str:
    """Return all exports as docs/export.md shows them."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row for report in reports for row in rows(report))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Export everything and show how far it is from torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the reports here")
    parser.add_argument("--table", type=Path, help="print the table of earlier reports")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())["exports"]))
        return 0
    reports = []
    for wishes in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            path = run_export(ExportSettings(out=Path(folder), **wishes))
            reports.append(json.loads(path.read_text()))
    print(table(reports))
    if options.json:
        result = {"command": "python benchmarks/exports.py", "exports": reports}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
