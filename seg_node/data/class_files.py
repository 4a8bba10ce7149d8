"""Reads the classes of a user's own data: `classes.csv` or `classes.txt` in its folder.

`classes.csv` has the columns `id,name,r,g,b` (in any order, named in its first line). The ids
of the classes are 0, 1, 2 ... without a gap; a line with id 255 gives a colour of void. Several
lines may share an id, to gather several colours in one class: the first one names it.
`classes.txt` has one name a line; the line number, from 0, is the id.
"""

from __future__ import annotations

import colorsys
import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seg_node.core.types import ClassInfo, DataError, IGNORE_LABEL
from seg_node.data.label_files import LabelFormat
from seg_node.data.pictures import read_file

if TYPE_CHECKING:
    from pathlib import Path

    Color = tuple[int, int, int]

_COLUMNS = ("id", "name", "r", "g", "b")
_GOLDEN_RATIO = 0.618034


@dataclass(frozen=True)
class ClassFile:
    """The content of a class file.

    Attributes:
        classes: the classes in id order.
        labels: how label pictures name them.

    """

    classes: tuple[ClassInfo, ...]
    labels: LabelFormat


def find_class_file(folder: Path) -> ClassFile | None:
    """Read `classes.csv`, or else `classes.txt`, of a folder; None where it has neither.

    Raises:
        DataError: the file cannot be used; the text names file and line.

    """
    table, names = folder / "classes.csv", folder / "classes.txt"
    if table.is_file():
        return _read_table(table)
    return _read_names(names) if names.is_file() else None


def _read_names(path: Path) -> ClassFile:
    names = [line.strip() for line in _text(path).splitlines() if line.strip()]
    _check_names(path, names)
    classes = tuple(ClassInfo(name, _color(index)) for index, name in enumerate(names))
    return ClassFile(classes, LabelFormat(values={i: i for i in range(len(names))}))


def _read_table(path: Path) -> ClassFile:
    rows = csv.DictReader(_text(path).splitlines(), skipinitialspace=True)
    missing = [x for x in _COLUMNS if x not in (rows.fieldnames or ())]
    if missing:
        msg = f"{path} lacks the columns {', '.join(missing)}: begin it with {','.join(_COLUMNS)}"
        raise DataError(msg)
    first: dict[int, ClassInfo] = {}
    colors: dict[Color, int] = {}
    for number, row in enumerate(rows, 2):
        label, info = _parse_row(path, number, row)
        if colors.setdefault(info.color, label) != label:
            msg = f"{path} line {number} gives colour {info.color} a second class: use another"
            raise DataError(msg)
        first.setdefault(label, info)
    first.pop(IGNORE_LABEL, None)
    gap = next((i for i in range(len(first)) if i not in first), None)
    if gap is not None:
        msg = f"{path} has no class {gap}: number the classes 0..{len(first) - 1} (255 = void)"
        raise DataError(msg)
    classes = tuple(first[i] for i in range(len(first)))
    _check_names(path, [info.name for info in classes])
    values = {i: i for i in range(len(classes))}
    return ClassFile(classes, LabelFormat(values=values, colors=colors))


def _parse_row(path: Path, number: int, row: dict[str, str]) -> tuple[int, ClassInfo]:
    try:
        label, r, g, b = (int(row[x]) for x in ("id", "r", "g", "b"))
    except (TypeError, ValueError) as error:
        msg = f"{path} line {number}: id, r, g and b must be whole numbers"
        raise DataError(msg) from error
    if not all(0 <= x <= 255 for x in (label, r, g, b)):  # noqa: PLR2004 - a byte
        msg = f"{path} line {number}: id, r, g and b must be in 0..255"
        raise DataError(msg)
    return label, ClassInfo(row["name"].strip(), (r, g, b))


def _check_names(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1 or not name})
    if not names or twice or len(names) > IGNORE_LABEL:
        why = f"names {twice[0]!r} twice or not at all" if twice else f"has {len(names)} classes"
        msg = f"{path} {why}: give 1..{IGNORE_LABEL} classes different names"
        raise DataError(msg)


def _text(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{path} is not UTF-8 text: {error}"
        raise DataError(msg) from error


def _color(index: int) -> Color:
    """Return a colour for a class without one; neighbouring ids get hues far apart."""
    hue = index * _GOLDEN_RATIO % 1.0
    r, g, b = colorsys.hsv_to_rgb(hue, 0.85, 0.95 if index % 2 else 0.65)
    return round(255 * r), round(255 * g), round(255 * b)
