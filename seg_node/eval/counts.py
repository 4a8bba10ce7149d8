"""What a replay has counted, to the last bit: `counts.json`, from which a fleet is pooled."""

from __future__ import annotations

from dataclasses import dataclass
import json
from typing import TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.eval.results import ModeRecord, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COUNTS = "counts.json"
"""Name of the file in the folder of a replay."""


@dataclass(frozen=True)
class Counts:
    """What was counted in a whole replay.

    Attributes:
        modes: the record of every mode.
        reference: that of mode `dense` outside of simulated time; None where it did not run.

    """

    modes: Mapping[str, ModeRecord]
    reference: ModeRecord | None = None

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            DataError: it cannot be written.

        """
        content = {
            "modes": {mode: record.state() for mode, record in self.modes.items()},
            "reference": self.reference.state() if self.reference else None,
        }
        write_json(content, path)

    @classmethod
    def read(cls, path: Path, classes: int) -> Counts:
        """Read the file of a replay with a model of so many classes.

        Raises:
            DataError: it cannot be read.

        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            modes = {m: _restored(state, classes) for m, state in content["modes"].items()}
            beside = content["reference"]
            return cls(modes, None if beside is None else _restored(beside, classes))
        except (OSError, ValueError, TypeError, KeyError) as error:
            msg = f"{path} cannot be read ({error}): remove its folder, and --resume runs it again"
            raise DataError(msg) from error


def _restored(state: Mapping[str, object], classes: int) -> ModeRecord:
    record = ModeRecord(classes)
    record.restore(state)
    return record
