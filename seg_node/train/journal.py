"""What a run leaves to read: `log.jsonl`, and TensorBoard events where that is installed."""

from __future__ import annotations

import json
import logging
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOG = logging.getLogger(__name__)
EVENTS = "tensorboard"


class Journal:
    """Appends figures of a run to its folder.

    Args:
        folder: folder of the run.
        step: first step that will be written: lines of an earlier, lost future are removed.

    """

    def __init__(self, folder: Path, step: int) -> None:
        """Open both logs."""
        self.path = folder / "log.jsonl"
        self._forget(step)
        self._events = _open_events(folder / EVENTS, step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write named figures of a step."""
        line = json.dumps({"step": step, **values})
        with self.path.open("a") as log:
            log.write(line + "\n")
        LOG.info("%s", line)
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._events:
            self._events.close()

    def _forget(self, step: int) -> None:
        """Drop lines past `step`: a resumed run writes them again."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                known = json.loads(line)["step"] <= step
            except (ValueError, KeyError):  # a kill can cut the last line
                known = False
            if known:
                kept.append(line + "\n")
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(kept))
        partial.replace(self.path)


def _open_events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - it may be missing
    except ImportError:
        LOG.info("tensorboard is not installed (pip install tensorboard): log.jsonl only")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
