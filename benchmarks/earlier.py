"""Curves that a file of results has already, for benchmarks that measure some of them anew."""

from __future__ import annotations

import json
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def with_earlier_curves(
    result: dict[str, Any], path: Path, same: Collection[str]
) -> dict[str, Any]:
    """Add the curves of an earlier run that were not measured again.

    Args:
        result: of this run, with its `curves`.
        path: file of an earlier run, if there is one.
        same: what both must have been measured on, keys of the result; else nothing is added.

    """
    if not path.exists():
        return result
    before = json.loads(path.read_text())
    if any(before.get(key) != result[key] for key in same):
        return result
    return {**result, "curves": before["curves"] | result["curves"]}
