"""Scores as tables: with lines and colours on a terminal, as plain text elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
import sys
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from collections.abc import Sequence

ABSENT = "-"
"""What stands for a figure that does not apply."""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: what it shows.
        header: names of the columns; the first one is aligned left, the others right.
        rows: as many texts each.

    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def score_tables(results: dict[str, Any]) -> list[Table]:
    """Return accuracy and cost, one line per mode, then each mode's classes.

    Args:
        results: content of `results.json` from evaluate or replay.

    """
    modes = results["modes"]
    per_class = [_classes(mode, entry, results["classes"]) for mode, entry in modes.items()]
    return [_accuracy(modes), _cost(modes), _stages(modes), *per_class]


def show(results: dict[str, Any], notes: Sequence[str] = ()) -> None:
    """Print the tables of some results to standard output, and notes below them."""
    head = f"{results['data']}  {results['model']['name']}  {results['device']}"
    tables = score_tables(results)
    console = Console()
    if not console.is_terminal:
        sys.stdout.write("\n\n".join([head, *map(plain, tables), *notes]) + "\n")
        return
    console.print(head, markup=False, highlight=False)
    for table in tables:
        console.print(_rich(table))
    for note in notes:
        console.print(note, markup=False, highlight=False)


def plain(table: Table) -> str:
    """Return a table as lines of aligned columns."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    texts = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        texts.append("  ".join(cells).rstrip())
    return "\n".join([table.title, *texts])


def _rich(table: Table) -> RichTable:
    made = RichTable(title=table.title, title_justify="left")
    for index, name in enumerate(table.header):
        made.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in table.rows:
        made.add_row(*row)
    return made


def _accuracy(modes: dict[str, Any]) -> Table:
    keys = {
        "mIoU": "miou",
        "image mIoU": "image_miou",
        "accuracy": "pixel_accuracy",
        "boundary F": "boundary_f",
        "temporal": "temporal_consistency",
        "ECE": "ece",
    }
    rows = [
        (mode, *(_text(entry[key], 4) for key in keys.values()), str(entry["labelled_frames"]))
        for mode, entry in modes.items()
    ]
    return Table("Accuracy (0..1)", ("mode", *keys, "frames"), tuple(rows))


def _cost(modes: dict[str, Any]) -> Table:
    parts = ("p50", "p95", "p99", "max", "mean")
    rows = []
    for mode, entry in modes.items():
        ms = entry["ms"] or dict.fromkeys(parts)
        times = (_text(ms[part], 1) for part in parts)
        count = str(entry["frames"])
        rows.append((mode, _text(entry["gmac_per_frame"], 2), *times, count))
    return Table("Cost of a step (ms)", ("mode", "GMAC", *parts, "frames"), tuple(rows))


def _stages(modes: dict[str, Any]) -> Table:
    stages = list(dict.fromkeys(s for entry in modes.values() for s in entry["stage_ms"] or ()))
    rows = [
        (mode, *(_text((entry["stage_ms"] or {}).get(stage), 2) for stage in stages))
        for mode, entry in modes.items()
    ]
    return Table("Stages of a step (mean ms)", ("mode", *stages), tuple(rows))


def _classes(mode: str, entry: dict[str, Any], names: list[str]) -> Table:
    nothing = [None] * len(names)
    columns = [entry[key] or nothing for key in ("class_iou", "class_boundary_f", "class_share")]
    rows = [
        (name, _text(iou, 3), _text(boundary, 3), _text(share, 4))
        for name, iou, boundary, share in zip(names, *columns, strict=True)
    ]
    header = ("class", "IoU", "boundary F", "true share")
    return Table(f"Classes, mode {mode}", header, tuple(rows))


def _text(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"
