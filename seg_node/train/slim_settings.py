"""Hyper-parameters of `train slim`, declared once: the command line derives from them."""

from __future__ import annotations

from dataclasses import dataclass

from seg_node.core.types import ConfigError
from seg_node.train.settings import CROP_MULTIPLE, setting, Training

VARIANTS = ("together", "sequential", "data", "network", "neither")
"""What is slimmed; the others are what `together` is compared with."""
COMPLEXITIES = ("boundaries", "gradient", "entropy", "jpeg", "png")
"""Scores of a frame, `complexity.SCORES`: the larger, the more there is to see."""
CRITERIA = ("taylor", "scale")
"""Ways to estimate the importance of a channel; see `network_slimming`."""
FEWEST = 2
"""Samples that every step needs."""


@dataclass(frozen=True)
class SlimTraining(Training):
    """Hyper-parameters of `train slim`.

    Raises:
        ConfigError: a value is out of its range.

    """

    slim: str = setting(
        "together",
        "What is slimmed: data and network together, first data and then network "
        "(sequential), one of them, or neither.",
        choices=VARIANTS,
    )
    training_macs: float = setting(
        0.6, "Training MACs, as a share of as many steps with neither slimmed.", 0.01, 1.0
    )
    inference_macs: float = setting(
        0.6, "MACs of the slimmed network, as a share of the network's.", 0.01, 1.0
    )

    complexity: str = setting(
        "boundaries", "How complexity of a frame is measured.", choices=COMPLEXITIES
    )
    least_scale: float = setting(0.5, "Scale of the simplest frames.", 0.5, 1.0)
    least_keep: float = setting(
        0.5, "Probability that the simplest frames are kept when it is their turn.", 0.1, 1.0
    )
    reweight: float = setting(
        0.5,
        "Loss weight of a frame: its probability to the minus this; 1 makes up for dropping.",
        -4.0,
        1.0,
    )
    whole_share: float = setting(
        0.1, "Share of the steps, at the end, with whole data: what the network is for.", 0.0, 1.0
    )

    criterion: str = setting(
        "taylor", "How importance of a channel is estimated.", choices=CRITERIA
    )
    sparsity: float = setting(
        1e-5, "Weight of the L1 penalty on scales of BatchNorm before the last cut.", 0.0, 1.0
    )
    cuts: int = setting(5, "Number of times that the network gets smaller.", 1, 1000)
    first_cut: float = setting(0.05, "Share of the steps before the first cut.", 0.0, 1.0)
    last_cut: float = setting(0.5, "Share of the steps before the last cut.", 0.0, 1.0)
    least_channels: int = setting(8, "Channels that every layer keeps.", 1, 65536)
    least_share: float = setting(0.25, "Share of its channels that every layer keeps.", 0.0, 1.0)

    def __post_init__(self) -> None:
        """Check every value, and pairs that depend on each other."""
        super().__post_init__()
        if self.batch < FEWEST:
            msg = f"batch is {self.batch}; slimmed data need {FEWEST} or more"
            raise ConfigError(msg)
        if self.first_cut > self.last_cut:
            msg = f"first_cut {self.first_cut} is after last_cut {self.last_cut}; swap them"
            raise ConfigError(msg)

    @property
    def slims_data(self) -> bool:
        """Whether data are slimmed."""
        return self.slim in {"together", "sequential", "data"}

    @property
    def slims_network(self) -> bool:
        """Whether the network is slimmed."""
        return self.slim in {"together", "sequential", "network"}

    def crop_of(self, scale: float) -> tuple[int, int]:
        """Return (width, height) of the crop of frames that are shown at a scale."""
        width, height = (
            max(CROP_MULTIPLE, round(side * scale / CROP_MULTIPLE) * CROP_MULTIPLE)
            for side in self.crop
        )
        return width, height

    def area(self, scale: float) -> float:
        """Return the area of the crop at a scale, as a share of the full crop's."""
        width, height = self.crop_of(scale)
        return width * height / (self.crop_width * self.crop_height)
