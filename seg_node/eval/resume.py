"""How a replay goes on that Ctrl-C has ended: `seg_node replay --resume`.

What was counted is stored to the last bit in `resume.json`, and the masks are in the result bag.
A bag and a video cannot be appended to, so both are written anew from the stored masks, without
computing them again. Modes that remember earlier frames step through all of them once more, since
their memory is stored nowhere: then the rest follows as in one run. Modes without a memory do not.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
import shutil
from typing import Any, TYPE_CHECKING

from seg_node.core.types import DataError
from seg_node.eval.outputs import BAG, clear_folder, MODES
from seg_node.eval.result_bag import read_made
from seg_node.eval.results import write_json

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from seg_node.data.sources import Sample
    from seg_node.eval.result_bag import Made
    from seg_node.eval.results import ModeRecord
    from seg_node.eval.worst import WorstFrames

RESUME = "resume.json"
EARLIER = "earlier"
"""Folder with the bags of the interrupted run, while they are written anew."""


def save(
    out: Path,
    request: Mapping[str, Any],
    frames: int,
    records: Mapping[str, ModeRecord],
    worst: Mapping[str, WorstFrames],
) -> None:
    """Store what `Earlier` needs.

    Args:
        out: folder of the run.
        request: what was asked for; only the same can be resumed.
        frames: frames that are done.
        records: what was counted of them, by mode.
        worst: the worst of them, by mode.

    Raises:
        DataError: the file cannot be written.

    """
    content = {
        "frames": frames,
        "request": request,
        "records": {mode: record.state() for mode, record in records.items()},
        "worst": {mode: kept.state() for mode, kept in worst.items()},
    }
    write_json(content, out / RESUME)


@dataclass(frozen=True)
class Earlier:
    """The frames that an interrupted run has done.

    Attributes:
        out: folder of the run.
        frames: how many there are.
        records: what was counted of them, by mode; see `ModeRecord.restore`.
        worst: scores of the worst of them by name, by mode; see `WorstFrames.state`.

    """

    out: Path
    frames: int
    records: Mapping[str, Mapping[str, Any]]
    worst: Mapping[str, Mapping[str, float]]

    @classmethod
    def load(cls, out: Path, request: Mapping[str, Any]) -> Earlier:
        """Read what `save` has stored, and set the bags aside.

        Args:
            out: folder of the run.
            request: what is asked for now.

        Raises:
            DataError: there is nothing to resume, it cannot be read, or it was another run.

        """
        path = out / RESUME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            frames, before = int(content["frames"]), dict(content["request"])
            earlier = cls(out, frames, dict(content["records"]), dict(content["worst"]))
        except FileNotFoundError as error:
            msg = f"{out} holds no interrupted replay to resume: leave --resume out"
            raise DataError(msg) from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            msg = f"{path} cannot be read ({error}): leave --resume out to start anew"
            raise DataError(msg) from error
        now = json.loads(json.dumps(request))
        changed = [x for x in {**before, **now} if before.get(x) != now.get(x)]
        if changed:
            name = changed[0]
            msg = (
                f"{out} holds a replay with {name} {before.get(name)!r}, not {now.get(name)!r}: "
                "resume with the options of then, or leave --resume out to start anew"
            )
            raise DataError(msg)
        earlier._set_aside()
        return earlier

    def frames_of(self, mode: str) -> Generator[Made]:
        """Yield what the mode made of each frame, in order; see `read_made`."""
        return read_made(self._bag(mode, self.out / EARLIER))

    def check(self, sample: Sample, labels: NDArray[np.uint8]) -> None:
        """Refuse a frame that is not the one that a mask was made of.

        Raises:
            DataError: they are of different sizes.

        """
        if sample.frame.image.shape[:2] != labels.shape:
            msg = (
                f"frame {sample.name} is of another size than the mask of the earlier run in "
                f"{self.out}: the data have changed; leave --resume out to start anew"
            )
            raise DataError(msg)

    def put_back(self) -> None:
        """Undo setting the bags aside: the folder is as the interrupted run has left it."""
        for mode in self.records:
            self._move(self._bag(mode, self.out / EARLIER), self._bag(mode, self.out))
        shutil.rmtree(self.out / EARLIER, ignore_errors=True)

    def forget(self) -> None:
        """Remove what was set aside: all of it is written anew."""
        shutil.rmtree(self.out / EARLIER, ignore_errors=True)
        (self.out / RESUME).unlink(missing_ok=True)

    def _set_aside(self) -> None:
        """Move the bags away, unless a run that was killed has done so; remove what it left."""
        for mode in self.records:
            aside = self._bag(mode, self.out / EARLIER)
            if not aside.exists():
                self._move(self._bag(mode, self.out), aside)
        clear_folder(self.out, keep=(EARLIER, RESUME, "frames.csv", "costs.json"))

    def _bag(self, mode: str, folder: Path) -> Path:
        return folder / MODES / mode / BAG if len(self.records) > 1 else folder / BAG

    @staticmethod
    def _move(bag: Path, to: Path) -> None:
        shutil.rmtree(to, ignore_errors=True)
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            bag.rename(to)
        except OSError as error:
            msg = f"the masks of the interrupted replay are not in {bag}: start anew"
            raise DataError(msg) from error
