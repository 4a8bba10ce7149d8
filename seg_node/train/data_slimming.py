"""Training data slimmed by their complexity: which frames are shown small, rarely, or count less.

Nothing is moved or copied: the outcome is a list, `data_slimming.json`, of every frame's scale,
of the probability that it is kept when its turn comes, and of its weight in the loss.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
import json
from typing import TYPE_CHECKING

import numpy as np

from seg_node.core.types import ConfigError, DataError
from seg_node.train.complexity import ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from seg_node.train.complexity import Scored

FILE = "data_slimming.json"
SCALES = (1.0, 0.75, 0.5)
"""Scales at which frames are shown."""
HALVINGS = 40
"""Steps of the search for the strength."""


@dataclass(frozen=True)
class DataRules:
    """What slimming does to the simplest frame at full strength.

    Attributes:
        least_scale: its scale.
        least_keep: probability that it is kept.
        reweight: exponent r of the loss weight keep^-r, before all are divided by their mean:
            1 makes up for dropping, 0 gives equal weights.
        loose: share of the samples that are no listed frames, such as rendered streets: they are
            shown at the scale of the step and never dropped.

    """

    least_scale: float
    least_keep: float
    reweight: float
    loose: float = 0.0


@dataclass(frozen=True)
class SlimFrame:
    """How a frame is shown.

    Attributes:
        name: of the frame in its data.
        score: its complexity.
        scale: by which it is shown smaller, one of `SCALES`.
        keep: probability that it is used when its turn comes.
        weight: of its loss; 1 on average over what is used.

    """

    name: str
    score: float
    scale: float
    keep: float
    weight: float


@dataclass(frozen=True)
class DataManifest:
    """How every frame is shown.

    Attributes:
        complexity: name of the score.
        strength: 0 leaves all frames as they are, 1 slims all as far as the rules allow.
        frames: all frames, in the order of the data.

    """

    complexity: str
    strength: float
    frames: tuple[SlimFrame, ...]

    def write(self, folder: Path) -> Path:
        """Write `data_slimming.json` into a folder and return its path."""
        path = folder / FILE
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        partial.replace(path)
        return path

    @staticmethod
    def read(path: Path) -> DataManifest:
        """Read what `write` wrote.

        Raises:
            DataError: the file is not such a list; the text names what is wrong.

        """
        try:
            raw = json.loads(path.read_text())
            frames = tuple(SlimFrame(**frame) for frame in raw["frames"])
            return DataManifest(raw["complexity"], raw["strength"], frames)
        except (OSError, ValueError, KeyError, TypeError) as err:
            msg = f"{path} is not a list of slimmed data: {err!r}"
            raise DataError(msg) from err


def slim_data(scored: Scored, strength: float, rules: DataRules) -> DataManifest:
    """Return how every frame is shown; the same for the same scores.

    A frame of rank r (0 the simplest, 1 the most complex) is slimmed by clip(2 strength - r) of
    what the rules allow: from strength 0 on the simplest first, at 1 all.

    Args:
        scored: the frames.
        strength: 0 to 1.
        rules: what full slimming is.

    """
    amount = np.clip(2.0 * strength - ranks(scored.scores), 0.0, 1.0)
    wanted = 1.0 - (1.0 - rules.least_scale) * amount
    allowed = np.array([scale for scale in SCALES if scale >= rules.least_scale])
    scales = allowed[np.abs(wanted[:, None] - allowed).argmin(1)]
    keep = 1.0 - (1.0 - rules.least_keep) * amount
    weights = keep**-rules.reweight
    weights *= keep.sum() / (keep * weights).sum()
    columns = zip(scored.names, scored.scores, scales, keep, weights, strict=True)
    frames = tuple(SlimFrame(name, *map(float, values)) for name, *values in columns)
    return DataManifest(scored.complexity, strength, frames)


def cost_of(manifest: DataManifest, area: Callable[[float], float], loose: float) -> float:
    """Return the expected cost of a sample, as a share of one that is shown whole.

    Args:
        manifest: how frames are shown.
        area: cost of a sample at a scale, as a share of one at scale 1.
        loose: share of samples that are no listed frames; see `DataRules`.

    """
    areas = np.array([area(frame.scale) for frame in manifest.frames])
    kept = np.array([frame.keep for frame in manifest.frames])
    return float(((loose + (1.0 - loose) * kept) * areas).mean())


def find_strength(
    scored: Scored, target: float, rules: DataRules, area: Callable[[float], float]
) -> DataManifest:
    """Return the weakest slimming that costs no more than a target.

    Args:
        scored: the frames.
        target: wanted cost of a sample; see `cost_of`.
        rules: what full slimming is.
        area: see `cost_of`.

    Raises:
        ConfigError: not even full slimming is enough; the text says how much remains.

    """

    def at(strength: float) -> tuple[DataManifest, float]:
        made = slim_data(scored, strength, rules)
        return made, cost_of(made, area, rules.loose)

    whole, cost = at(0.0)
    if cost <= target:
        return whole
    best, least = at(1.0)
    if least > target:
        count = len(scored.names)
        msg = (
            f"the {count} frames may cost {target:.3f} of what they cost whole, and {least:.3f} "
            f"remain with all of them at scale {rules.least_scale} and kept with probability "
            f"{rules.least_keep}: raise training_macs, or lower least_scale or least_keep"
        )
        raise ConfigError(msg)
    weak, strong = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (weak + strong) / 2.0
        made, cost = at(middle)
        if cost <= target:
            best, strong = made, middle
        else:
            weak = middle
    return best
