"""Scores as tables: with lines and colours on a terminal, as plain text elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
import sys
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.table import Table as RichTable

from seg_node.eval.results import DENSE

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
    """Return accuracy, cost, comparison with dense and stages by mode, and scores by class.

    Args:
        results: content of `results.json` from evaluate.

    """
    modes = results["modes"]
    return [_accuracy(modes), *cost_tables(results), _classes(modes, results["classes"])]


def cost_tables(results: dict[str, Any]) -> list[Table]:
    """Return cost, comparison with dense and stages, one line per mode.

    The comparison is left out where mode `dense` alone was run.

    Args:
        results: content of `results.json` from evaluate, replay or bench.

    """
    modes = results["modes"]
    compared = [] if set(modes) == {DENSE} else [_against_dense(modes)]
    return [_cost(modes), *compared, _stages(modes)]


def show(results: dict[str, Any], tables: Sequence[Table], notes: Sequence[str] = ()) -> None:
    """Print what was run, tables of its results and notes below them to standard output."""
    head = f"{results['data']}  {results['model']['name']}  {results['device']}"
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


def _against_dense(modes: dict[str, Any]) -> Table:
    """Return what each mode saves and how far its labels are those of dense."""
    actions = ("high", "low", "reuse", "gated")
    header = ("mode", "MACs saved", "speed-up", "quartiles", "same pixels", "mIoU to it", *actions)
    rows = []
    for mode, entry in modes.items():
        agreement = entry["agreement"] or {"pixel": None, "miou": None}
        rows.append(
            (
                mode,
                _percent(entry["gmac_saving"]),
                _times(entry["speedup_vs_dense"]),
                _quartiles(entry["speedup_per_frame"]),
                _percent(agreement["pixel"]),
                _text(agreement["miou"], 4),
                *(_percent(entry["fractions"][action]) for action in actions),
            )
        )
    return Table("Against dense, and shares of the blocks", header, tuple(rows))


def _stages(modes: dict[str, Any]) -> Table:
    stages = list(dict.fromkeys(s for entry in modes.values() for s in entry["stage_ms"] or ()))
    rows = [
        (mode, *(_text((entry["stage_ms"] or {}).get(stage), 2) for stage in stages))
        for mode, entry in modes.items()
    ]
    return Table("Stages of a step (mean ms)", ("mode", *stages), tuple(rows))


def _classes(modes: dict[str, Any], names: list[str]) -> Table:
    """Return IoU and boundary F of each class in every mode, and the class's true share."""
    nothing = [None] * len(names)
    header, columns = ["class"], []
    for title, key in (("IoU", "class_iou"), ("boundary F", "class_boundary_f")):
        for mode, entry in modes.items():
            header.append(f"{title} {mode}" if len(modes) > 1 else title)
            columns.append([_text(value, 3) for value in entry[key] or nothing])
    shares = next((e["class_share"] for e in modes.values() if e["class_share"]), nothing)
    header.append("true share")
    columns.append([_text(share, 4) for share in shares])
    return Table("Classes", tuple(header), tuple(zip(names, *columns, strict=True)))


def three_digits(value: float) -> str:
    """Return a number with three digits that count, or as a whole one where it has more."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"  # noqa: PLR2004 - rounds up


def _quartiles(ratios: dict[str, float] | None) -> str:
    """Return the quartiles of the speed-ups of single frames; half of them lie between."""
    return ABSENT if ratios is None else f"{ratios['p25']:.2f}..{ratios['p75']:.2f}"


def _times(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}x"


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1%}"


def _text(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"
